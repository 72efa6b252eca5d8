"""How many times faster integers are, as text, with the layer where they gain least at the top."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks import drawing
from benchmarks.integers.contenders import PEERS, RIVALS
from benchmarks.summary import geometric_mean

# Wide layers are matrix products, for which processors have instructions of four products each.
WIDE = 256
WANTED_WIDE, WANTED = 2.0, 1.3

Row = Mapping[str, Any]


def milliseconds(row: Row, name: str, program: str = "integers") -> float | None:
    """Return a contender's median time, or None where it has none."""
    return row["contenders"].get(name, {}).get(program, {}).get("milliseconds")


def gain(row: Row, program: str = "integers") -> float | None:
    """Return how many times faster our integers are than our float32."""
    return _ratio(milliseconds(row, "ours", "float32"), milliseconds(row, "ours", program))


def lead(row: Row, name: str | None) -> float | None:
    """Return how many times faster we are than another contender, int8 to int8."""
    return _ratio(milliseconds(row, name) if name else None, milliseconds(row, "ours"))


def best(row: Row) -> str | None:
    """Name the fastest of the others."""
    times = {name: milliseconds(row, name) for name in RIVALS}
    present = {name: time for name, time in times.items() if time}
    return min(present, key=present.__getitem__) if present else None


def smaller(row: Row) -> float | None:
    """Return how many times fewer bytes the weights have, scales and all."""
    sizes = (
        row["contenders"].get("ours", {}).get(program, {}).get("weights_bytes")
        for program in ("float32", "integers")
    )
    return _ratio(*sizes)


def wanted(row: Row, has_vnni: bool) -> float:
    """Return the gain that a layer should have.

    Example:
        >>> wanted({"channels": 256, "filters": 512}, has_vnni=True)
        2.0
        >>> wanted({"channels": 64, "filters": 512}, has_vnni=True)
        1.3
    """
    is_wide = min(row["channels"], row["filters"]) >= WIDE
    return WANTED_WIDE if is_wide and has_vnni else WANTED


def _ratio(one: float | None, two: float | None) -> float | None:
    return float(one / two) if one and two else None


def least_first(rows: Iterable[Row]) -> list[Row]:
    """Sort rows by their gain."""
    return sorted(rows, key=lambda row: gain(row) or float("inf"))


def oddities(row: Row) -> list[str]:
    """Say who declines, fails or is wrong, a line each."""
    lines = []
    for name, facts in row["contenders"].items():
        for what in ("declined", "failed"):
            if what in facts:
                lines.append(f"  {name} {what}: {facts[what]}")
        for program, its in facts.items():
            if isinstance(its, Mapping) and "wrong" in its:
                lines.append(f"  {name}, {program}, wrong: {its['wrong']}")
    return lines


def mistaken(rows: Iterable[Row]) -> list[str]:
    """Say where our own layer fails or is wrong."""
    return [
        f"{row['workload']}:{line}"
        for row in rows
        for line in oddities(row)
        if line.split()[0].rstrip(",") == "ours"
    ]


def times(row: Row) -> str:
    """Return the lines of a layer as it is measured."""
    cells = []
    for name, facts in row["contenders"].items():
        for program, its in facts.items():
            if isinstance(its, Mapping) and "milliseconds" in its:
                title = name if program == "integers" else f"{name}'s {program}"
                cells.append(f"{title} {its['milliseconds']:.3g}")
    head = f"{row['workload']}: {row['shape']}"
    return "\n".join([head, f"  ms: {', '.join(cells)}", *oddities(row)])


def table(rows: Sequence[Row]) -> str:
    """Return a line for each layer, the one where integers gain least at the top."""
    head = f"{'times faster than':48}{'float32':>9}{'(to real)':>10}"
    head += "".join(f"{name:>13}" for name in RIVALS) + f"{'ours, ms':>10}{'weights':>9}"
    return "\n".join(["", head, *map(_line, least_first(rows))])


def _line(row: Row) -> str:
    return (
        f"{drawing.short(row['shape']):48}"
        f"{_cell(gain(row), 9)}{_cell(gain(row, 'integers_to_real'), 10)}"
        + "".join(_cell(lead(row, name), 13) for name in RIVALS)
        + f"{_cell(milliseconds(row, 'ours'), 10)}{_cell(smaller(row), 8)}x"
    )


def _cell(value: float | None, width: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.3g}"


def summarize(rows: Sequence[Row], has_vnni: bool) -> dict[str, Any]:
    """Return geometric means of gains and leads, the least of each, and how many are short.

    `short` names the layers that gain less than is wanted of them; `off_steps` is how far each
    contender's results are, at most, from what NumPy would round.
    """
    gains = {row["workload"]: gain(row) for row in rows}
    leads = {row["workload"]: lead(row, best(row)) for row in rows}
    return {
        "timed": sum(each is not None for each in gains.values()),
        "gain": geometric_mean(gains.values()),
        "least_gain": _least(gains),
        "gain_to_real": geometric_mean(gain(row, "integers_to_real") for row in rows),
        "short": [row["workload"] for row in rows if (gain(row) or 0.0) < wanted(row, has_vnni)],
        "slower_than_float32": [name for name, each in gains.items() if each and each < 1],
        "lead": geometric_mean(leads.values()),
        "least_lead": _least(leads),
        "lead_over": {
            name: mean
            for name in RIVALS
            if (mean := geometric_mean(lead(row, name) for row in rows))
        },
        "weights": geometric_mean(map(smaller, rows)),
        "off_steps": {name: _off(rows, name) for name in PEERS},
    }


def _least(ratios: Mapping[str, float | None]) -> dict[str, Any] | None:
    known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    where = min(known, key=known.__getitem__) if known else None
    return {"workload": where, "ratio": known[where]} if where else None


def _off(rows: Iterable[Row], name: str) -> float | None:
    found = (row["contenders"].get(name, {}).get("integers", {}).get("off_steps") for row in rows)
    return max((off for off in found if off is not None), default=None)


def tail(summary: Mapping[str, Any]) -> str:
    """Return the geometric means and the counts."""
    if not summary["gain"]:
        return ""
    lines = [
        "",
        f"{summary['timed']} layers, geometric means",
        f"  faster than our float32 {summary['gain']:.2f} (least "
        f"{summary['least_gain']['ratio']:.2f} at {summary['least_gain']['workload']}); to real "
        f"{summary['gain_to_real'] or float('nan'):.2f}",
        f"  weights {summary['weights']:.2f} times smaller",
    ]
    if summary["lead"]:
        means = (f"{name} {mean:.2f}" for name, mean in summary["lead_over"].items())
        least = summary["least_lead"]
        lines.append(
            f"  faster than the best of the others {summary['lead']:.2f} (least "
            f"{least['ratio']:.2f} at {least['workload']}); than each: {', '.join(means)}"
        )
    off = (f"{name} {each:.2f}" for name, each in summary["off_steps"].items() if each)
    lines.append(f"  steps from what is rounded, at most: {', '.join(off)}")
    for key, words in (("short", "gain less than wanted"), ("slower_than_float32", "lose")):
        if summary[key]:
            lines.append(f"  {words}: {', '.join(summary[key])}")
    return "\n".join(lines) + "\n"
