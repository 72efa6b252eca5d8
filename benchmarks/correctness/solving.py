"""A problem by one lowering; runs in a worker."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

import flax_sepconv as fsc
from benchmarks.case import RESULTS
from benchmarks.correctness.problems import Problem
from benchmarks.device.in_jax import device_of
from benchmarks.peers import in_jax
from flax_sepconv.ops.lowerings import Implementation


def solve(platform: str, problem: Problem, dtype: str, lowering: str) -> dict[str, np.ndarray]:
    """Compute the layer alone ("y forward"), and with all its gradients.

    Args:
        platform: of the device.
        problem: may be in copies: of theirs the least and the greatest entries are returned.
        dtype: of all operands.
        lowering: a name, or "selected" for what is taken by default.

    Returns:
        float32 arrays by name. Their first axis holds least and greatest of "y" and "dx", and one
        entry of the others, which are divided by the copies.
    """
    device = device_of(platform)
    x, *weights, dy = (jax.device_put(each, device) for each in problem.operands(dtype))
    x, dy = (jnp.tile(each, (problem.copies, 1, 1)) for each in (x, dy))
    if not problem.workload.filters:
        weights = weights[:1]
    lengths = () if problem.lengths is None else (jnp.asarray(problem.lengths, "int32"),)
    implementation = None if lowering == "selected" else cast(Implementation, lowering)
    layer = layer_of(problem, implementation)

    def program(name: str, *operands: jax.Array) -> Any:
        own = functools.partial(layer, lengths=operands[-1]) if lengths else layer
        return in_jax.functions(own)[name](*operands[: len(operands) - len(lengths)])

    names = {"forward": (x, *weights, *lengths), "forward_backward": (x, *weights, dy, *lengths)}
    lowered = [
        jax.jit(functools.partial(program, name)).lower(*operands)
        for name, operands in names.items()
    ]
    with ThreadPoolExecutor() as pool:  # Compilers take long, and one core each.
        calls = pool.map(lambda each: each.compile(), lowered)
        (y,), results = (
            call(*operands) for call, operands in zip(calls, names.values(), strict=True)
        )
    folded = functools.partial(_folded, copies=problem.copies)
    made = {name: folded(name, array) for name, array in zip(RESULTS, results, strict=False)}
    return {"y forward": folded("y", y), **made}


def layer_of(problem: Problem, implementation: Implementation | None) -> Callable[..., jax.Array]:
    """Make the problem's layer as a function of x, the weights and, by name, the lengths."""
    w = problem.workload
    convolve: Any = functools.partial(
        fsc.ops.separable_conv1d if w.filters else fsc.ops.depthwise_conv1d,
        strides=w.strides,
        padding=w.padding,
        dilation_rate=w.dilation_rate,
        implementation=implementation,
    )
    if problem.layers == 1:
        return convolve

    def stacked(x: jax.Array, *weights: jax.Array) -> jax.Array:
        for index in range(problem.layers):
            x = convolve(x, *(each[index] for each in weights))
        return x

    return stacked


def _folded(name: str, array: jax.Array, copies: int) -> np.ndarray:
    wide = np.asarray(array.astype(jnp.float32))
    if name not in ("y", "dx"):
        return wide[None] / copies
    tiles = wide.reshape(copies, -1, *wide.shape[1:])
    return np.stack([tiles.min(0), tiles.max(0)])
