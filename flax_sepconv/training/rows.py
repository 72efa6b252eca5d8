"""The rows of metrics.jsonl, whatever has become of them."""

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_KEYS = ("step", "epoch", "time", "loss", "accuracy", "steps_per_second", "examples_per_second")


def _row(line: bytes) -> Row | None:
    """Return the row that a line is, if it is one."""
    try:
        row = json.loads(line)
        if all(math.isfinite(row[key]) for key in _KEYS) and type(row["step"]) is int:
            floats = [
                v for v in row.values() if not isinstance(v, int | float) or isinstance(v, bool)
            ]
            return None if floats else row
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        pass
    return None


def read_rows(file: Path, wanted: Collection[int], until_step: int) -> tuple[list[Row], str]:
    """Return the recorded rows up to a step, and in words what is wrong with them.

    What a crash leaves is not wrong: rows behind that step, and a last line cut short.

    Args:
      file: metrics.jsonl; it need not exist.
      wanted: the steps that have a row, in order.
      until_step: where the run is to go on.
    """
    *lines, rest = file.read_bytes().split(b"\n") if file.exists() else [b""]
    found: dict[int, Row] = {}
    known = frozenset(wanted)
    bad = []
    for number, line in enumerate(lines, 1):
        row = _row(line)
        if row is not None and row["step"] > until_step:
            continue
        if row is None or row["step"] in found or row["step"] not in known:
            bad.append(number)
        else:
            found[row["step"]] = row
    if (row := _row(rest)) and row["step"] in known:
        found.setdefault(row["step"], row)
    rows = [found[step] for step in wanted if step in found]
    trouble = [f"line {bad[0]} is no row"] if len(bad) == 1 else []
    if len(bad) > 1:
        trouble = [f"{len(bad)} lines are no rows, the first is line {bad[0]}"]
    if len(rows) < len(wanted):
        trouble.append(f"{len(wanted) - len(rows)} of {len(wanted)} rows are missing")
    return rows, " and ".join(trouble)
