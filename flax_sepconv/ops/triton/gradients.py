"""All gradients of both stages, without h or its cotangent in memory.

A program owns a tile of channels and walks over chunks of steps. For each chunk it contracts dy
with its rows of the pointwise kernel into dh. A block in registers cannot be shifted, so it keeps
dh in a slot of its own, small enough to stay in the caches, and loads it from there to carry it
back through the taps. What is summed over steps (the gradients of kernels and bias) are partial
sums, added up by XLA afterwards: no atomics, and the same bits on every run.

Programs that walk over the same steps for other channels run at the same time, so that dy comes
from memory once and from the second-level cache for the rest of them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from flax_sepconv.ops.geometry import Geometry
from flax_sepconv.ops.triton import chunk as phases
from flax_sepconv.ops.triton.blocks import (
    barrier,
    call,
    columns,
    exact_unless_asked,
    loop,
    store,
    turned,
    zeros,
)
from flax_sepconv.ops.triton.pointwise import pointwise_gradient
from flax_sepconv.ops.triton.tiles import GradientPlan, check, gradient_plan


def separable_gradients(
    x: jax.Array,
    kernel: jax.Array,
    weights: jax.Array,
    dy: jax.Array,
    geometry: Geometry,
    *,
    bias: bool,
    precision: lax.PrecisionLike = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Return the gradients of x, of both kernels and of the bias, each of its argument's dtype.

    Shapes (B, L, C), (K, C, M), (C*M, F), (B, output_length, F); the bias' is of the weights'
    dtype, or None where there is no bias. x and dy are read from memory once, and dx is written
    once, where the gradient of the weights fits in registers (`GradientPlan.joint`); elsewhere that
    gradient is a second kernel, which reads x and dy once more.

    Args:
        precision: of the contractions over channels, filters and steps: None is full float32
            ("highest"); "default" and "high" let float32 be rounded to TF32.

    Raises:
        NotImplementedError: for strides > 1, more than two multipliers, empty arrays, and dtypes
            other than float32, bfloat16 and float16.
    """
    check(x, kernel, weights, dy, multiplier=kernel.shape[2], stride=geometry.stride)
    precision = exact_unless_asked(precision)
    B, L, C = x.shape
    K, _, M = kernel.shape
    F = weights.shape[-1]
    h_dtype = jnp.result_type(x, kernel)
    itemsize = jnp.result_type(h_dtype, weights, dy).itemsize
    plan = gradient_plan(geometry, B, C, F, M, itemsize)
    blocks, splits = plan.blocks, plan.splits
    results = [
        ((B, L, C), x.dtype),
        ((splits, M, K, C), jnp.float32),
        ((splits, F), jnp.float32),
        ((splits * blocks, M, plan.held, plan.channels), h_dtype),
    ]
    if plan.joint:
        results.append(((splits, C, M, F), jnp.float32))
    dx, dk, db, _, *dw = call(
        _kernel(plan, geometry, bias, precision, interpret),
        (x, kernel.transpose(2, 0, 1), weights.reshape(C, M, F), dy),
        results,
        grid=(blocks, splits),
        warps=plan.warps,
        stages=plan.stages,
        interpret=interpret,
    )
    if plan.joint:
        dw_sum = dw[0].sum(0).reshape(C * M, F)
    else:
        dw_sum = pointwise_gradient(
            x, kernel, dy, geometry, precision=precision, interpret=interpret
        )
    return (
        dx,
        dk.sum(0).transpose(1, 2, 0).astype(kernel.dtype),
        dw_sum.astype(weights.dtype),
        db.sum(0).astype(weights.dtype) if bias else None,
    )


def _kernel(
    plan: GradientPlan, geometry: Geometry, bias: bool, precision: Any, interpret: bool
) -> Any:
    """Make the program: it walks over its chunks and keeps the sums for the pointwise kernel."""
    # An interpreted program has one thread, which need not (and cannot) wait for others.
    wait: Callable[[], None] = (lambda: None) if interpret else barrier

    def separable_gradients_kernel(
        x: Any, taps: Any, w: Any, dy: Any, dx: Any, dk: Any, db: Any, dh: Any, *dw: Any
    ) -> None:
        B, _, C = x.shape
        M, F = w.shape[1:]
        block, split = pl.program_id(0), pl.program_id(1)
        channels, filters = columns(block, plan.channels, C), columns(0, plan.all_filters, F)

        def walk(n: Any, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            item = split * plan.share + n
            b, start = item // plan.chunks, item % plan.chunks * plan.chunk
            part = phases.Part(
                plan, geometry, b, start, channels, split, split * plan.blocks + block, n == 0
            )
            phases.contract(part, dy, w, dh, precision)
            wait()
            phases.carry_back(part, dh, taps, dx)
            phases.correlate_taps(part, dh, x, dk)
            if bias:
                phases.add_up(part, block, dy, db)
            if plan.joint:
                sums = phases.contract_steps(part, sums, x, taps, dy, filters, precision)
            wait()
            return sums

        count = jnp.minimum(plan.share, B * plan.chunks - split * plan.share)
        empty = (zeros(plan.channels, plan.all_filters),) * M if plan.joint else ()
        sums = loop(count, walk, empty)
        for m, total in enumerate(sums):
            store(dw[0], total, split, turned(channels), m, filters)

    return separable_gradients_kernel
