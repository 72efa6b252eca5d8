"""Time programs side by side."""

import time
from collections.abc import Mapping

import numpy as np

from flax_sepconv.ops.tuning.programs import Calls

# So many seconds of calls before anything is waited for: waiting and the clock are lost in them.
VISIT_SECONDS = 0.02
ROUNDS = 5


def quartiles(programs: Mapping[str, Calls], seconds: float) -> dict[str, list[float]]:
    """Return the seconds of a call of each program: lower quartile, median, upper quartile.

    They are visited in turn (A B C, A B C, ...), so that what else the machine does hits all: five
    times each, and until a program has had its seconds.
    """
    counts = {name: _calls(run) for name, run in programs.items()}
    samples: dict[str, list[float]] = {name: [] for name in programs}
    spent = dict.fromkeys(programs, 0.0)
    done = 0
    while waiting := [name for name in programs if done < ROUNDS or spent[name] < seconds]:
        for name in waiting:
            taken = _clock(programs[name], counts[name])
            samples[name].append(taken / counts[name])
            spent[name] += taken
        done += 1
    return {name: np.percentile(each, [25, 50, 75]).tolist() for name, each in samples.items()}


def _calls(run: Calls) -> int:
    """Count the calls of a visit; they warm up too."""
    count = 1
    while _clock(run, count) < VISIT_SECONDS:
        count *= 2
    return count


def _clock(run: Calls, count: int) -> float:
    start = time.perf_counter()
    run(count)
    return time.perf_counter() - start
