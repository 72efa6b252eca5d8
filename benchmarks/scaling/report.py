"""The results as text."""

from collections.abc import Mapping
from typing import Any

from benchmarks.scaling.cpu import over_fewest
from benchmarks.scaling.teams import Setting

Facts = Mapping[str, Any]

CPU_HEAD = (
    f"{'':50}{'fewest kB':>11}{'sent kB':>10}{'ratio':>7}{'temp MiB':>10}{'ms':>9}"
    f"{'x of one':>10}  operations"
)
SLICE_HEAD = (
    f"{'':40}{'floor us':>10}{'link us':>9}{'fewest kB':>11}{'sent kB':>10}{'ratio':>7}"
    f"{'temp MiB':>10}{'compile s':>11}  operations"
)


def setting(rows: list[Facts]) -> str:
    """Return the lines of a layer on so many devices."""
    first = rows[0]
    lines = [f"{first['shape']}, {Setting(first['kind'], first['number'])}"]
    for row in rows:
        for name, facts in row["candidates"].items():
            label = f"  {row['division']}, {row['program']}: {name}"
            time, ahead = facts.get("milliseconds"), facts.get("times_faster_than_one")
            lines.append(
                f"{label:50}{1e-3 * row['fewest_bytes']:11.1f}{1e-3 * facts['bytes']:10.1f}"
                f"{_number(over_fewest(row, name), 7, 2)}{facts['temporary_bytes'] / 2**20:10.1f}"
                f"{_number(time, 9, 2)}{_number(ahead, 10, 2)}  {_operations(facts)}"
            )
    return "\n".join(lines)


def step(target: str, row: Facts) -> str:
    """Return the lines of one division of a network."""
    lines = []
    for name, facts in row["candidates"].items():
        label = f"{target} {row['division']}: {name}"
        label += " (explicit axes)" if facts.get("axes") == "explicit" else ""
        if "declined" in facts:
            lines.append(f"{label:40}declines: {facts['declined']}")
            continue
        least = facts["fewest_bytes"]
        lines.append(
            f"{label:40}{facts['roof_microseconds']:10.0f}{facts['link_microseconds']:9.0f}"
            f"{_number(least and 1e-3 * least, 11, 0)}{1e-3 * facts['sent_bytes']:10.0f}"
            f"{_number(least and facts['sent_bytes'] / least, 7, 2)}"
            f"{facts['temporary_bytes'] / 2**20:10.0f}{facts['compile_seconds']:11.0f}"
            f"  {_operations(facts)}"
        )
    return "\n".join(lines)


def _operations(facts: Facts) -> str:
    return ", ".join(f"{sent['number']} {kind}" for kind, sent in facts["sent"].items()) or "none"


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"
