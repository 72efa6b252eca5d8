"""What was measured, as text."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from flax_sepconv.ops.choices.table import DEFAULT, Row, Table
from flax_sepconv.ops.tuning.programs import STOCK

# The load average from which others make times too long.
BUSY = 0.5

HEAD = (
    f"{'milliseconds':58}{'default':>10}{'best':>10}  {'':13}{'stock':>10}"
    f"{'best/copy':>11}{'best/matmul':>12}"
)


def busy() -> str | None:
    """Say so where others use the machine."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load <= BUSY:
        return None
    return f"others are using this machine (load average {load:.1f}): times are not to be trusted"


def line(row: Row) -> str:
    """Return the line of a row, and below it what declined, failed or was wrong."""
    times = {n: f["milliseconds"] for n, f in row.candidates.items() if "milliseconds" in f}
    best = min((n for n in times if n != STOCK), key=lambda name: times[name], default=None)
    what = f"{row.of.program} {row.of.dtype} {row.problem}"
    cells = f"{_cell(times.get(DEFAULT))}{_cell(times.get(best or ''))}  {best or '-':13}"
    ceilings = f"{'-':>11}{'-':>12}"
    if best is not None:
        facts = row.candidates[best]
        ceilings = f"{facts['over_copy']:>10.2f}x{facts['over_matmul']:>11.2f}x"
    return f"{what:58}{cells}{_cell(times.get(STOCK))}{ceilings}" + "".join(
        f"\n    {trouble}" for trouble in troubles(row)
    )


def troubles(row: Row) -> list[str]:
    """Say who was wrong or failed."""
    found = []
    for name, facts in row.candidates.items():
        if "wrong" in facts:
            found.append(f"{name} is WRONG: {'; '.join(facts['wrong'])}")
        elif "failed" in facts:
            found.append(f"{name} FAILED: {facts['failed']}")
    return found


def declined(rows: Sequence[Row]) -> list[str]:
    """Say why lowerings declined, a line for each reason."""
    reasons = {
        f"{name} declines: {facts['declined']}": None
        for row in rows
        for name, facts in row.candidates.items()
        if "declined" in facts
    }
    return list(reasons)


def summary(table: Table, new: Sequence[Row]) -> str:
    """Say what the table makes of it, and how to report what was wrong."""
    chosen = [row.choice for row in new if row.choice != DEFAULT]
    counts = ", ".join(f"{name} {chosen.count(name)} times" for name in dict.fromkeys(chosen))
    lines = [
        f"of {len(new)} rows the default stays in {len(new) - len(chosen)}"
        + (f"; instead of it: {counts}" if chosen else ""),
        f"written to {table.path} ({len(table.rows)} rows); programs that are lowered for "
        f"{table.devices[0]} from the next process on go by it",
    ]
    wrong = {name: row for row in table.rows for name in row.wrong()}
    if wrong:
        names = ", ".join(wrong)
        lines.append(
            f"WRONG on this device, and never taken on it by default from now on: {names}. Please "
            f"report it to flax_sepconv's maintainers; the file {table.path} is the report"
        )
    return "\n".join(lines)


def _cell(milliseconds: float | None) -> str:
    return f"{'-':>10}" if milliseconds is None else f"{milliseconds:10.4g}"


def facts_of(rates: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the rates of a device by dtype as a table has them."""
    return {
        dtype: {
            "copy_gigabytes_per_second": 1e-9 * each.copy,
            "matmul_teraflops": 1e-12 * each.matmul,
        }
        for dtype, each in rates.items()
    }
