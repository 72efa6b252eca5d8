"""A row: one program of one problem, by all lowerings, judged and then timed."""

import datetime
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_sepconv.ops.choices.classes import Program
from flax_sepconv.ops.choices.table import DEFAULT, Row
from flax_sepconv.ops.lowerings import LOWERINGS
from flax_sepconv.ops.tuning import definition
from flax_sepconv.ops.tuning.ceilings import Ceilings
from flax_sepconv.ops.tuning.definition import Arrays
from flax_sepconv.ops.tuning.lost import LOST, Lost
from flax_sepconv.ops.tuning.problems import Problem
from flax_sepconv.ops.tuning.programs import (
    STOCK,
    Calls,
    folded,
    function_of,
    lowered,
    operands_of,
    told,
)
from flax_sepconv.ops.tuning.timing import quartiles

# What times differ by from run to run: a default so near the best one stays.
NEAR = 1.05

Facts = dict[str, Any]


def measure(
    problem: Problem,
    program: Program,
    dtype: str,
    device: jax.Device,
    ceilings: Ceilings,
    seconds: float,
    names: Sequence[str] = tuple(LOWERINGS),
    lost: Lost | None = None,
) -> Row:
    """Judge and time one program by the default, Flax's own layers and the lowerings.

    Args:
        problem: the layer.
        program: what is computed of it.
        dtype: of all operands and results.
        device: to compute on.
        ceilings: its rates in the dtype.
        seconds: to time each for.
        names: of the lowerings to try.
        lost: what is known of candidates that took a process with them.
    """
    of, lost = problem.of(program, dtype), lost or Lost()
    operands = operands_of(problem, dtype, device)
    facts: dict[str, Facts] = {}
    programs: dict[str, Calls] = {}
    texts: dict[str, str] = {}
    candidates = [DEFAULT, *([STOCK] if problem.limits == "whole" else []), *names]
    for name in candidates:
        if name in lost.known(of):
            facts[name] = {"failed": LOST, "lost": True}
            continue
        lost.begin(of, name)
        with told() as fact:
            own = lowered(function_of(problem, program, name), operands, name)
            if twin := texts.get(own.text):
                facts[name] = {"same_as": twin}
                continue
            if name != STOCK:  # It is not judged.
                texts[own.text] = name
            run = own.compile()
            if name != STOCK:
                fact |= judge(problem, program, dtype, device, folded(problem, program, run(1)))
            programs[name] = run
        facts[name] = fact
    lost.end()
    timed = {name: run for name, run in programs.items() if "wrong" not in facts[name]}
    least = ceilings.least_seconds(problem, program, jnp.dtype(dtype).itemsize)
    for name, (low, median, high) in quartiles(timed, seconds).items():
        over_copy, over_matmul = (median / each for each in least)
        facts[name] |= {
            "milliseconds": 1e3 * median,
            "quartiles": [1e3 * low, 1e3 * high],
            "over_copy": over_copy,
            "over_matmul": over_matmul,
        }
    for name, fact in facts.items():
        if twin := fact.get("same_as"):
            facts[name] = fact | facts[twin]
    return Row(
        of=of,
        problem=str(problem),
        choice=best(facts),
        candidates=facts,
        kernels={name: LOWERINGS[name].version for name in names},
        made=made(),
    )


def judge(
    problem: Problem, program: Program, dtype: str, device: jax.Device, results: Arrays
) -> Facts:
    """Compare results with the definition: "errors", and "wrong" beyond what rounding explains.

    Args:
        problem: the layer.
        program: that was computed.
        dtype: of all operands.
        device: it was computed on.
        results: as `folded` returns them.
    """
    expected = problem.expected(dtype)
    limits = definition.allowed(problem.distinct, rounding(dtype, device.platform))
    errors: dict[str, float] = {}
    wrong = []
    for name, result in results.items():
        want = expected[name]
        if result.shape[1:] != want.shape:
            wrong.append(f"{name} has shape {result.shape[1:]} instead of {want.shape}")
            continue
        off = definition.error(result, want)
        if not np.isfinite(off):
            wrong.append(f"{name} is not finite")
            continue
        errors[name] = off
        if off > limits[name]:
            wrong.append(f"{name} is off by {off:.1e} (allowed: {limits[name]:.1e})")
    return {"errors": errors} | ({"wrong": wrong} if wrong else {})


def rounding(dtype: str, platform: str) -> float:
    """Return what factors and results may lose; float64 is judged as float32."""
    return definition.ROUNDING.get(dtype, {}).get(platform, 0.0)


def best(facts: Mapping[str, Mapping[str, Any]]) -> str:
    """Name the lowering to choose: the fastest, or the default where that is not clearly behind.

    Clearly is by 5 % and more, and where the quartiles of both times are apart.

    Example:
        >>> times = {"milliseconds": 2.0, "quartiles": [1.9, 2.1]}
        >>> best({"default": times, "native": {"milliseconds": 1.0, "quartiles": [0.9, 1.1]}})
        'native'
        >>> best({"default": times, "native": {"milliseconds": 1.8, "quartiles": [1.7, 1.95]}})
        'default'
    """
    timed = {name: each for name, each in facts.items() if "milliseconds" in each}
    lowerings = [name for name in timed if name in LOWERINGS]
    if not lowerings:
        return DEFAULT
    fastest = min(lowerings, key=lambda name: timed[name]["milliseconds"])
    if DEFAULT not in timed:
        return fastest
    ours, default = timed[fastest], timed[DEFAULT]
    is_behind = default["milliseconds"] > NEAR * ours["milliseconds"]
    return fastest if is_behind and default["quartiles"][0] > ours["quartiles"][1] else DEFAULT


def made() -> Facts:
    """Tell the date and the versions that a row is made with."""
    packages = ("flax_sepconv", "jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"date": now, "versions": versions}
