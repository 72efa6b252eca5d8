"""What the rows of a run say together: ratios and their geometric means."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.peers import PEERS, RIVALS

PROGRAMS = ("forward", "forward_backward")

Row = Mapping[str, Any]


def milliseconds(row: Row, peer: str, program: str) -> float | None:
    """Return a peer's median time, or None where it has none."""
    return row["peers"].get(peer, {}).get(program, {}).get("milliseconds")


def best_rival(row: Row, program: str) -> str | None:
    """Name the fastest of the peers on TensorFlow and PyTorch."""
    times = {peer: milliseconds(row, peer, program) for peer in RIVALS}
    present = {peer: time for peer, time in times.items() if time is not None}
    return min(present, key=present.__getitem__) if present else None


def speed_up(row: Row, peer: str | None, program: str) -> float | None:
    """Return a peer's time over ours: how many times faster we are."""
    theirs = milliseconds(row, peer, program) if peer else None
    ours = milliseconds(row, "ours", program)
    return theirs / ours if theirs and ours else None


def geometric_mean(ratios: Iterable[float | None]) -> float | None:
    """Return the geometric mean of the ratios that exist.

    Example:
        >>> geometric_mean([2.0, 8.0, None])
        4.0
    """
    present = [ratio for ratio in ratios if ratio is not None]
    return round(statistics.geometric_mean(present), 9) if present else None


def summarize(rows: list[Row]) -> dict[str, Any]:
    """Return, for each program, the speed-ups over every peer and over the best rival.

    `least_over_best_rival` is the workload where we are the least ahead, `ours_over_floor` the
    other way round: our time over that of the matmuls alone; `compile_over_flax_stock` the same for
    the seconds of compilation.
    """
    return {program: _of_program(rows, program) for program in PROGRAMS}


def _of_program(rows: list[Row], program: str) -> dict[str, Any]:
    over_rival = {
        row["workload"]: ratio
        for row in rows
        if (ratio := speed_up(row, best_rival(row, program), program)) is not None
    }
    least = min(over_rival, key=over_rival.__getitem__) if over_rival else None
    over_floor = [speed_up(row, "floor", program) for row in rows]
    return {
        "workloads": len(rows),
        "speed_up_over": {
            peer: mean
            for peer in PEERS
            if peer not in ("ours", "floor")
            and (mean := geometric_mean(speed_up(row, peer, program) for row in rows))
        },
        "speed_up_over_best_rival": geometric_mean(over_rival.values()),
        "least_over_best_rival": {"workload": least, "speed_up": over_rival[least]}
        if least
        else None,
        "ours_over_floor": geometric_mean(1 / ratio if ratio else None for ratio in over_floor),
        "compile_over_flax_stock": geometric_mean(_compile_ratio(row, program) for row in rows),
    }


def _compile_ratio(row: Row, program: str) -> float | None:
    ours, stock = (row["peers"].get(peer) for peer in ("ours", "flax_stock"))
    if not ours or not stock:
        return None
    return ours[program]["compile_seconds"] / stock[program]["compile_seconds"]
