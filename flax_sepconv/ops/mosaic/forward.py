"""Both stages in one kernel: the depthwise output goes from registers to the matrix unit."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.typing import DTypeLike

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
from flax_sepconv.ops.mosaic.plan import LANES, UNKNOWN, Chip, Plan, check, plan_output

# Tiles of channels that are contracted at once: they fill a matrix unit of 256 x 256 (v6e).
TOGETHER = 2


def separable(
    x: jax.Array,
    kernel: jax.Array,
    weights: jax.Array,
    bias: jax.Array | None,
    geometry: Geometry,
    dtype: DTypeLike,
    *,
    chip: Chip = UNKNOWN,
    precision: lax.PrecisionLike = None,
    interpret: bool = False,
) -> jax.Array:
    """Filter, then contract: (B, L, C), (K, C, 1), (C, F), (F,) -> (B, output_length, F).

    Raises:
        NotImplementedError: for what `declines` names, or does not fit on the chip.
    """
    check(geometry, x, kernel, weights)
    (B, _, C), F = x.shape, weights.shape[-1]
    cut = plan_output(geometry, C, F, x.dtype.itemsize, chip)
    # Where they share unevenly, the last program is computed by two of them.
    walk = Walk(cut, B, min(chip.cores, B * cut.blocks))

    def separable_output(*refs: Any) -> None:
        taps, w, *b, y, held = refs[3:]
        j = walk.place(pl.program_id(0), pl.program_id(2))[1]
        block = Block(refs[:3], cut, geometry.length, j)
        place_halos(held, block)
        for r in range(cut.steps // cut.strip):
            place(held, cut.halo + r * cut.strip, block.strip(r))
        for r in range(cut.steps // cut.strip):
            total = jnp.zeros((cut.strip, F), jnp.float32) if not b else b[0][...]
            for first in range(0, C // LANES, TOGETHER):
                # Each group's taps are summed while the group before is multiplied.
                tiles = range(first, min(first + TOGETHER, C // LANES))
                parts = [filtered(held, taps, c, r, cut, geometry).astype(x.dtype) for c in tiles]
                total += jnp.dot(
                    jnp.concatenate(parts, 1),
                    w[first * LANES : tiles.stop * LANES, :],
                    precision=precision,
                    preferred_element_type=jnp.float32,
                )
            y[r * cut.strip : (r + 1) * cut.strip, :] = total.astype(y.dtype)

    operands = [x, x, x, kernel[:, :, 0].astype(jnp.float32), weights]
    in_specs = [
        *walk.specs(C, geometry.length),
        walk.kept(*kernel.shape[:2]),
        walk.kept(C, F),
    ]
    if bias is not None:
        operands.append(bias.reshape(1, F).astype(jnp.float32))
        in_specs.append(walk.kept(1, F))
    (y,) = call(
        separable_output,
        operands,
        in_specs,
        [((B, geometry.output_length, F), dtype, walk.own(F))],
        [padded(cut, C)],
        grid=walk.grid,
        independent=3,
        limit=chip.limit,
        name="separable_output",
        interpret=interpret,
    )
    return y


def filtered(held: Any, taps: Any, c: int, r: int, cut: Plan, geometry: Geometry) -> jax.Array:
    """Return h of one strip and tile of channels, (R, 128), in float32."""

    def term(i: int) -> jax.Array:
        shift = i * geometry.dilation - geometry.pad_low
        tap: jax.Array = taps[i : i + 1, columns(c)]
        return met(held, c, r, shift, cut) * tap

    total = term(0)
    for i in range(1, geometry.kernel_size):
        total += term(i)
    return total
