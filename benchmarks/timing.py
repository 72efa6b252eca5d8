"""Time programs side by side."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def medians(programs: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Return the median time of each program, in seconds.

    The programs are asked in turn (A B C, A B C, ...), so that what else the machine does hits all
    of them alike; at least three rounds, then until `seconds` are over.
    """
    for program in programs.values():
        jax.block_until_ready(program())
    times: dict[str, list[float]] = {name: [] for name in programs}
    end = time.perf_counter() + seconds
    while len(next(iter(times.values()))) < 3 or time.perf_counter() < end:
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program())
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(measured) for name, measured in times.items()}
