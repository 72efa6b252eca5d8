"""The rows of metrics.jsonl, whatever has become of them."""

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]

_KEYS = ("step", "epoch", "time", "loss", "steps_per_second", "examples_per_second")


def score_of(row: Row) -> str:
    """Return the name of what a row has beside the loss: "accuracy" or "standardized_mae"."""
    return "accuracy" if "accuracy" in row else "standardized_mae"


def _row(line: bytes) -> Row | None:
    """Return the row that a line is, if it is one."""
    try:
        row = json.loads(line)
        keys = [*_KEYS, score_of(row)]
        if all(math.isfinite(row[key]) for key in keys) and type(row["step"]) is int:
            floats = [
                v for v in row.values() if not isinstance(v, int | float) or isinstance(v, bool)
            ]
            return None if floats else row
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        pass
    return None


class Rows(NamedTuple):
    """The rows up to a step; how many there should be, and which lines are no rows."""

    good: list[Row]
    wanted: int
    bad: list[int]

    def trouble(self) -> str:
        """Say what is wrong with them; "" if nothing is."""
        said = []
        if self.bad:
            count = (
                "1 line is no row" if len(self.bad) == 1 else f"{len(self.bad)} lines are no rows"
            )
            said.append(f"{count} (line {self.bad[0]})")
        if lacking := self.wanted - len(self.good):
            said.append(f"{lacking} of {self.wanted} rows are not there")
        return " and ".join(said)


def read_rows(file: Path, wanted: Collection[int], until_step: int) -> Rows:
    """Return the recorded rows up to a step.

    What a crash leaves is nothing bad: rows behind that step, and a last line cut short.

    Args:
      file: metrics.jsonl; it need not exist.
      wanted: the steps that have a row, in order.
      until_step: where the run is to go on.
    """
    *lines, rest = file.read_bytes().split(b"\n") if file.exists() else [b""]
    known, found = frozenset(wanted), dict[int, Row]()
    bad = []
    for number, line in enumerate([*lines, rest], 1):
        row = _row(line)
        if row is not None and row["step"] not in found and row["step"] in known:
            found[row["step"]] = row
        elif number <= len(lines) and (row is None or row["step"] <= until_step):
            bad.append(number)
    return Rows([found[step] for step in wanted if step in found], len(wanted), bad)
