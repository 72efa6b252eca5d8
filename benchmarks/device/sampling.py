"""What every framework computes with: few series, of which the batch of a workload holds copies.

So the reference in NumPy float64 is that of the few series, and yet it judges every number that a
program of the whole batch returns: of all copies the least and the greatest are compared.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks import reference
from benchmarks.case import RESULTS, Case, Operands
from benchmarks.workloads import Workload
from flax_sepconv.ops.tuning.definition import ROUNDING

DTYPES = ("bfloat16", "float32")


def distinct(workload: Workload) -> Workload:
    """Return the workload with a batch of the distinct series: two where copies make it whole."""
    return workload._replace(batch=1 if workload.batch % 2 else 2)


def copies(workload: Workload) -> int:
    """Return how often the batch holds each distinct series."""
    return workload.batch // distinct(workload).batch


def read(
    case: Case,
    count: int,
    results: Sequence[Any],
    least: Callable[[Any], np.ndarray],
    greatest: Callable[[Any], np.ndarray],
) -> dict[str, np.ndarray]:
    """Name a program's results, folded to the distinct series.

    Args:
        case: the distinct series in the framework's layouts.
        count: of the copies.
        results: float32 arrays on the device.
        least: takes the least entries along the first axis, into NumPy.
        greatest: takes the greatest.

    Returns:
        Arrays whose first axis holds least and greatest; gradients of weights, which sum over the
        copies, divided by their count.
    """
    sides = []
    for side in (least, greatest):
        folded = [
            side(array.reshape(count, -1, *array.shape[1:]))
            if name in ("y", "dx")
            else side(array[None] / count)
            for name, array in zip(RESULTS, results, strict=False)
        ]
        sides.append(case.read(folded))
    return {name: np.stack([side[name] for side in sides]) for name in sides[0]}


@functools.lru_cache(maxsize=1)
def expected(workload: Workload, dtype: str) -> dict[str, np.ndarray]:
    """Compute what a right program's folded results are, from operands rounded to the dtype."""
    few = distinct(workload)
    rounded = (array.astype(jnp.dtype(dtype)) for array in Case(few).operands())
    return reference.layer(few, Operands(*rounded))


def mistakes(
    workload: Workload, dtype: str, platform: str, results: dict[str, np.ndarray]
) -> list[str]:
    """Say which folded results differ from the expected ones by more than rounding."""
    want, rounding = expected(workload, dtype), ROUNDING[dtype][platform]
    found = (
        mistake
        for side in (0, 1)
        for mistake in reference.mistakes(
            workload, {name: pair[side] for name, pair in results.items()}, want, rounding
        )
    )
    return list(dict.fromkeys(found))
