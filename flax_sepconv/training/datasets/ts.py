"""The files .ts of aeon and sktime; aeon reads them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flax_sepconv.training.config import DataConfig
from flax_sepconv.training.datasets.places import Files
from flax_sepconv.training.datasets.raw import MISSING, Faults, Part, Parts, Place
from flax_sepconv.training.settings import UserError


def read(files: Files, config: DataConfig, faults: Faults, *, is_labelled: bool = True) -> Parts:
    """Return what the files hold; without `is_labelled` labels need not be there.

    Raises:
      UserError: a file is not readable, or holds what does not suit the task.
    """
    if config.task == "multilabel":
        raise UserError(
            "files .ts have one label for each series: for config.data.task=multilabel store the "
            "data as csv or npz"
        )
    return {
        part: _read_part(file, config, faults, is_labelled) for part, file in files.paths.items()
    }


def _read_part(file: Path, config: DataConfig, faults: Faults, is_labelled: bool) -> Part:
    from aeon.datasets import load_from_ts_file

    try:
        found, labels, meta = load_from_ts_file(str(file), return_meta_data=True)
    except Exception as error:  # the reader raises anything
        if not _note_wrong_lines(file, faults):
            raise UserError(f"cannot read {file}: {' '.join(str(error).split())[:200]}") from error
        return Part(file.name, [], [], [], [])
    if not len(found):
        raise UserError(f"{file} holds no series")
    if not is_labelled:
        labels = labels if len(labels) else [""] * len(found)
    elif config.task == "classification" and not meta["classlabel"]:
        hint = ": set config.data.task=regression" if meta["targetlabel"] else ""
        raise UserError(f"{file} has no class labels, so that it is not classification{hint}")
    elif config.task == "regression" and not (meta["classlabel"] or meta["targetlabel"]):
        raise UserError(f"{file} has no targets")
    series, names, places, ids = [], [], [], []
    lines = (number for number, _ in _lines(file))
    for number, (values, label, line) in enumerate(zip(found, labels, lines, strict=True), 1):
        place = Place(file, line)
        if np.isfinite(values).all():
            series.append(np.asarray(values, np.float64).T)
            names.append(str(label))
            places.append(place)
            ids.append(str(number))
        else:
            faults.note(
                place, MISSING if np.isnan(values).any() else "has values that are infinite"
            )
    declared = tuple(meta["class_values"]) if config.task == "classification" else None
    return Part(file.name, series, names, places, ids, declared)


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Iterate over the lines that are series, with their numbers in the file."""
    with file.open(encoding="utf-8") as stream:
        is_data = False
        for number, line in enumerate(stream, 1):
            if is_data:
                yield number, line.strip().lower()
            elif line.strip().lower().startswith("@data"):
                is_data = True


def _note_wrong_lines(file: Path, faults: Faults) -> bool:
    """Look for lines that keep the reader from reading a file, and return whether there are any."""
    before, width = len(faults), 0
    try:
        for number, line in _lines(file):
            *channels, _ = line.split(":")
            width = width or len(channels)
            problem = ""
            if len(channels) != width:
                problem = f"the number of channels is {len(channels)}, not {width} as before"
            elif len({channel.count(",") for channel in channels}) > 1:
                problem = "the channels are not equally long"
            else:
                words = (word for channel in channels for word in channel.split(","))
                if bad := next((word for word in words if not _is_number(word)), None):
                    problem = f"cannot read {bad.strip()[:40]!r} as a number"
            if problem:
                faults.note(Place(file, number), problem)
    except (OSError, UnicodeDecodeError):
        return False
    return len(faults) > before


def _is_number(word: str) -> bool:
    try:
        float(word.replace("?", "nan"))
    except ValueError:
        return False
    return True
