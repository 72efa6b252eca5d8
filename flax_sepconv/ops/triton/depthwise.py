"""The depthwise stage alone: its three contractions, one kernel each."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.typing import DTypeLike

from flax_sepconv.ops.geometry import Geometry
from flax_sepconv.ops.triton.blocks import call, columns, load_wide, store
from flax_sepconv.ops.triton.taps import Steps, carried_back, correlate, filtered, meeting, met
from flax_sepconv.ops.triton.tiles import check, depthwise_tile, split


def output(
    x: jax.Array,
    kernel: jax.Array,
    geometry: Geometry,
    dtype: DTypeLike,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Filter every channel: (B, L, C), (K, C, M) -> (B, output_length, C*M)."""
    check(x, kernel)
    B, _, C = x.shape
    M, L = kernel.shape[2], geometry.output_length
    tile = depthwise_tile(L, C)

    def depthwise_output(x_ref: Any, taps: Any, h: Any) -> None:
        m = pl.program_id(0)
        channels = columns(pl.program_id(1), tile.channels, C)
        steps = Steps(pl.program_id(3), pl.program_id(2) * tile.steps, tile.steps)
        (block,) = filtered(x_ref, taps, steps, channels, (m,), geometry)
        store(h, block, steps.b, steps.span(L), channels, m)

    (h,) = call(
        depthwise_output,
        (x, kernel.transpose(2, 0, 1)),
        [((B, L, C, M), dtype)],
        grid=(M, pl.cdiv(C, tile.channels), pl.cdiv(L, tile.steps), B),
        warps=tile.warps,
        interpret=interpret,
    )
    return h.reshape(B, L, C * M)


def input_gradient(
    dh: jax.Array,
    kernel: jax.Array,
    geometry: Geometry,
    dtype: DTypeLike,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Carry a cotangent back: (B, output_length, C*M), (K, C, M) -> (B, L, C)."""
    check(dh, kernel)
    B, L = dh.shape[0], geometry.length
    _, C, M = kernel.shape
    tile = depthwise_tile(L, C)

    def depthwise_input_gradient(dh_ref: Any, taps: Any, dx: Any) -> None:
        channels = columns(pl.program_id(0), tile.channels, C)
        steps = Steps(pl.program_id(2), pl.program_id(1) * tile.steps, tile.steps)

        def cotangent(i: Any, m: int) -> jax.Array:
            return load_wide(dh_ref, steps.b, meeting(steps, i, geometry), channels, m)

        block = carried_back(cotangent, taps, (tile.steps, tile.channels), channels)
        store(dx, block, steps.b, steps.span(L), channels)

    (dx,) = call(
        depthwise_input_gradient,
        (dh.reshape(*dh.shape[:2], C, M), kernel.transpose(2, 0, 1)),
        [((B, L, C), dtype)],
        grid=(pl.cdiv(C, tile.channels), pl.cdiv(L, tile.steps), B),
        warps=tile.warps,
        interpret=interpret,
    )
    return dx


def kernel_gradient(
    x: jax.Array,
    dh: jax.Array,
    geometry: Geometry,
    dtype: DTypeLike,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Correlate inputs and cotangents: (B, L, C), (B, output_length, C*M) -> (K, C, M).

    Each of several programs sums a part of all steps; XLA adds up what they found.
    """
    check(x, dh)
    B, _, C = x.shape
    K, L, M = geometry.kernel_size, geometry.output_length, dh.shape[-1] // C
    tile = depthwise_tile(L, C)
    tiles, blocks = pl.cdiv(L, tile.steps), pl.cdiv(C, tile.channels)
    share, programs = split(B * tiles, M * blocks, tile.residents)

    def depthwise_kernel_gradient(x_ref: Any, dh_ref: Any, dk: Any) -> None:
        m, s = pl.program_id(0), pl.program_id(2)
        channels = columns(pl.program_id(1), tile.channels, C)

        def steps(t: Any) -> Steps:
            position = s * share + t
            return Steps(position // tiles, position % tiles * tile.steps, tile.steps)

        def cotangent(t: Any) -> jax.Array:
            return load_wide(dh_ref, steps(t).b, steps(t).span(L), channels, m)

        def inputs(t: Any, i: Any) -> jax.Array:
            return load_wide(x_ref, steps(t).b, met(steps(t), i, geometry), channels)

        def keep(i: Any, total: jax.Array) -> None:
            store(dk, total, s, m, i, channels)

        count = jnp.minimum(share, B * tiles - s * share)
        correlate(cotangent, inputs, count, K, (tile.steps, tile.channels), keep)

    (partial,) = call(
        depthwise_kernel_gradient,
        (x, dh.reshape(B, L, C, M)),
        [((programs, M, K, C), jnp.float32)],
        grid=(M, blocks, programs),
        warps=tile.warps,
        interpret=interpret,
    )
    return partial.sum(0).transpose(1, 2, 0).astype(dtype)
