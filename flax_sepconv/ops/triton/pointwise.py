"""The gradient of the pointwise kernel: h, computed again block by block, times dy."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from flax_sepconv.ops.geometry import Geometry
from flax_sepconv.ops.triton.blocks import (
    Span,
    call,
    columns,
    dot,
    load,
    loop,
    store,
    turned,
    zeros,
)
from flax_sepconv.ops.triton.taps import Steps, filtered
from flax_sepconv.ops.triton.tiles import pointwise_tile, split


def pointwise_gradient(
    x: jax.Array,
    kernel: jax.Array,
    dy: jax.Array,
    geometry: Geometry,
    *,
    precision: Any,
    interpret: bool,
) -> jax.Array:
    """Contract h and dy: (B, L, C), (K, C, M), (B, output_length, F) -> float32 (C*M, F).

    Each of several programs sums a part of all steps; XLA adds up what they found.
    """
    B, _, C = x.shape
    K, _, M = kernel.shape
    L, F = geometry.output_length, dy.shape[-1]
    tile = pointwise_tile(L, C, F, K, M, jnp.result_type(x, kernel, dy).itemsize)
    tiles = pl.cdiv(L, tile.steps)
    blocks = pl.cdiv(C, tile.channels), pl.cdiv(F, tile.filters)
    share, programs = split(B * tiles, blocks[0] * blocks[1], tile.residents)

    def separable_pointwise_gradient(x_ref: Any, taps: Any, dy_ref: Any, dw: Any) -> None:
        channels = columns(pl.program_id(0), tile.channels, C)
        filters = columns(pl.program_id(1), tile.filters, F)
        s = pl.program_id(2)

        def add(n: Any, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            t = s * share + n
            steps = Steps(t // tiles, t % tiles * tile.steps, tile.steps)
            y = load(dy_ref, steps.b, steps.span(L), filters)
            return add_products(sums, x_ref, taps, y, steps, channels, geometry, precision)

        count = jnp.minimum(share, B * tiles - s * share)
        sums = loop(count, add, (zeros(tile.channels, tile.filters),) * M)
        for m in range(M):
            store(dw, sums[m], s, turned(channels), m, filters)

    (partial,) = call(
        separable_pointwise_gradient,
        (x, kernel.transpose(2, 0, 1), dy),
        [((programs, C, M, F), jnp.float32)],
        grid=(*blocks, programs),
        warps=tile.warps,
        interpret=interpret,
    )
    return partial.sum(0).reshape(C * M, F)


def add_products(
    sums: tuple[jax.Array, ...],
    x: Any,
    taps: Any,
    y: jax.Array,
    steps: Steps,
    channels: Span,
    geometry: Geometry,
    precision: Any,
) -> tuple[jax.Array, ...]:
    """Add the products of h and of a block of dy, (steps, filters), to (channels, filters)."""
    multipliers = range(len(sums))
    h = filtered(x, taps, steps, channels, multipliers, geometry)
    dtype = jnp.promote_types(x.dtype, taps.dtype)
    return tuple(sums[m] + dot(h[m].astype(dtype), y, (0, 0), precision) for m in multipliers)
