"""A row: one program of one workload, by all candidates, compared and timed.

What goes wrong with a candidate is a fact of it, and the others are measured all the same.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks import timing
from benchmarks.device import ceilings, report, sampling
from benchmarks.device.frameworks import CandidateFailed, Framework
from benchmarks.lasting import Failed
from benchmarks.worker import Declined
from benchmarks.workloads import Workload

Facts = dict[str, Any]


class Case(NamedTuple):
    """What a row is about."""

    workload: Workload
    dtype: str
    program: str
    candidates: tuple[str, ...]

    @property
    def facts(self) -> Facts:
        """What the record says of the row, measured or left out."""
        return {"workload": self.workload.name, "dtype": self.dtype, "program": self.program}


def measure(
    case: Case,
    frameworks: Iterable[Framework],
    platform: str,
    seconds: float,
    rates: Mapping[str, Any],
) -> dict[str, Any]:
    """Build, compare and time one program of one workload; the record of all candidates."""
    facts: dict[str, Facts] = {}
    owners: dict[str, Framework] = {}
    for framework in frameworks:
        names = [name for name in framework.names if name in case.candidates]
        prepare(framework, case, platform, names, facts)
        owners |= dict.fromkeys(names, framework)
    samples = timed(case, platform, seconds, owners, facts)
    for framework in frameworks:
        framework.drop()
    for name, values in samples.items():
        each = timing.statistics_of([value / facts[name]["calls"] for value in values])
        milliseconds = each["milliseconds"]
        rate = ceilings.achieved(
            case.workload, case.dtype, case.program, milliseconds, rates[case.dtype]
        )
        facts[name] |= {**each, **rate}
    return {
        **case.facts,
        "shape": str(case.workload),
        "candidates": facts,
    }


def prepare(
    framework: Framework, case: Case, platform: str, names: Iterable[str], facts: dict[str, Facts]
) -> None:
    """Build and compare candidates, and put down their facts.

    Where one takes the process with it, those that were built are built once more, without it.
    """
    names = list(names)
    waiting = list(names)
    while waiting:
        name = waiting.pop(0)
        try:
            facts[name] = _prepared(framework, case, platform, name)
        except Declined as reason:
            facts[name] = {"declined": str(reason)}
        except Failed as failure:
            facts[name] = failure.facts
            if failure.lost:
                gone = [each for each in names if is_built(facts.get(each, {}))]
                waiting = [each for each in names if each in (*gone, *waiting)]


def is_built(facts: Facts) -> bool:
    """Tell whether there is a program to be timed."""
    return "calls" in facts


def _prepared(framework: Framework, case: Case, platform: str, name: str) -> Facts:
    facts = framework.build(platform, case.workload, case.dtype, case.program, name)
    return facts | compare(case, platform, name, framework.numbers(name))


def compare(
    case: Case, platform: str, name: str, numbers: dict[str, np.ndarray]
) -> dict[str, list[str]]:
    """Say under "wrong" how a program's numbers are not the layer's.

    But others may add up their bias' gradient in a narrow dtype, which for many positions loses
    more than its rounding: that is said under "imprecise", to be told beside their times.
    """
    found = sampling.mistakes(case.workload, case.dtype, platform, numbers)
    theirs = case.dtype != "float32" and name in (*report.STOCK, *report.TORCH)
    narrow = theirs and np.isfinite(numbers.get("d_bias", np.nan)).all()
    imprecise = [each for each in found if narrow and each.startswith("d_bias is off")]
    wrong = [each for each in found if each not in imprecise]
    return {"imprecise": imprecise} | ({"wrong": wrong} if wrong else {})


def timed(
    case: Case,
    platform: str,
    seconds: float,
    owners: Mapping[str, Framework],
    facts: dict[str, Facts],
) -> dict[str, list[float]]:
    """Time what is built, in turn; from the beginning, without it, where one fails."""
    while True:
        names = [name for name in owners if is_built(facts[name])]
        clocks = {name: functools.partial(owners[name].times, name) for name in names}
        try:
            return timing.interleaved(clocks, seconds)
        except CandidateFailed as failure:
            facts[failure.name] = failure.facts
            if failure.lost:
                again = [
                    name
                    for name, owner in owners.items()
                    if owner is failure.framework and is_built(facts[name])
                ]
                prepare(failure.framework, case, platform, again, facts)
