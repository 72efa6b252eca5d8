"""Calls that are started without waiting for one another, timed as one."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import timing
from benchmarks.worker import Program

# So many seconds of calls before anything is waited for: waiting and the clock are lost in them.
BATCH_SECONDS = 0.02

# Calls that any device takes into its queue at once, by which the host's share is measured.
QUEUED = 4


def program(
    start: Callable[[], Any],
    wait: Callable[[], Any],
    read: Callable[[Any], Any],
    facts: Mapping[str, Any],
) -> Program:
    """Warm up, and make a program of as many calls as fill a batch.

    Args:
        start: starts a call.
        wait: waits for all calls, and returns the results of the last.
        read: see `Program`.
        facts: to which are added "calls", how many one run of the program is, and
            "launch_milliseconds", what the host needs to start one.
    """

    def run(count: int) -> Any:
        for _ in range(count):
            start()
        return wait()

    run(1)  # Pays for what the first call alone has to do.
    launch = min(_launch(start, wait) for _ in range(3))
    count = 1
    while timing.clock(functools.partial(run, count), 1)[0] < BATCH_SECONDS:
        count *= 2
    return Program(
        functools.partial(run, count),
        read,
        {**facts, "calls": count, "launch_milliseconds": 1e3 * launch},
    )


def _launch(start: Callable[[], Any], wait: Callable[[], Any]) -> float:
    seconds = timing.clock(start, QUEUED)
    wait()
    return sum(seconds) / QUEUED
