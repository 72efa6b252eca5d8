"""One layer: built, judged by NumPy float64, timed in turn, and how much memory came fresh.

What goes wrong with a contender is a fact of the row, and the others are measured all the same.
"""

import contextlib
import functools
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from benchmarks import reference, timing
from benchmarks.case import Case, Operands
from benchmarks.lasting import Failed
from benchmarks.peers import floor
from benchmarks.summary import PROGRAMS
from benchmarks.sweep.contenders import Contender
from benchmarks.sweep.generator import kind_of, multiply_adds
from benchmarks.worker import Declined
from benchmarks.workloads import Workload
from flax_sepconv.ops.tuning.definition import ROUNDING

Facts = dict[str, Any]


class Stopped(Exception):  # noqa: N818 - a fact of the row.
    """A contender failed while it was timed; the message says how."""

    def __init__(self, name: str, failure: Failed):
        super().__init__(str(failure))
        self.name, self.facts = name, failure.facts


def measure(workload: Workload, contenders: Iterable[Contender], seconds: float) -> Facts:
    """Build, judge and time a layer; the record of all contenders.

    One type of numbers comes after the other, for all processes at once would hold some twenty
    times the largest array.
    """
    facts: dict[str, Facts] = {}
    for dtype, group in itertools.groupby(contenders, lambda each: each.name.dtype):
        asked = {str(each.name): each for each in group}
        found = prepared(workload, dtype, asked)
        timed(asked, found, seconds)
        for contender in asked.values():
            with contextlib.suppress(Failed):
                contender.drop()
        facts |= found
    return {
        "workload": workload.name,
        "kind": kind_of(workload),
        "shape": str(workload),
        "multiply_adds": multiply_adds(workload),
        "contenders": facts,
    }


def prepared(workload: Workload, dtype: str, asked: Mapping[str, Contender]) -> dict[str, Facts]:
    """Build and judge the programs of all contenders in a type; their facts.

    A contender's facts are its programs, or "declined" or "failed" with the reason. A program that
    is wrong says so under "wrong", and is not timed.
    """
    facts: dict[str, Facts] = {}
    expected = layer(workload, dtype)
    for name, contender in asked.items():
        is_floor = contender.name.peer == "floor"
        right = reference.floor(floor.operands(workload)) if is_floor else expected
        try:
            programs = contender.build(workload)
            for program, its in programs.items():
                found = judged(workload, contender, contender.numbers(program), right)
                programs[program] = its | found
            facts[name] = programs
        except Declined as reason:
            facts[name] = {"declined": str(reason)}
        except Failed as failure:
            facts[name] = failure.facts
    return facts


def layer(workload: Workload, dtype: str) -> dict[str, np.ndarray]:
    """Compute in float64 what comes out for operands that are rounded to a type."""
    operands = Case(workload).operands()
    return reference.layer(workload, Operands(*(array.astype(dtype) for array in operands)))


def judged(
    workload: Workload,
    contender: Contender,
    numbers: Mapping[str, np.ndarray],
    right: Mapping[str, np.ndarray],
) -> Facts:
    """Say under "wrong" how numbers are not the layer's.

    Others may add up their bias' gradient in bfloat16, which for many positions loses more than
    rounding it: that is said under "imprecise".
    """
    name = contender.name
    found = reference.mistakes(workload, numbers, right, ROUNDING[name.dtype]["cpu"])
    lax = name.dtype != "float32" and name.peer != "ours"
    finite = np.isfinite(numbers.get("d_bias", np.nan)).all()
    imprecise = [each for each in found if lax and finite and each.startswith("d_bias is off")]
    wrong = [each for each in found if each not in imprecise]
    return {key: texts for key, texts in (("wrong", wrong), ("imprecise", imprecise)) if texts}


def is_right(facts: Facts, program: str) -> bool:
    """Tell whether a contender has a program, and it is to be timed."""
    return program in facts and "wrong" not in facts[program]


def timed(asked: Mapping[str, Contender], facts: dict[str, Facts], seconds: float) -> None:
    """Time what is right, in turn, and put it down; anew and without it where one fails."""
    while True:
        places = [
            (program, name)
            for program in PROGRAMS
            for name in asked
            if is_right(facts[name], program)
        ]
        clocks = {place: functools.partial(_times, asked, *place) for place in places}
        try:
            samples = timing.interleaved(clocks, seconds)
            faults = {place: _page_faults(asked, *place) for place in places}
        except Stopped as stopped:
            facts[stopped.name] = stopped.facts
            continue
        for (program, name), values in samples.items():
            its = timing.statistics_of(values) | {"page_faults": faults[program, name]}
            facts[name][program] |= its
        return


def _times(asked: Mapping[str, Contender], program: str, name: str, count: int) -> list[float]:
    try:
        return asked[name].times(program, count)
    except Failed as failure:
        raise Stopped(name, failure) from None


def _page_faults(asked: Mapping[str, Contender], program: str, name: str) -> int:
    """Return the median of three calls."""
    try:
        return sorted(asked[name].page_faults(program) for _ in range(3))[1]
    except Failed as failure:
        raise Stopped(name, failure) from None
