"""All gradients of both stages in one pass: x and dy are read once, and dx is written once.

A program contracts dy with the weights into dh, strip by strip, and keeps it on chip; one strip
behind, it carries dh back through the taps, correlates it with x, and computes h once more to
contract it with dy. The sums over steps are kept on chip from the first program to the last.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from flax_sepconv.ops.geometry import Geometry
from flax_sepconv.ops.mosaic.blocks import (
    Block,
    call,
    columns,
    met,
    own,
    padded,
    place,
    place_halos,
    specs,
    whole,
)
from flax_sepconv.ops.mosaic.forward import filtered
from flax_sepconv.ops.mosaic.plan import LANES, Plan, check, plan

# Sums over steps are kept for every eighth step apart: adding those up takes another unit.
SUBLANES = 8


def gradients(
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
    """Return (dx, dk, dw, db) for a cotangent dy, (B, output_length, F); db only with a bias.

    Raises:
        NotImplementedError: for what `declines` names.
    """
    check(geometry, x, kernel, weights)
    (B, L, C), (K, _, _), F = x.shape, kernel.shape, weights.shape[-1]
    dy = dy.astype(x.dtype)
    cut = plan(geometry, C, F, L)
    strips = cut.steps // cut.strip

    def separable_gradients(*refs: Any) -> None:
        taps, w, dx, dk, dw, *db, held, dh = refs[6:]
        x_block = Block(refs[:3], cut, L)
        dy_block = Block(refs[3:6], cut, geometry.output_length)

        @pl.when((pl.program_id(0) == 0) & (pl.program_id(1) == 0))
        def _() -> None:
            for total in (dk, dw, *db):
                total[...] = jnp.zeros_like(total)

        def prepare(r: int) -> None:
            place(held, cut.halo + r * cut.strip, x_block.strip(r))
            first, steps = with_halos(dy_block, r)
            place(dh, first, contract(steps, w[...], (1, 1), precision))

        place_halos(held, x_block)
        prepare(0)
        for r in range(strips):
            if r + 1 < strips:
                prepare(r + 1)
            y = dy_block.strip(r)
            for c in range(C // LANES):
                block = carried_back(dh, held, taps, dk, c, r, cut, geometry)
                dx[r * cut.strip : (r + 1) * cut.strip, columns(c)] = block.astype(dx.dtype)
                h = filtered(held, taps, c, r, cut, geometry).astype(x.dtype)
                dw[columns(c), :] += contract(h, y, (0, 0), precision)
            if bias:
                db[0][...] += folded(y.astype(jnp.float32))

    results = [
        ((B, L, C), x.dtype, own(cut, C)),
        ((K, SUBLANES, C), jnp.float32, whole(K, SUBLANES, C)),
        ((C, F), jnp.float32, whole(C, F)),
        ((SUBLANES, F), jnp.float32, whole(SUBLANES, F)),
    ]
    dx, dk, dw, *db = call(
        separable_gradients,
        [x, x, x, dy, dy, dy, kernel[:, :, 0].astype(jnp.float32), weights],
        [*specs(cut, C, L), *specs(cut, F, geometry.output_length), whole(K, C), whole(C, F)],
        results if bias else results[:3],
        [padded(cut, C), padded(cut, C)],
        grid=(B, cut.blocks),
        name="separable_gradients",
        interpret=interpret,
        sums=True,
    )
    return (
        dx,
        dk.sum(1)[:, :, None].astype(kernel.dtype),
        dw.astype(weights.dtype),
        db[0].sum(0).astype(weights.dtype) if bias else None,
    )


def with_halos(block: Block, r: int) -> tuple[int, jax.Array]:
    """Return a strip, with the halo that lies beside it, and its first row in a padded buffer."""
    cut = block.plan
    first, parts = cut.halo + r * cut.strip, [block.strip(r)]
    if r == 0:
        first, parts = 0, [block.halo(after=False), *parts]
    if (r + 1) * cut.strip == cut.steps:
        parts.append(block.halo(after=True))
    return first, jnp.concatenate(parts)


def carried_back(
    dh: Any, x: Any, taps: Any, dk: Any, c: int, r: int, cut: Plan, geometry: Geometry
) -> jax.Array:
    """Return dx of one strip and tile of channels, and add to dk what the strip gives."""
    own_steps = met(x, c, r, 0, cut)
    total = jnp.zeros_like(own_steps)
    for i in range(geometry.kernel_size):
        meeting = met(dh, c, r, geometry.pad_low - i * geometry.dilation, cut)
        total += meeting * taps[i : i + 1, columns(c)]
        dk[i, :, columns(c)] += folded(meeting * own_steps)
    return total


def folded(values: jax.Array) -> jax.Array:
    """Add up every eighth step: (R, n) -> (8, n)."""
    return values.reshape(-1, SUBLANES, values.shape[1]).sum(0)


def contract(
    a: jax.Array, b: jax.Array, axes: tuple[int, int], precision: lax.PrecisionLike
) -> jax.Array:
    """Contract one axis of each of two matrices, summed in float32."""
    return lax.dot_general(
        a,
        b,
        (((axes[0],), (axes[1],)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    )
