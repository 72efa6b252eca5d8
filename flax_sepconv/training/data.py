"""UCR/UEA series as padded arrays, and the order in which training sees them."""

import dataclasses
import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import grain
import numpy as np

from flax_sepconv.training.config import DataConfig, UserError
from flax_sepconv.training.contents import Contents

Batch = dict[str, np.ndarray]
Rows = slice | np.ndarray  # which of a batch
WHOLE = slice(None)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """What is subtracted from each channel of a series, and what it is then divided by."""

    mean: np.ndarray  # (C,) float64
    deviation: np.ndarray  # (C,) float64

    @classmethod
    def like(cls, points: np.ndarray) -> "Scaling":
        """Return the one that gives each channel of (L, C) mean 0 and deviation 1."""
        return cls(points.mean(0), np.maximum(points.std(0), 1e-8))

    def __call__(self, series: np.ndarray) -> np.ndarray:
        """Apply it to (..., C)."""
        return (series - self.mean) / self.deviation


@dataclasses.dataclass(frozen=True)
class Split:
    """N series of C channels, padded with zeros to one length L."""

    inputs: np.ndarray  # (N, L, C) float32
    lengths: np.ndarray  # (N,) int32, each in 1..L
    labels: np.ndarray  # (N,) int32
    classes: tuple[str, ...]
    scaling: Scaling | None = None  # of every series; None: each has its own
    contents: Contents | None = None  # of the file that it is from

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> "Split":
        """Return the chosen series."""
        return dataclasses.replace(
            self,
            inputs=self.inputs[index],
            lengths=self.lengths[index],
            labels=self.labels[index],
        )


def _folder(config: DataConfig) -> Path:
    if config.path:
        return Path(config.path).expanduser()
    spec = importlib.util.find_spec("aeon")
    if spec is None or spec.origin is None:
        raise UserError("the data sets come with aeon, which is not installed: pip install aeon")
    return Path(spec.origin).parent / "datasets" / "data"


def _read(config: DataConfig, part: str) -> tuple[list[np.ndarray], list[str], tuple[str, ...]]:
    try:
        folder = _folder(config)
        file = folder / config.name / f"{config.name}_{part}.ts"
        there = file.is_file() or sorted(p.parent.name for p in folder.glob(f"*/*_{part}.ts"))
    except (OSError, RuntimeError, ValueError) as error:  # No system has such names, or no user.
        raise UserError(f"cannot look for data set {config.name!r}: {error}") from error
    if there is not True:
        raise UserError(
            f"no data set {config.name!r}: {file} does not exist; "
            f"found in {folder}: {', '.join(there) or 'none'}"
        )
    from aeon.datasets import load_from_ts_file

    try:
        series, labels, meta = load_from_ts_file(str(file), return_meta_data=True)
    except Exception as error:  # the reader raises anything
        raise UserError(f"cannot read {file}: {' '.join(str(error).split())[:200]}") from error
    if not len(series):
        raise UserError(f"{file} holds no series")
    if not meta["classlabel"]:
        raise UserError(f"data set {config.name!r} has no class labels: it is not classification")
    return [np.asarray(s, np.float64).T for s in series], list(labels), tuple(meta["class_values"])


def _scaling(series: list[np.ndarray], how: str) -> Scaling | None:
    """Return what standardises every series as the training ones; None: each has its own."""
    if how == "series":
        return None
    points = np.concatenate(series)
    if how == "none":
        return Scaling(np.zeros(points.shape[1]), np.ones(points.shape[1]))
    return Scaling.like(points)


def load(config: DataConfig) -> tuple[Split, Split]:
    """Return the training and the test split, standardised and padded to one common length.

    Statistics come from the training split alone. Padding is zero and inert: the model masks it.

    Raises:
      UserError: the set is missing, unreadable, unlabelled, has gaps, or its parts do not match.
    """
    raw = {part: _read(config, part) for part in ("TRAIN", "TEST")}
    train_series, _, classes = raw["TRAIN"]
    width = train_series[0].shape[1]
    longest = max(len(s) for series, _, _ in raw.values() for s in series)
    scaling = _scaling(train_series, config.standardize)
    splits = []
    for part, (series, labels, _) in raw.items():
        if any(s.shape[1] != width for s in series):
            raise UserError(f"{config.name}_{part}.ts: the number of channels varies")
        if not all(np.isfinite(s).all() for s in series):
            raise UserError(f"{config.name}_{part}.ts has missing values, which are not supported")
        if unknown := sorted(set(labels) - set(classes)):
            raise UserError(f"{config.name}_{part}.ts has labels not declared: {unknown}")
        inputs = np.zeros((len(series), longest, width), np.float32)
        for row, values in zip(inputs, series, strict=True):
            row[: len(values)] = (scaling or Scaling.like(values))(values)
        splits.append(
            Split(
                inputs,
                np.array([len(s) for s in series], np.int32),
                np.array([classes.index(label) for label in labels], np.int32),
                classes,
                scaling,
                Contents.of(series, labels),
            )
        )
    return splits[0], splits[1]


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Return (rest, held out): `fraction` of every class, drawn with `seed`.

    Raises:
      UserError: nothing is left of one of them.
    """
    rng = np.random.default_rng(seed)
    held = np.zeros(len(split), bool)
    for label in np.unique(split.labels):
        members = rng.permutation(np.flatnonzero(split.labels == label))
        held[members[: round(fraction * len(members))]] = True
    if held.all() or not held.any():
        raise UserError(
            f"config.data.validation_fraction must leave series on both sides, got {fraction}: it "
            f"keeps {held.sum()} of {len(split)} out"
        )
    return split.take(np.flatnonzero(~held)), split.take(np.flatnonzero(held))


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Return how many full batches an epoch has; what is left over differs every epoch."""
    return max(1, len(split) // batch_size)


class _ShuffledBatches:
    """Batch number `step` of an endless run, from the seed and the number alone.

    A random-access source of whole batches: grain's own `shuffle` costs 0.13 ms an example,
    several times the training step of a small network.
    """

    def __init__(self, split: Split, batch_size: int, seed: int, steps: int, rows: Rows) -> None:
        self._split, self._seed, self._steps, self._rows = split, seed, steps, rows
        self._size = min(batch_size, len(split))
        self._per_epoch = steps_per_epoch(split, batch_size)
        self._order = functools.lru_cache(maxsize=2)(self._permutation)

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self._seed, epoch)).permutation(len(self._split))

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        epoch, place = divmod(int(step), self._per_epoch)
        index = self._order(epoch)[place * self._size : (place + 1) * self._size][self._rows]
        split = self._split
        return {
            "inputs": split.inputs[index],
            "lengths": split.lengths[index],
            "labels": split.labels[index],
        }


def train_batches(
    split: Split, batch_size: int, seed: int, start: int, stop: int, rows: Rows = WHOLE
) -> Iterator[Batch]:
    """Iterate over the batches of steps `start` to `stop`, prefetched by a thread.

    The batch of a step depends on `seed` and the step's number only, so that a resumed run sees
    what the uninterrupted one would have seen. `rows` are those of it that are wanted here.
    """
    source = grain.MapDataset.source(_ShuffledBatches(split, batch_size, seed, stop, rows))
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
    return iter(source[start:].to_iter_dataset(options))


def eval_batches(split: Split, batch_size: int, rows: Rows = WHOLE) -> Iterator[Batch]:
    """Iterate over a split in order; the last batch repeats a series with ``valid`` False.

    Every batch has the same shape, so that one compilation serves them all. `rows` are those of
    each that are wanted here.
    """
    for start in range(0, len(split), batch_size):
        index = np.arange(start, start + batch_size)[rows]
        chosen = split.take(np.minimum(index, len(split) - 1))
        yield {
            "inputs": chosen.inputs,
            "lengths": chosen.lengths,
            "labels": chosen.labels,
            "valid": index < len(split),
        }
