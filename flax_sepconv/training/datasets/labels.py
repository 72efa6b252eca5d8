"""Labels as words made targets as numbers, and series without a split divided by them."""

import contextlib
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from flax_sepconv.training.config import DataConfig, TaskName
from flax_sepconv.training.datasets.raw import ALL, Faults, Part, Parts, Place
from flax_sepconv.training.settings import UserError


class Encoded(NamedTuple):
    """The targets of all parts."""

    classes: tuple[str, ...]  # names of the outputs
    targets: dict[str, np.ndarray]  # (N,) int32; (N,) float64; (N, labels) float32


def names_of(label: str) -> list[str]:
    """Return the names in a set of labels.

    >>> names_of("walking|indoors")
    ['walking', 'indoors']
    """
    return [name.strip() for name in label.split("|") if name.strip()]


def known_classes(task: TaskName, train: Part) -> tuple[str, ...]:
    """Return the names of what a network is to tell apart: those declared, or those in training."""
    if task == "regression":
        return ("value",)
    if train.classes is not None:
        return train.classes
    several = task == "multilabel"
    found = {name for label in train.labels for name in (names_of(label) if several else [label])}
    return tuple(sorted(found - {""}, key=rank))


def rank(name: str) -> tuple[float, str]:
    """Return what names are sorted by: numbers as numbers, and before all else words.

    >>> sorted(["b", "10", "9", "a"], key=rank)
    ['9', '10', 'a', 'b']
    """
    try:
        value = float(name)
    except ValueError:
        return np.inf, name
    return (np.inf, name) if np.isnan(value) else (value, name)


def encode(task: TaskName, parts: Parts, faults: Faults) -> Encoded:
    """Return the targets; labels that will not do are noted as faults."""
    classes = known_classes(task, parts["TRAIN"])
    targets = {name: encode_part(task, part, classes, faults) for name, part in parts.items()}
    values = targets["TRAIN"]
    if task == "regression" and values.min() == values.max():
        file = parts["TRAIN"].places[0].file
        faults.note(Place(file), f"the target of all training series is {values[0]:g}")
    return Encoded(classes, targets)


def encode_part(task: TaskName, part: Part, classes: tuple[str, ...], faults: Faults) -> np.ndarray:
    """Return the targets of one part; see `encode`."""
    if task == "regression":
        values = values_of(part)
        for place, label, value in zip(part.places, part.labels, values, strict=True):
            if np.isnan(value):
                faults.note(place, f"the target must be a finite number, got {label!r}")
        return values
    number = {name: i for i, name in enumerate(classes)}
    several = task == "multilabel"
    rows = np.zeros((len(part.labels), len(classes) if several else 1), np.int32)
    for row, label, place in zip(rows, part.labels, part.places, strict=True):
        names = names_of(label) if several else [label]
        for name in names:
            if name not in number:
                why = "is not declared" if part.classes is not None else "is in no training series"
                what = f"label {name!r} {why}; there are {', '.join(classes)}"
                faults.note(place, what if name else "has no label")
            elif several:
                row[number[name]] = 1
            else:
                row[0] = number[name]
    return rows.astype(np.float32) if several else rows[:, 0]


def values_of(part: Part) -> np.ndarray:
    """Return the labels as numbers (N,) float64; NaN where one is no finite number."""
    values = np.full(len(part.labels), np.nan)
    for index, label in enumerate(part.labels):
        with contextlib.suppress(ValueError):
            values[index] = float(label)
    return np.where(np.isfinite(values), values, np.nan)


def divided(parts: Parts, config: DataConfig) -> tuple[Parts, str]:
    """Return series that have no split divided into TRAIN and TEST, and a line that says so.

    Of each class `config.test_fraction` is drawn for the test; of values and of sets of labels that
    part of the whole. Data that have a split are returned as they are, with "".

    Raises:
      UserError: nothing is left on one of the sides.
    """
    if ALL not in parts:
        return parts, ""
    whole = parts[ALL]
    strata = defaultdict(list)
    for index, label in enumerate(whole.labels):
        strata[label if config.task == "classification" else ""].append(index)
    rng = np.random.default_rng(config.split_seed)
    held = np.zeros(len(whole.labels), bool)
    for label in sorted(strata):
        members = rng.permutation(strata[label])
        held[members[: round(config.test_fraction * len(members))]] = True
    if held.all() or not held.any():
        raise UserError(
            "config.data.test_fraction must leave series on both sides, got "
            f"{config.test_fraction}: it keeps {held.sum()} of {len(held)} for the test"
        )
    said = (
        f"{whole.source} has no split: {held.sum()} of its {len(held)} series are drawn for the "
        f"test (config.data.test_fraction={config.test_fraction}, split_seed={config.split_seed})"
    )
    return {
        "TRAIN": whole.take(np.flatnonzero(~held), f"{whole.source}, drawn for training"),
        "TEST": whole.take(np.flatnonzero(held), f"{whole.source}, drawn for the test"),
    }, said
