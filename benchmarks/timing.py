"""Time programs side by side."""

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

# A visit to a program lasts about so long, after a call that warms the caches ...
VISIT_SECONDS = 0.05
# ... or is that call alone where it takes so long that cold caches are lost in it.
LONG_SECONDS = 0.1

Key = TypeVar("Key")
Clock = Callable[[int], list[float]]


def clock(program: Callable[[], Any], count: int) -> list[float]:
    """Run a program, which must block until it is done, `count` times; the seconds of each."""
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        program()
        seconds.append(time.perf_counter() - start)
    return seconds


def visit(timed: Clock) -> list[float]:
    """Ask a clock for a few samples in a row, without the call that finds the caches cold.

    Example:
        >>> visit(lambda count: [0.01] * count)
        [0.01, 0.01, 0.01, 0.01, 0.01]
        >>> visit(lambda count: [2.0] * count)
        [2.0]
    """
    (first,) = timed(1)
    if first >= LONG_SECONDS:
        return [first]
    return timed(max(round(VISIT_SECONDS / max(first, 1e-4)), 1))


def interleaved(
    clocks: Mapping[Key, Clock], seconds: float, rounds: int = 3
) -> dict[Key, list[float]]:
    """Visit the clocks in turn (A B C, A B C, ...), so that what else the machine does hits all.

    Every clock is visited in the first `rounds` rounds; after that a clock whose visits have taken
    `seconds` sits out, and the end is reached when all do.

    Returns:
        The samples of each clock, in seconds.
    """
    samples: dict[Key, list[float]] = {key: [] for key in clocks}
    spent = dict.fromkeys(clocks, 0.0)
    done = 0
    while waiting := [key for key in clocks if done < rounds or spent[key] < seconds]:
        for key in waiting:
            start = time.perf_counter()
            samples[key] += visit(clocks[key])
            spent[key] += time.perf_counter() - start
        done += 1
    return samples


def medians(samples: Mapping[Key, list[float]]) -> dict[Key, float]:
    """Return the median of each clock's samples."""
    return {key: statistics.median(values) for key, values in samples.items()}


def statistics_of(values: list[float]) -> dict[str, Any]:
    """Sum up the samples of one clock, in seconds: median and quartiles, and how many."""
    low, middle, high = np.percentile(np.multiply(values, 1e3), [25, 50, 75])
    return {"milliseconds": middle, "quartiles": [low, high], "samples": len(values)}


def fastest(programs: Mapping[str, Callable[[], Any]], seconds: float = 0.05) -> str:
    """Return the name of the program with the least time, which others on the machine lengthen."""
    if len(programs) == 1:
        return next(iter(programs))
    clocks = {name: functools.partial(clock, program) for name, program in programs.items()}
    samples = interleaved(clocks, seconds)
    return min(samples, key=lambda name: min(samples[name]))
