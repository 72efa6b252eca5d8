"""Both stages in one kernel: the depthwise output goes from registers to the tensor cores."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.typing import DTypeLike

from flax_sepconv.ops.geometry import Geometry
from flax_sepconv.ops.triton.blocks import (
    call,
    columns,
    dot,
    exact_unless_asked,
    load,
    load_wide,
    loop,
    store,
    turned,
    zeros,
)
from flax_sepconv.ops.triton.taps import Steps, filtered
from flax_sepconv.ops.triton.tiles import check, forward_tile


def separable_output(
    x: jax.Array,
    kernel: jax.Array,
    weights: jax.Array,
    bias: jax.Array | None,
    geometry: Geometry,
    dtype: DTypeLike,
    *,
    precision: lax.PrecisionLike = None,
    interpret: bool = False,
) -> jax.Array:
    """Compute both stages: (B, L, C), (K, C, M), (C*M, F), (F,) -> (B, output_length, F).

    Between the stages h is rounded to the common dtype of x and the kernel, as if it were written
    to memory; all sums are float32.

    Args:
        precision: of the pointwise contraction: None is full float32 ("highest"); "default" and
            "high" let float32 be rounded to TF32.

    Raises:
        NotImplementedError: for more than two multipliers, empty arrays, and dtypes other than
            float32, bfloat16 and float16.
    """
    check(x, kernel, weights, multiplier=kernel.shape[2])
    B, _, C = x.shape
    K, _, M = kernel.shape
    L, F = geometry.output_length, weights.shape[-1]
    h_dtype = jnp.result_type(x, kernel)
    itemsize = jnp.promote_types(h_dtype, weights.dtype).itemsize
    tile = forward_tile(B, L, C, F, K, M, itemsize)
    precision = exact_unless_asked(precision)

    def separable_output_kernel(x_ref: Any, taps: Any, w_ref: Any, *rest: Any) -> None:
        filters = columns(pl.program_id(0), tile.filters, F)
        steps = Steps(pl.program_id(2), pl.program_id(1) * tile.steps, tile.steps)

        def add(j: Any, sums: jax.Array) -> jax.Array:
            channels = columns(j, tile.channels, C)
            # Under way while the taps are summed.
            w = [load(w_ref, turned(channels), m, filters) for m in range(M)]
            h = filtered(x_ref, taps, steps, channels, range(M), geometry)
            for m in range(M):
                sums += dot(h[m].astype(h_dtype), w[m], (1, 0), precision)
            return sums

        sums = loop(pl.cdiv(C, tile.channels), add, zeros(tile.steps, tile.filters))
        if bias is not None:
            sums += load_wide(rest[0], 0, filters)
        store(rest[-1], sums, steps.b, steps.span(L), filters)

    operands = [x, kernel.transpose(2, 0, 1), weights.reshape(C, M, F)]
    if bias is not None:
        operands.append(bias.reshape(1, F))
    (y,) = call(
        separable_output_kernel,
        operands,
        [((B, L, F), dtype)],
        grid=(pl.cdiv(F, tile.filters), pl.cdiv(L, tile.steps), B),
        warps=tile.warps,
        interpret=interpret,
    )
    return y
