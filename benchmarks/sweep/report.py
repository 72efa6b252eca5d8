"""Leads over the best of the others, as text, with the layer where we lead least at the top."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks import drawing
from benchmarks.summary import PROGRAMS, geometric_mean
from benchmarks.sweep.contenders import DTYPES, Name, rivals

# Two medians that are nearer than this are level.
TOLERANCE = 0.97

Row = Mapping[str, Any]


def ours(dtype: str) -> str:
    """Return the name of our layer in a type."""
    return str(Name("ours", dtype))


def milliseconds(row: Row, name: str, program: str) -> float | None:
    """Return a contender's median time, or None where it has none."""
    return row["contenders"].get(name, {}).get(program, {}).get("milliseconds")


def over(row: Row, name: str, other: str, program: str) -> float | None:
    """Return the time of one contender over that of another, or None."""
    one, two = (milliseconds(row, each, program) for each in (name, other))
    return float(one / two) if one and two else None


def best(row: Row, dtype: str, program: str) -> str | None:
    """Name the fastest of the others in a type."""
    times = {name: milliseconds(row, name, program) for name in rivals(dtype)}
    present = {name: time for name, time in times.items() if time is not None}
    return min(present, key=present.__getitem__) if present else None


def lead(row: Row, dtype: str, program: str) -> float | None:
    """Return how many times faster we are than the best of the others."""
    rival = best(row, dtype, program)
    return over(row, rival, ours(dtype), program) if rival else None


def possible(row: Row, program: str) -> float | None:
    """Return how far one at the machine's bound would lead the best of the others, in float32."""
    rival, bound = best(row, "float32", program), row.get("bounds", {}).get(program)
    time = milliseconds(row, rival, program) if rival else None
    return float(time / bound["bound_ms"]) if time and bound else None


def least(row: Row, programs: Sequence[str] = PROGRAMS) -> float:
    """Return the least lead of a row, infinite where it has none."""
    leads = (lead(row, dtype, program) for dtype in DTYPES for program in programs)
    return min((each for each in leads if each is not None), default=float("inf"))


def worst_first(rows: Iterable[Row], programs: Sequence[str] = PROGRAMS) -> list[Row]:
    """Sort rows by their least lead."""
    return sorted(rows, key=lambda row: least(row, programs))


def oddities(row: Row) -> list[str]:
    """Say who declines, fails or is wrong, and what is imprecise, a line each."""
    lines = []
    for name, facts in row["contenders"].items():
        for what in ("declined", "failed"):
            if what in facts:
                lines.append(f"  {name} {what}: {facts[what]}")
        for program in PROGRAMS:
            for what in ("wrong", "imprecise"):
                if texts := facts.get(program, {}).get(what):
                    lines.append(f"  {name}, {program}, {what}: {'; '.join(texts)}")
    return lines


def mistaken(rows: Iterable[Row]) -> list[str]:
    """Say where our own layer fails or is wrong."""
    return [
        f"{row['workload']}:{line}"
        for row in rows
        for line in oddities(row)
        if line.split()[0].rstrip(",") in map(ours, DTYPES) and "imprecise" not in line
    ]


def times(row: Row) -> str:
    """Return the lines of a layer as it is measured."""
    lines = [f"{row['workload']}: {row['shape']}"]
    for program in PROGRAMS:
        known = [(name, milliseconds(row, name, program)) for name in row["contenders"]]
        cells = [f"{name} {time:.3g}" for name, time in known if time]
        lines.append(f"  {drawing.TITLES[program]}, ms: {', '.join(cells)}")
    return "\n".join([*lines, *oddities(row)])


def table(rows: Sequence[Row], program: str) -> str:
    """Return a line for each layer, the one where we lead least at the top."""
    head = (
        f"{drawing.TITLES[program]:48}{'lead':>6}{'possible':>10}{'ours, ms':>10}"
        f"  {'best of the others, ms':24}"
        f"{'/ floor':>9}{'faults':>8}{'bf16 lead':>11}{'bf16, ms':>10}{'bf16/f32':>10}"
    )
    lines = [_line(row, program) for row in worst_first(rows, (program,))]
    return "\n".join(["", head, *lines])


def _line(row: Row, program: str) -> str:
    rival = best(row, "float32", program)
    theirs = f"{rival} {milliseconds(row, rival, program):.3g}" if rival else "-"
    faults = row["contenders"].get("ours", {}).get(program, {}).get("page_faults")
    narrow = ours("bfloat16")
    cells = [
        _cell(lead(row, "bfloat16", program), 11),
        _cell(milliseconds(row, narrow, program), 10),
        _cell(over(row, narrow, "ours", program), 10),
    ]
    return (
        f"{drawing.short(row['shape']):48}"
        f"{_cell(lead(row, 'float32', program), 6)}{_cell(possible(row, program), 10)}"
        f"{_cell(milliseconds(row, 'ours', program), 10)}"
        f"  {theirs:24}{_cell(over(row, 'ours', 'floor', program), 9)}"
        f"{'-' if faults is None else faults:>8}" + "".join(cells)
    )


def _cell(value: float | None, width: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.3g}"


def summarize(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return, for each type and program that was measured, leads and how many layers have them.

    `behind` counts the layers where the best of the others is faster by more than the tolerance,
    `ahead` those where we are; `possible_lead` is that of one at the machine's bound; `lead_over`
    has the geometric mean over each of the others.
    """
    return {
        f"{dtype} {program}": summary
        for dtype in DTYPES
        for program in PROGRAMS
        if (summary := _of(rows, dtype, program))["timed"]
    }


def _of(rows: Sequence[Row], dtype: str, program: str) -> dict[str, Any]:
    leads = {row["workload"]: lead(row, dtype, program) for row in rows}
    known = {name: value for name, value in leads.items() if value is not None}
    worst = min(known, key=known.__getitem__) if known else None
    own = ours(dtype)
    narrow = [over(row, ours("bfloat16"), "ours", program) for row in rows]
    return {
        "timed": sum(milliseconds(row, own, program) is not None for row in rows),
        "lead": geometric_mean(known.values()),
        "least_lead": {"workload": worst, "lead": known[worst]} if worst else None,
        "ahead": sum(value > 1 / TOLERANCE for value in known.values()),
        "level": sum(TOLERANCE <= value <= 1 / TOLERANCE for value in known.values()),
        "behind": sum(value < TOLERANCE for value in known.values()),
        "lead_over": {
            name: mean
            for name in rivals(dtype)
            if (mean := geometric_mean(over(row, name, own, program) for row in rows))
        },
        "over_floor": geometric_mean(over(row, own, "floor", program) for row in rows),
        **(
            {"possible_lead": geometric_mean(possible(row, program) for row in rows)}
            if dtype == "float32"
            else {}
        ),
        **({"over_float32": geometric_mean(narrow)} if dtype == "bfloat16" else {}),
    }


def tail(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the geometric means and the counts, a few lines for each type and program."""
    lines = [""]
    for title, its in summary.items():
        lines.append(f"{title}: {its['timed']} layers")
        if its["lead"]:
            where = its["least_lead"]
            lines.append(
                f"  lead over the best of the others {its['lead']:.2f} (geometric mean); "
                f"ahead {its['ahead']}, level {its['level']}, behind {its['behind']}; "
                f"least {where['lead']:.2f} at {where['workload']}"
            )
            means = (f"{name} {mean:.2f}" for name, mean in its["lead_over"].items())
            lines.append(f"  over each: {', '.join(means)}")
        for key, words in (
            ("possible_lead", "lead of one at the machine's bound"),
            ("over_floor", "time over the floor's (float32)"),
            ("over_float32", "time over our float32"),
        ):
            if its.get(key):
                lines.append(f"  {words}: {its[key]:.2f}")
    return "\n".join(lines) + "\n"
