"""CSV files with a header row, line by line."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from flax_sepconv.training.datasets.raw import Faults, Place
from flax_sepconv.training.settings import UserError

_SPLITS = {"train": "TRAIN", "validation": "VALIDATION", "test": "TEST"}
Line = tuple[int, list[str]]  # its number in the file, and its cells


class Table:
    """One of them; it is read once, from its start to its end."""

    def __init__(self, file: Path, faults: Faults) -> None:
        """Read the header.

        Args:
          file: in UTF-8, with commas.
          faults: of its lines are noted here.

        Raises:
          UserError: there is no such file, or no header.
        """
        self.file, self._faults = file, faults
        self._lines = self._read()
        self.columns = [name.strip() for name in next(self._lines, (0, []))[1]]
        if not self.columns:
            raise UserError(f"{file} is empty: its first line must name the columns")
        if len(set(self.columns)) < len(self.columns):
            raise UserError(f"{file}, line 1: columns must have different names")

    def _read(self) -> Iterator[Line]:
        try:
            with self.file.open(encoding="utf-8-sig", newline="") as stream:
                reader = csv.reader(stream, strict=True)
                start = 1
                for cells in reader:
                    if cells:
                        yield start, cells
                    start = reader.line_num + 1
        except OSError as error:
            raise UserError(f"cannot read {self.file}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"cannot read {self.file}: it is not text in UTF-8") from error
        except csv.Error as error:
            raise UserError(f"cannot read {self.file}, line {start}: {error}") from error

    def find(self, column: str) -> int | None:
        """Return the place of a column, if it is there."""
        return self.columns.index(column) if column in self.columns else None

    def index(self, column: str, setting: str = "") -> int:
        """Return the place of a column that must be there.

        Raises:
          UserError: it is not; `setting` is the one that names it.
        """
        if column not in self.columns:
            hint = f" ({setting})" if setting else ""
            there = ", ".join(self.columns)
            raise UserError(f"{self.file} has no column {column!r}{hint}; there are: {there}")
        return self.columns.index(column)

    def __iter__(self) -> Iterator[Line]:
        """Iterate over the lines behind the header; those of another width are faults."""
        for line, cells in self._lines:
            if len(cells) == len(self.columns):
                yield line, cells
            else:
                self._faults.note(
                    Place(self.file, line),
                    f"has {len(cells)} cells; the header has {len(self.columns)}",
                )


def split_name(cell: str, place: Place, faults: Faults) -> str | None:
    """Return which part a cell of the column of splits means; None, and a fault, if none."""
    if (part := _SPLITS.get(cell.strip().lower())) is None:
        faults.note(place, f"the split must be one of {', '.join(_SPLITS)}, got {cell[:40]!r}")
    return part


def same_columns(
    columns: Sequence[str], first: Sequence[str], place: Place, faults: Faults
) -> bool:
    """Return whether a file has the columns of the first one; if not, note a fault."""
    if list(columns) == list(first):
        return True
    count = f"the number of channels is {len(columns)}, not {len(first)}"
    names = f"the channels are {', '.join(columns)}, not {', '.join(first)}"
    faults.note(place, f"{count if len(columns) != len(first) else names} as in the first file")
    return False
