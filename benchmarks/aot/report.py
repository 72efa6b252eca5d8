"""The results as text, and the ratios that they come to."""

from collections.abc import Mapping
from typing import Any

Facts = Mapping[str, Any]


def row(target: str, record: Facts) -> str:
    """Return the lines of one program: a line for each candidate."""
    head = f"{target} {record['workload']} {record['dtype']} {record['program']}"
    lines = [f"{head}: {record['shape']}"]
    for name, facts in record["candidates"].items():
        if "declined" in facts:
            lines.append(f"  {name:14}declines: {facts['declined']}")
        else:
            lines.append(f"  {name:14}{_line(facts)}")
    return "\n".join(lines)


def _line(facts: Facts) -> str:
    return (
        f"{facts['bytes'] / facts['ideal_bytes']:6.2f} x ideal bytes"
        f"{facts['roof_microseconds']:10.1f} us roof{facts['launches']:5d} launches"
        f"{facts['temporary_bytes'] / 2**20:8.0f} MiB temporary"
        f"{facts['compile_seconds']:7.1f} s to compile"
    )


def ratio(record: Facts, key: str, name: str = "selected") -> float | None:
    """Return a candidate's figure over stock's, where both were compiled."""
    ours, stock = (record["candidates"].get(which, {}) for which in (name, "stock"))
    if key not in ours or key not in stock:
        return None
    return ours[key] / stock[key]
