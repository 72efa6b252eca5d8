"""What the files of a data set hold, before anything is standardised, and what is wrong in them."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flax_sepconv.training.settings import UserError

MISSING = "has missing values, which are not supported"


class Place(NamedTuple):
    """Where something is written: a file, and its line, counted from 1, where it has lines."""

    file: Path
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}" if self.line else str(self.file)


class Fault(NamedTuple):
    """One thing in a file that makes training impossible."""

    place: Place
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class Faults(list[Fault]):
    """What was found while files were read: a reader notes a fault and goes on behind it."""

    def note(self, place: Place, text: str) -> None:
        """Add one."""
        self.append(Fault(place, text))

    def refuse(self) -> None:
        """Raise if there are any.

        Raises:
          UserError: the first one, and how many more there are.
        """
        if self:
            more = f" (and {len(self) - 1} more: validate-data lists them)" if self[1:] else ""
            raise UserError(f"{self[0]}{more}")


@dataclasses.dataclass(frozen=True)
class Part:
    """N series of one split, as they are written."""

    source: str  # what a message calls it
    series: list[np.ndarray]  # N of (L, C) float64, finite
    labels: list[str]  # N; of a set of labels their names with | between them; "" where none is
    places: list[Place]  # N; where the labels are
    ids: list[str]  # N; what each is called, or its number, from 1
    classes: tuple[str, ...] | None = None  # that are declared, in their order
    channels: tuple[str, ...] = ()  # their names; none: they have none

    def take(self, chosen: np.ndarray, source: str) -> "Part":
        """Return some of the series, under another name."""
        return dataclasses.replace(
            self,
            source=source,
            series=[self.series[i] for i in chosen],
            labels=[self.labels[i] for i in chosen],
            places=[self.places[i] for i in chosen],
            ids=[self.ids[i] for i in chosen],
        )


# By the names TRAIN, TEST and VALIDATION; or one part ALL, of data that are not split.
Parts = dict[str, Part]
ALL = "ALL"
NAMES = ("TRAIN", "VALIDATION", "TEST")


def numbers(
    cells: Sequence[str], columns: Sequence[object], place: Place, faults: Faults
) -> list[float] | None:
    """Return what the cells of a line say; None, and a fault, if one is no finite number."""
    try:
        values = [float(cell) for cell in cells]
        if all(map(math.isfinite, values)):
            return values
    except ValueError:
        pass
    for cell, column in zip(cells, columns, strict=True):
        if problem := _problem(cell):
            faults.note(place, f"{problem} (column {column!r})")
            break
    return None


def block(
    rows: Sequence[Sequence[str]],
    lines: Sequence[int],
    columns: Sequence[object],
    file: Path,
    faults: Faults,
) -> np.ndarray | None:
    """Return what the cells of many lines say (L, C); None, and faults, if some are no numbers."""
    try:
        values = np.array([list(map(float, row)) for row in rows], np.float64)
        if np.isfinite(values).all():
            return values
    except ValueError:
        pass
    for row, line in zip(rows, lines, strict=True):
        numbers(row, columns, Place(file, line), faults)
    return None


def _problem(cell: str) -> str:
    """Say why a cell is no finite number; "" if it is one."""
    text = cell.strip()
    if text.lower() in ("", "?", "nan", "na", "null", "none"):
        return MISSING
    try:
        return "" if math.isfinite(float(text)) else f"{text} is not finite"
    except ValueError:
        return f"cannot read {text[:40]!r} as a number"
