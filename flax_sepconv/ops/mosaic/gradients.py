"""All gradients of both stages in one pass: x and dy are read once, and dx is written once.

A program contracts dy with the weights into dh, strip by strip, and keeps it on chip; one strip
behind, it carries dh back through the taps, correlates it with x, and computes h once more to
contract it with dy. The sums over steps are kept on chip from a core's first program to its last;
those of several cores are added up behind the kernel. Where the weights and their gradients are too
large for the chip, the channels are cut into groups, one after the other, and dy is read for each.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from flax_sepconv.ops.geometry import Geometry
from flax_sepconv.ops.mosaic.blocks import (
    Block,
    Walk,
    call,
    columns,
    met,
    padded,
    place,
    place_halos,
)
from flax_sepconv.ops.mosaic.forward import filtered
from flax_sepconv.ops.mosaic.plan import (
    LANES,
    SUBLANES,
    UNKNOWN,
    Chip,
    Plan,
    check,
    plan_gradients,
)


def gradients(
    x: jax.Array,
    kernel: jax.Array,
    weights: jax.Array,
    dy: jax.Array,
    geometry: Geometry,
    *,
    bias: bool,
    chip: Chip = UNKNOWN,
    precision: lax.PrecisionLike = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Return (dx, dk, dw, db) for a cotangent dy, (B, output_length, F); db only with a bias.

    Raises:
        NotImplementedError: for what `declines` names, or does not fit on the chip.
    """
    check(geometry, x, kernel, weights)
    (B, L, C), (K, _, _), F = x.shape, kernel.shape, weights.shape[-1]
    dy = dy.astype(x.dtype)
    cut = plan_gradients(geometry, C, F, x.dtype.itemsize, chip)
    strips, own = cut.steps // cut.strip, C // cut.groups
    walk = Walk(cut, B, min(chip.cores, B * cut.blocks))

    def separable_gradients(*refs: Any) -> None:
        dk, dw, *db = refs[9 : 11 + bias]
        core, group, i = map(pl.program_id, range(3))
        _, j = walk.place(core, i)

        def begin(*totals: Any) -> None:
            for total in totals:
                total[...] = jnp.zeros_like(total)

        is_first = i == 0
        pl.when(is_first)(functools.partial(begin, dk, dw))
        pl.when(is_first & (group == 0))(functools.partial(begin, *db))
        if walk.is_even:
            add_up(refs, j, group)
        else:
            is_left = walk.number(core, i) < B * cut.blocks
            pl.when(is_left)(lambda: add_up(refs, j, group))

    def add_up(refs: Any, j: Any, group: Any) -> None:
        taps, w, dx, dk, dw, *db, held, dh = refs[6:]
        x_block = Block(refs[:3], cut, L, j)
        dy_block = Block(refs[3:6], cut, geometry.output_length, j)

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
            for c in range(own // LANES):
                block = carried_back(dh, held, taps, dk, c, r, cut, geometry)
                dx[r * cut.strip : (r + 1) * cut.strip, columns(c)] = block.astype(dx.dtype)
                h = filtered(held, taps, c, r, cut, geometry).astype(x.dtype)
                dw[columns(c), :] += contract(h, y, (0, 0), precision)
            if bias:
                add = functools.partial(add_folded, db[0], y)
                add() if cut.groups == 1 else pl.when(group == 0)(add)

    results = [
        ((B, L, C), x.dtype, walk.own(C, grouped=True)),
        sums_of(walk, K, SUBLANES, C, axis=2),
        sums_of(walk, C, F, axis=0),
        sums_of(walk, SUBLANES, F),
    ]
    dx, dk, dw, *db = call(
        separable_gradients,
        [x, x, x, dy, dy, dy, kernel[:, :, 0].astype(jnp.float32), weights],
        [
            *walk.specs(C, L, grouped=True),
            *walk.specs(F, geometry.output_length),
            walk.kept(K, C, axis=1),
            walk.kept(C, F, axis=0),
        ],
        results if bias else results[:3],
        [padded(cut, own), padded(cut, own)],
        grid=walk.grid,
        independent=1,
        limit=chip.limit,
        name="separable_gradients",
        interpret=interpret,
    )
    return (
        dx,
        dk.sum((0, 2))[:, :, None].astype(kernel.dtype),
        dw.sum(0).astype(weights.dtype),
        db[0].sum((0, 1)).astype(weights.dtype) if bias else None,
    )


def sums_of(
    walk: Walk, *shape: int, axis: int | None = None
) -> tuple[tuple[int, ...], Any, pl.BlockSpec]:
    """Return the type of every core's sums, and how programs see their own."""
    return (walk.cores, *shape), jnp.float32, walk.kept(*shape, by_core=True, axis=axis)


def add_folded(total: Any, values: jax.Array) -> None:
    """Add to the sums of every eighth step."""
    total[...] += folded(values.astype(jnp.float32))


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
