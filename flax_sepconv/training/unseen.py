"""Series from files that a run was not given: to score it on them, or to be told their classes."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from flax_sepconv.training.config import UserError


class Series(NamedTuple):
    """What a file holds."""

    ids: list[str]  # N
    series: list[np.ndarray]  # N of (L, C) float64
    labels: list[str] | None  # N; None: it has none


def read(path: Path) -> Series:
    """Return what a .ts file holds; its series are counted from 1.

    Raises:
      UserError: it is not there, is no such file, or holds no series.
    """
    if not path.is_file():
        raise UserError(f"bad arguments: --data: there is no file {str(path)!r}")
    if path.suffix != ".ts":
        raise UserError(f"bad arguments: --data must be a .ts file, got {str(path)!r}")
    from aeon.datasets import load_from_ts_file

    try:
        series, labels, meta = load_from_ts_file(str(path), return_meta_data=True)
    except Exception as error:  # the reader raises anything
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())[:200]}") from error
    if not len(series):
        raise UserError(f"{path} holds no series")
    rows = [np.asarray(values, np.float64).T for values in series]
    ids = [str(number) for number in range(1, len(rows) + 1)]
    known = meta["classlabel"] and not any(label in ("NaN", "nan", "?") for label in labels)
    return Series(ids, rows, [str(label) for label in labels] if known else None)


def numbers(path: Path, labels: list[str] | None, classes: tuple[str, ...]) -> np.ndarray:
    """Return which of the classes the labels of a file name (N,) int32.

    Raises:
      UserError: it has no labels, or others.
    """
    if labels is None:
        raise UserError(f"{path} has no labels, or not all of them: predict does without")
    if unknown := sorted(set(labels) - set(classes)):
        raise UserError(
            f"{path} has classes that the run does not know: {', '.join(unknown)}; it knows "
            f"{', '.join(classes)}"
        )
    return np.array([classes.index(label) for label in labels], np.int32)
