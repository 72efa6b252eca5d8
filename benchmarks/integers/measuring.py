"""One layer: integers drawn, programs built, judged by NumPy float64, timed in turn.

What goes wrong with a contender is a fact of the row, and the others are measured all the same.
"""

import contextlib
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks import reference, timing
from benchmarks.integers import problem
from benchmarks.integers.contenders import PEERS, PROGRAMS
from benchmarks.integers.problem import GREATEST, LEAST, Expected, Problem
from benchmarks.lasting import Failed, Lasting
from benchmarks.worker import Declined
from benchmarks.workloads import Workload

# How far, in steps of the output, results may be from what NumPy does not round at the end: half a
# step is rounding; where h is between two integers, the two ways to round it differ by a weight.
ALLOWED_STEPS = 2.0

Facts = dict[str, Any]


def start(name: str, environment: Mapping[str, str], patience: float) -> Lasting:
    """Start the process of one of `PEERS`.

    Args:
        name: who it is.
        environment: variables to set before the process imports anything.
        patience: the seconds that it may take for an answer.
    """
    return Lasting.named(name, {**PEERS[name].environment, **environment}, patience)


class Stopped(Exception):  # noqa: N818 - a fact of the row.
    """A contender failed while it was timed; the message says how."""

    def __init__(self, name: str, failure: Failed):
        super().__init__(str(failure))
        self.name, self.facts = name, failure.facts


def measure(workload: Workload, asked: Mapping[str, Lasting], seconds: float) -> Facts:
    """Build, judge and time a layer; the record of all contenders."""
    made, expected = problem.draw(workload)
    facts = prepared(made, expected, asked)
    timed(asked, facts, seconds)
    for process in asked.values():
        with contextlib.suppress(Failed):
            process.attempt(lambda worker: worker.drop())
    return {
        "workload": workload.name,
        "shape": str(workload),
        "channels": workload.channels,
        "filters": workload.filters,
        "contenders": facts,
    }


def prepared(made: Problem, expected: Expected, asked: Mapping[str, Lasting]) -> dict[str, Facts]:
    """Build and judge the programs of all contenders; their facts.

    A contender's facts are its programs, or "declined" or "failed" with the reason. Each program
    says how far it is off; one that is wrong says so under "wrong", and is not timed.
    """
    facts: dict[str, Facts] = {}
    for name, process in asked.items():
        task = f"benchmarks.integers.{name}:build"
        try:
            facts[name] = {
                program: its | judged(made, program, _numbers(process, program), expected)
                for program, its in _built(process, task, made).items()
            }
        except Declined as reason:
            facts[name] = {"declined": str(reason)}
        except Failed as failure:
            facts[name] = failure.facts
    return facts


def _built(process: Lasting, task: str, made: Problem) -> Facts:
    return process.attempt(lambda worker: worker.load(task, made))


def _numbers(process: Lasting, program: str) -> dict[str, np.ndarray]:
    return process.attempt(lambda worker: worker.numbers(program))


def judged(
    made: Problem, program: str, numbers: Mapping[str, np.ndarray], expected: Expected
) -> Facts:
    """Say how far numbers are off, and under "wrong" where that is too far.

    Integers are "off_steps", from what would be rounded to them; float32 is "off", relative to the
    largest number.
    """
    if program == "float32":
        return _compared(
            numbers["real"], expected.real, "off", reference.allowed(made.workload, 0.0)["y"]
        )
    want, zero = expected.steps, made.y_steps.zero_point
    if program == "integers":
        want = np.clip(want, LEAST - zero, GREATEST - zero)
    return _compared(numbers["steps"], want, "off_steps", ALLOWED_STEPS)


def _compared(found: np.ndarray, want: np.ndarray, name: str, allowed: float) -> Facts:
    if found.shape != want.shape:
        return {"wrong": f"its shape is {found.shape} instead of {want.shape}"}
    off = reference.error(found, want) if name == "off" else float(np.abs(found - want).max())
    wrong = {"wrong": f"{name} is {off:.3g} (allowed: {allowed:.3g})"}
    return {name: off} | ({} if off <= allowed else wrong)


def timed(asked: Mapping[str, Lasting], facts: dict[str, Facts], seconds: float) -> None:
    """Time what is right, in turn, and put it down; anew and without it where one fails."""
    while True:
        places = [
            (program, name)
            for program in PROGRAMS
            for name in asked
            if program in facts[name] and "wrong" not in facts[name][program]
        ]
        clocks = {place: functools.partial(_times, asked, *place) for place in places}
        try:
            samples = timing.interleaved(clocks, seconds)
        except Stopped as stopped:
            facts[stopped.name] = stopped.facts
            continue
        for (program, name), values in samples.items():
            facts[name][program] |= timing.statistics_of(values)
        return


def _times(asked: Mapping[str, Lasting], program: str, name: str, count: int) -> list[float]:
    try:
        return asked[name].attempt(lambda worker: worker.times(program, count))
    except Failed as failure:
        raise Stopped(name, failure) from None
