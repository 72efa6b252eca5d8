"""The results as text."""

from collections.abc import Mapping, Sequence
from typing import Any

KINDS = ("right", "declined", "wrong", "failed")
SHORT = {
    "y forward": "y",
    "y": "y",
    "dx": "dx",
    "d_depthwise_kernel": "dk",
    "d_pointwise_kernel": "dp",
    "d_bias": "db",
}

Row = Mapping[str, Any]


def kind(row: Row) -> str:
    """Tell whether a row is "right", "declined", "wrong" or "failed".

    Example:
        >>> kind({"errors": {"y": 0.0}}), kind({"errors": {"y": 1.0}, "wrong": ["y is off"]})
        ('right', 'wrong')
    """
    return next((each for each in KINDS[1:] if each in row), "right")


def tell(row: Row, told: set[str]) -> None:
    """Print a row, under its problem; why a lowering declines is told once."""
    reason = f"{row['lowering']}: {row.get('declined')}"
    if row["problem"] not in told:
        print(row["problem"])
    if "declined" not in row or reason not in told:
        print(line(row), flush=True)
    told |= {row["problem"], reason}


def line(row: Row) -> str:
    """Return a line on what a lowering made of a problem."""
    made = kind(row)
    told = {
        "right": lambda: ", ".join(f"{SHORT[n]} {off:.0e}" for n, off in row["errors"].items()),
        "wrong": lambda: f"WRONG: {'; '.join(row['wrong'])}",
        "failed": lambda: f"FAILED: {row['failed']}",
        "declined": lambda: f"declines: {row['declined']}",
    }[made]()
    return f"  {row['dtype']:9} {row['lowering']:13} {told}"


def title(row: Row) -> str:
    """Name a row."""
    return f"{row['lowering']}, {row['dtype']}: {row['problem']}"


def verdict(rows: Sequence[Row]) -> str:
    """Count all rows by kind, and name those that are wrong or failed."""
    kinds = [kind(row) for row in rows]
    counts = ", ".join(f"{kinds.count(each)} {each}" for each in KINDS)
    bad = [
        f"  {made}: {title(row)}"
        for made, row in zip(kinds, rows, strict=True)
        if made in ("wrong", "failed")
    ]
    return "\n".join([f"\n{len(rows)} rows: {counts}", *bad])


def left_out(rows: Sequence[Row]) -> str:
    """Name what was not tried, a line for each problem."""
    grouped: dict[str, list[str]] = {}
    for row in rows:
        grouped.setdefault(row["problem"], []).append(f"{row['lowering']} {row['dtype']}")
    lines = [f"  {problem}: {', '.join(those)}" for problem, those in grouped.items()]
    return "\n".join([f"not tried, {len(rows)} rows:", *lines])
