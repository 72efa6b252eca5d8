"""NumPy's archives .npz: inputs, labels and, where the series are not equally long, lengths."""

import zipfile
from pathlib import Path

import numpy as np

from flax_sepconv.training.config import DataConfig
from flax_sepconv.training.datasets.places import Files
from flax_sepconv.training.datasets.raw import MISSING, Faults, Part, Parts, Place
from flax_sepconv.training.settings import UserError

_ARRAYS = ("inputs", "labels", "lengths", "label_names")


def read(files: Files, config: DataConfig, faults: Faults, *, is_labelled: bool = True) -> Parts:
    """Return what the files hold; without `is_labelled` labels need not be there.

    Raises:
      UserError: a file is not readable, or its arrays do not suit one another or the task.
    """
    return {
        part: _read_part(file, config, faults, is_labelled) for part, file in files.paths.items()
    }


def _arrays(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an archive. No pickle is read: it may run any program."""
    try:
        # Opened here: NumPy leaves a damaged archive open.
        with file.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise UserError(f"{file} is one array and no archive: write it by numpy.savez")
            if unknown := sorted(set(archive.files) - set(_ARRAYS)):
                known = ", ".join(_ARRAYS)
                raise UserError(f"{file}: array {unknown[0]!r} is unknown; there may be: {known}")
            return {name: _array(archive, name, file) for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read {file} as an archive of numpy.savez: {text}") from error


def _array(archive: "np.lib.npyio.NpzFile", name: str, file: Path) -> np.ndarray:
    try:
        array: np.ndarray = archive[name]
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        if name == "inputs":
            how = "pad the series to one array (N, L, C), and give their lengths as 'lengths' (N,)"
        else:
            how = "store it as numbers or as strings (dtype str)"
        raise UserError(
            f"{file}: array {name!r} has dtype object, which only a pickle can hold, and pickles "
            f"are not loaded: {how}"
        ) from error
    return array


def _check(name: str, holds: bool, rule: str, array: np.ndarray, file: Path) -> None:
    if not holds:
        raise UserError(f"{file}: {name} must be {rule}, got {array.dtype} {array.shape}")


def _read_part(file: Path, config: DataConfig, faults: Faults, is_labelled: bool) -> Part:
    arrays = _arrays(file)
    for name in ("inputs", "labels") if is_labelled else ("inputs",):
        if name not in arrays:
            raise UserError(f"{file} has no array {name!r}; it has: {', '.join(arrays) or 'none'}")
    inputs = arrays["inputs"]
    holds = inputs.ndim in (2, 3) and inputs.dtype.kind in "fiu" and 0 not in inputs.shape[1:]
    _check("inputs", holds, "numbers (N, L, C) or (N, L)", inputs, file)
    inputs = inputs.reshape(*inputs.shape[:2], -1)
    count, longest, _ = inputs.shape
    lengths = arrays.get("lengths", np.full(count, longest))
    holds = lengths.shape == (count,) and lengths.dtype.kind in "iu"
    _check("lengths", holds, f"integers ({count},)", lengths, file)
    labels = _labels(arrays, count, config, file) if "labels" in arrays else [""] * count
    part = Part(file.name, [], [], [], [])
    for index, (values, length, label) in enumerate(zip(inputs, lengths, labels, strict=True)):
        place = Place(file)
        if not 1 <= length <= longest:
            faults.note(place, f"lengths[{index}] must be in 1..{longest}, got {length}")
            continue
        series = values[:length].astype(np.float64)
        if not np.isfinite(series).all():
            step, channel = np.argwhere(~np.isfinite(series))[0]
            value = f"inputs[{index}, {step}, {channel}]"
            nan = np.isnan(series[step, channel])
            faults.note(
                place, f"{value} is NaN: the series {MISSING}" if nan else f"{value} is not finite"
            )
            continue
        part.series.append(series)
        part.labels.append(label)
        part.places.append(place)
        part.ids.append(str(index + 1))
    return part


def _labels(arrays: dict[str, np.ndarray], count: int, config: DataConfig, file: Path) -> list[str]:
    """Return the labels as words; those of several a series with | between them."""
    labels = arrays["labels"]
    if config.task != "multilabel":
        if "label_names" in arrays:
            raise UserError(f"{file}: label_names are for config.data.task=multilabel")
        holds = labels.shape == (count,) and labels.dtype.kind in "iufUb"
        _check("labels", holds, f"numbers or strings ({count},)", labels, file)
        return [str(label) for label in labels.tolist()]
    holds = labels.ndim == 2 and len(labels) == count and labels.dtype.kind in "iufb"
    _check(
        "labels",
        holds and bool(np.isin(labels, (0, 1)).all()),
        f"0 or 1 ({count}, labels)",
        labels,
        file,
    )
    names = arrays.get("label_names", np.arange(labels.shape[1]).astype(str))
    holds = names.shape == labels.shape[1:] and names.dtype.kind == "U"
    _check("label_names", holds, f"strings ({labels.shape[1]},)", names, file)
    words = names.tolist()
    if len(set(words)) < len(words) or any(not word or "|" in word for word in words):
        raise UserError(f"{file}: label_names must be different, not empty, and without '|'")
    return [
        "|".join(word for word, holds in zip(words, row, strict=True) if holds) for row in labels
    ]
