"""The results as text, and the ratios that they come to."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks import summary

STOCK = ("stock",)
TORCH = ("torch_ncl", "torch_nlc")

# From here on a call takes as long as the host needs to start it: the device waits.
LAUNCH_BOUND = 0.8

Row = Mapping[str, Any]


def is_launch_bound(facts: Row) -> bool:
    """Tell whether the host, not the device, makes the time."""
    return facts["launch_milliseconds"] >= LAUNCH_BOUND * facts["milliseconds"]


def best(row: Row, names: Iterable[str]) -> Row | None:
    """Return the facts of the fastest of the named candidates that were timed, and were right."""
    timed = [row["candidates"][name] for name in names if name in row["candidates"]]
    timed = [facts for facts in timed if "milliseconds" in facts and "wrong" not in facts]
    return min(timed, key=lambda facts: facts["milliseconds"]) if timed else None


def over(row: Row, names: Iterable[str]) -> float | None:
    """Return the time of what is selected over that of the fastest of others.

    Example:
        >>> timed = {"selected": {"milliseconds": 1.0}, "stock": {"milliseconds": 4.0}}
        >>> over({"candidates": timed}, STOCK), over({"candidates": timed}, TORCH)
        (0.25, None)
    """
    ours, theirs = best(row, ["selected"]), best(row, names)
    return ours["milliseconds"] / theirs["milliseconds"] if ours and theirs else None


def ceilings(dtype: str, rates: Row) -> str:
    """Return a line on the rates of the device."""
    copy, matmul = rates["copy_gigabytes_per_second"], rates["matmul_teraflops"]
    return f"{dtype}: a copy moves {copy:.0f} GB/s, a matmul does {matmul:.3g} TFLOP/s"


def row(record: Row) -> str:
    """Return the lines of one program: a line for each candidate."""
    head = f"{record['workload']} {record['dtype']} {record['program']}: {record['shape']}"
    lines = [head]
    for name, facts in record["candidates"].items():
        lines.append(f"  {name:14}{_line(facts)}")
    return "\n".join(lines)


def _line(facts: Row) -> str:
    if "declined" in facts:
        return f"declines: {facts['declined']}"
    if "failed" in facts:
        return f"FAILED: {facts['failed']}"
    if "wrong" in facts:
        return f"{_milliseconds(facts)} ms WRONG, does not count: {'; '.join(facts['wrong'])}"
    return (
        f"{_milliseconds(facts)} ms"
        f"{facts['gigabytes_per_second']:9.4g} GB/s, {facts['of_copy']:4.0%} of a copy"
        f"{facts['teraflops']:9.3g} TFLOP/s, {facts['of_matmul']:4.0%} of a matmul"
        + "".join(f"; {each}" for each in facts["imprecise"])
    )


def _milliseconds(facts: Row) -> str:
    return f"{facts['milliseconds']:9.4f}{'*' if is_launch_bound(facts) else ' '}"


def table(rows: Sequence[Row]) -> str:
    """Return a line for each row, and the means below; with what is wrong or failed beside."""
    head = (
        f"{'selected':50}{'ms':>10} {'of copy':>8}{'of matmul':>10}{'/ stock':>9}{'/ PyTorch':>10}"
    )
    lines = ["", head]
    lines += map(_table_line, rows)
    for dtype, program in dict.fromkeys((each["dtype"], each["program"]) for each in rows):
        own = [each for each in rows if (each["dtype"], each["program"]) == (dtype, program)]
        means = (
            _ratio(summary.geometric_mean(over(each, names) for each in own))
            for names in (STOCK, TORCH)
        )
        title = f"geometric mean, {dtype} {program}"
        lines.append(f"{title:79}" + "".join(f"{mean:>9}" for mean in means))
    return "\n".join([*lines, "* the host's time to start a call", ""])


def _table_line(record: Row) -> str:
    cells = f"{'-':>10} {'-':>8}{'-':>10}"
    if ours := best(record, ["selected"]):
        cells = f"{_milliseconds(ours):>11}{ours['of_copy']:8.0%}{ours['of_matmul']:10.0%}"
    ratios = f"{_ratio(over(record, STOCK)):>9}{_ratio(over(record, TORCH)):>10}"
    beside = "".join(f"  {name} {kind}" for name, kind in troubles_of(record).items())
    if "declined" in record["candidates"].get("selected", {}):
        beside = f"  selected declines{beside}"
    return f"{title(record):50}{cells}{ratios}{beside}"


def title(record: Row) -> str:
    """Name a row."""
    return f"{record['workload']} {record['dtype']} {record['program']}"


def troubles_of(record: Row) -> dict[str, str]:
    """Tell which candidates of a row are "wrong", and which "failed".

    Example:
        >>> facts = {"selected": {"wrong": ["y is off"]}, "stock": {"failed": "it died"}}
        >>> troubles_of({"candidates": facts})
        {'selected': 'wrong', 'stock': 'failed'}
    """
    return {
        name: kind
        for name, facts in record["candidates"].items()
        for kind in ("wrong", "failed")
        if kind in facts
    }


def verdict(rows: Sequence[Row]) -> str | None:
    """Count and name what is wrong or failed; None where nothing is."""
    found = [(kind, name, title(each)) for each in rows for name, kind in troubles_of(each).items()]
    if not found:
        return None
    counts = [f"{sum(kind == each for each, *_ in found)} {kind}" for kind in ("wrong", "failed")]
    lines = [f"  {name} {kind}: {where}" for kind, name, where in found]
    return "\n".join([f"{', '.join(counts)}:", *lines])


def left_out(rows: Sequence[Row]) -> str:
    """Name the rows that were not measured, a line for each workload."""
    grouped: dict[str, list[str]] = {}
    for each in rows:
        whose = f"{each['workload']} ({', '.join(each['candidates'])})"
        grouped.setdefault(whose, []).append(f"{each['dtype']} {each['program']}")
    lines = [f"  {whose}: {', '.join(those)}" for whose, those in grouped.items()]
    return "\n".join([f"not measured, {len(rows)} rows:", *lines])


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"
