"""The results as text."""

from typing import Any

from benchmarks import summary

NAME = 18
COLUMN = 11


def head(names: list[str], rates: dict[str, Any]) -> str:
    """Return the rates of the machine, and the heads of the columns."""
    copies = ", ".join(
        f"{rate:.0f} GB/s ({size} MiB)" for size, rate in rates["copy_gigabytes_per_second"].items()
    )
    columns = [*names, "bound", "rival/ours", "ours/floor"]
    return (
        f"matmul {rates['matmul_gigaflops']:.0f} GFLOP/s; copy, read and written: {copies}\n\n"
        + f"{'milliseconds':{NAME}}"
        + "".join(f"{column:>{COLUMN}}" for column in columns)
    )


def row(record: dict[str, Any], names: list[str]) -> str:
    """Return the lines of one workload: its shape, and a line for each program."""
    lines = [f"{record['workload']}: {record['shape']}"]
    lines += [f"  {name} declines: {why}" for name, why in record["declined"].items()]
    for program in summary.PROGRAMS:
        times = [summary.milliseconds(record, name, program) for name in names]
        ahead = summary.speed_up(record, summary.best_rival(record, program), program)
        floor = summary.speed_up(record, "floor", program)
        cells = [
            *times,
            record["roofline"][program]["bound_ms"],
            ahead,
            1 / floor if floor else None,
        ]
        lines.append(f"  {program:{NAME - 2}}" + "".join(map(_cell, cells)))
    return "\n".join(lines)


def tail(means: dict[str, Any]) -> str:
    """Return the geometric means, a line for each."""
    lines = ["", "geometric means" + " " * 25 + "".join(f"{name:>18}" for name in means)]
    programs = list(means.values())
    for peer in programs[0]["speed_up_over"]:
        ratios = (program["speed_up_over"].get(peer) for program in programs)
        lines.append(f"times faster than {peer:22}" + "".join(map(_wide, ratios)))
    for key in ("speed_up_over_best_rival", "ours_over_floor", "compile_over_flax_stock"):
        ratios = (program[key] for program in programs)
        lines.append(f"{key.replace('_', ' '):40}" + "".join(map(_wide, ratios)))
    for name, program in means.items():
        if least := program["least_over_best_rival"]:
            lines.append(f"least ahead, {name}: {least['speed_up']:.2f} at {least['workload']}")
    return "\n".join(lines) + "\n"


def _cell(value: float | None) -> str:
    """Show three digits, whatever the size."""
    if value is None:
        return f"{'-':>{COLUMN}}"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:{COLUMN}.{digits}f}"


def _wide(value: float | None) -> str:
    return f"{'-':>18}" if value is None else f"{value:18.2f}"
