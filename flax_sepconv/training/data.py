"""Data sets as padded arrays, and the order in which training sees them."""

import functools
from collections.abc import Iterator

import grain
import numpy as np

from flax_sepconv.training.config import DataConfig, UserError
from flax_sepconv.training.console import say
from flax_sepconv.training.contents import Contents
from flax_sepconv.training.datasets import formats, labels
from flax_sepconv.training.datasets.raw import Faults, Parts
from flax_sepconv.training.splits import Scaling, Split, Splits

Batch = dict[str, np.ndarray]
Rows = slice | np.ndarray  # which of a batch
WHOLE = slice(None)


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
    splits = _load(config)
    return splits.train, splits.test


def load_splits(config: DataConfig, seed: int) -> Splits:
    """Return the same, with the validation split: that of the data, or one drawn with `seed`.

    Raises:
      UserError: as for `load`; or one is drawn though the data have one.
    """
    splits = _load(config)
    if not config.validation_fraction:
        return splits
    if splits.validation is not None:
        raise UserError(
            f"{splits.validation.source}: the data have a validation split, so that "
            f"config.data.validation_fraction must be 0, got {config.validation_fraction}"
        )
    rest, held = hold_out(splits.train, config.validation_fraction, seed)
    return Splits(rest, held, splits.test)


def _load(config: DataConfig) -> Splits:
    faults = Faults()
    files, parts = formats.read(config, faults)
    faults.refuse()
    parts, said = labels.divided(parts, config)
    if said:
        say(said)
    check_channels(parts, faults)
    classes, targets = labels.encode(config.task, parts, faults)
    faults.refuse()
    train = parts["TRAIN"]
    scaling = _scaling(train.series, config.standardize)
    target_scaling = None
    if config.task == "regression":
        values = targets["TRAIN"][:, None]
        target_scaling = Scaling.like(values)
        targets = {name: target_scaling(t[:, None])[:, 0] for name, t in targets.items()}
    longest = max(len(s) for part in parts.values() for s in part.series)
    splits: dict[str, Split] = {}
    for name, part in parts.items():
        inputs = np.zeros((len(part.series), longest, train.series[0].shape[1]), np.float32)
        for row, values in zip(inputs, part.series, strict=True):
            row[: len(values)] = (scaling or Scaling.like(values))(values)
        # Of one record are all series that training reads: a changed validation split is noticed.
        noted = [part, *(v for k, v in parts.items() if (name, k) == ("TRAIN", "VALIDATION"))]
        splits[name] = Split(
            inputs,
            np.array([len(s) for s in part.series], np.int32),
            targets[name].astype(np.int32 if config.task == "classification" else np.float32),
            classes,
            scaling,
            Contents.of(
                [series for one in noted for series in one.series],
                [label for one in noted for label in one.labels],
            ),
            target_scaling,
            files.name,
            part.source,
            part.channels,
        )
    return Splits(splits["TRAIN"], splits.get("VALIDATION"), splits["TEST"])


def check_channels(parts: Parts, faults: Faults) -> None:
    """Note the series that have another number of channels than the first one."""
    width = parts["TRAIN"].series[0].shape[1]
    for part in parts.values():
        for series, place in zip(part.series, part.places, strict=True):
            if series.shape[1] != width:
                text = f"the number of channels is {series.shape[1]}, not {width} as in training"
                faults.note(place, text)


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Return (rest, held out): `fraction` of every class, or of all values, drawn with `seed`.

    Raises:
      UserError: nothing is left of one of them.
    """
    rng = np.random.default_rng(seed)
    held = np.zeros(len(split), bool)
    is_class = split.labels.dtype.kind == "i"
    strata = split.labels if is_class else np.zeros(len(split))
    for label in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == label))
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
