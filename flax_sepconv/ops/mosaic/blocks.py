"""What a program sees: a block of steps, and on either side of it the steps that taps reach into.

A shifted block starts in the middle of a tile. Only 32-bit elements can be loaded from there at no
cost, so blocks are widened once into a `padded` buffer, (C / 128, H + T + H, 128), from which every
tap loads what it meets. All positions in it are static: so the compiler sees which loads a store
does not concern, and computes the taps of one strip beside the matrix product of another.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from flax_sepconv.ops.mosaic.plan import LANES, MEMORY, Plan


def specs(plan: Plan, width: int, length: int) -> list[pl.BlockSpec]:
    """Return how programs (b, j) see an array (B, length, width): steps before, own, and after.

    Indices stay within the array; what lies outside it is for `Block` to replace.
    """
    T, H = plan.steps, plan.halo
    last, last_halo = (length - 1) // T, (length - 1) // H

    def halo(index: Callable[[Any], Any]) -> pl.BlockSpec:
        return pl.BlockSpec(
            (None, H, width), lambda b, j: (b, jnp.clip(index(j), 0, last_halo), _zero())
        )

    return [
        halo(lambda j: j * (T // H) - 1),
        pl.BlockSpec((None, T, width), lambda b, j: (b, jnp.minimum(j, last), _zero())),
        halo(lambda j: (j + 1) * (T // H)),
    ]


def own(plan: Plan, width: int) -> pl.BlockSpec:
    """Return how programs (b, j) see their own steps of a result (B, L, width)."""
    return pl.BlockSpec((None, plan.steps, width), lambda b, j: (b, j, _zero()))


def whole(*shape: int) -> pl.BlockSpec:
    """Return how all programs see the same array."""
    return pl.BlockSpec(shape, lambda b, j: (_zero(),) * len(shape))


def _zero() -> jax.Array:
    """Programs count in int32, whatever JAX's default is."""
    zero: jax.Array = jnp.int32(0)
    return zero


def padded(plan: Plan, C: int) -> Any:
    """Return a buffer for a block of C channels and its halos."""
    return pltpu.VMEM((C // LANES, plan.steps + 2 * plan.halo, LANES), jnp.float32)


def columns(c: int) -> slice:
    """Return the channels of one tile."""
    return slice(c * LANES, (c + 1) * LANES)


class Block:
    """The own steps of program j and its halos, out of an array of `length` steps.

    Args:
        refs: what `specs` gives.
        plan: how steps are shared out.
        length: of the array; steps outside of it read zero.
    """

    def __init__(self, refs: Sequence[Any], plan: Plan, length: int):
        self.refs, self.plan, self.length = refs, plan, length
        self.exact = plan.blocks * plan.steps <= length

    def strip(self, r: int) -> jax.Array:
        """Return strip r of the own steps."""
        first = r * self.plan.strip
        values = self.refs[1][first : first + self.plan.strip, :]
        return values if self.exact else self._clean(values, first)

    def halo(self, after: bool) -> jax.Array:
        """Return the steps before or after the own ones."""
        first = self.plan.steps if after else -self.plan.halo
        return self._clean(self.refs[2 if after else 0][...], first)

    def _clean(self, values: jax.Array, first: int) -> jax.Array:
        """Replace what is not in the array (and may be anything, NaN too) by zero."""
        start = pl.program_id(1) * self.plan.steps + first
        steps = start + lax.broadcasted_iota(jnp.int32, (values.shape[0], 1), 0)
        inside = (steps >= 0) & (steps < self.length)
        return jnp.where(inside, values.astype(jnp.float32), 0.0).astype(values.dtype)


def place(buffer: Any, first: int, values: jax.Array) -> None:
    """Store (n, C) steps in a padded buffer, from row `first` on."""
    wide = values.astype(jnp.float32)
    for c in range(buffer.shape[0]):
        buffer[c, first : first + values.shape[0], :] = wide[:, columns(c)]


def place_halos(buffer: Any, block: Block) -> None:
    """Store both halos of a block in a padded buffer."""
    place(buffer, 0, block.halo(after=False))
    place(buffer, block.plan.halo + block.plan.steps, block.halo(after=True))


def met(buffer: Any, c: int, r: int, shift: int, plan: Plan) -> jax.Array:
    """Load the steps of strip r, moved by `shift`, of one tile of channels: (R, 128)."""
    first = plan.halo + r * plan.strip + shift
    steps: jax.Array = buffer[c, first : first + plan.strip, :]
    return steps


def call(
    kernel: Callable[..., None],
    operands: Sequence[jax.Array],
    in_specs: Sequence[pl.BlockSpec],
    results: Sequence[tuple[tuple[int, ...], Any, pl.BlockSpec]],
    scratch: Sequence[Any],
    *,
    grid: tuple[int, int],
    name: str,
    interpret: bool,
    sums: bool,
) -> list[jax.Array]:
    """Run a kernel, program after program: with `sums`, those over all of them stay on chip.

    Without, a chip with two cores (v4, v5p) may divide the programs between them.
    """
    semantics: Literal["arbitrary", "parallel"] = "arbitrary" if sums else "parallel"
    varying = jax.typeof(operands[0]).manual_axis_type
    made: list[jax.Array] = pl.pallas_call(
        kernel,
        out_shape=[
            jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=varying)
            for shape, dtype, _ in results
        ],
        grid=grid,
        in_specs=list(in_specs),
        out_specs=[spec for *_, spec in results],
        scratch_shapes=list(scratch),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=(semantics, semantics), vmem_limit_bytes=MEMORY + 4 * 2**20
        ),
        name=name,
        interpret=interpret,
    )(*operands)
    return made
