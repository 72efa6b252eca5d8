"""What a program sees: a block of steps, and on either side of it the steps that taps reach into.

A shifted block starts in the middle of a tile. Only 32-bit elements can be loaded from there at no
cost, so blocks are widened once into a `padded` buffer, (C / 128, H + T + H, 128), from which every
tap loads what it meets. All positions in it are static: so the compiler sees which loads a store
does not concern, and computes the taps of one strip beside the matrix product of another.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from flax_sepconv.ops.mosaic.plan import LANES, Plan


@dataclasses.dataclass(frozen=True)
class Walk:
    """How a call's programs, in the order of its grid, go through what is to be done.

    Attributes:
        plan: how steps and channels are shared out.
        batch: B, elements.
        cores: that share the programs of each group of channels; each has as many, and the last one
            may have one that finds nothing left.
    """

    plan: Plan
    batch: int
    cores: int = 1

    @property
    def each(self) -> int:
        """Programs of a core for each group of channels."""
        return -(-self.batch * self.plan.blocks // self.cores)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Cores, groups of channels, and programs of each."""
        return self.cores, self.plan.groups, self.each

    @property
    def is_even(self) -> bool:
        """Whether every core has as much to do."""
        return self.cores * self.each == self.batch * self.plan.blocks

    def number(self, core: Any, i: Any) -> Any:
        """Return which of all programs is a core's i-th one."""
        return core * jnp.int32(self.each) + i

    def place(self, core: Any, i: Any) -> tuple[Any, Any]:
        """Return the element of the batch and the block of steps of a core's i-th program."""
        last = jnp.int32(self.batch * self.plan.blocks - 1)
        blocks, number = jnp.int32(self.plan.blocks), jnp.minimum(self.number(core, i), last)
        return lax.div(number, blocks), lax.rem(number, blocks)

    def specs(self, width: int, length: int, grouped: bool = False) -> list[pl.BlockSpec]:
        """Return how programs see an array (B, length, width): steps before, own, and after.

        Indices stay within the array; what lies outside it is for `Block` to replace.
        """
        T, H = self.plan.steps, self.plan.halo
        last, last_halo = (length - 1) // T, (length - 1) // H

        def halo(index: Callable[[Any], Any]) -> pl.BlockSpec:
            return self._spec(H, width, lambda j: jnp.clip(index(j), 0, last_halo), grouped)

        return [
            halo(lambda j: j * (T // H) - 1),
            self._spec(T, width, lambda j: jnp.minimum(j, last), grouped),
            halo(lambda j: (j + 1) * (T // H)),
        ]

    def own(self, width: int, grouped: bool = False) -> pl.BlockSpec:
        """Return how programs see their own steps of a result (B, L, width)."""
        return self._spec(self.plan.steps, width, lambda j: j, grouped)

    def _spec(
        self, steps: int, width: int, index: Callable[[Any], Any], grouped: bool
    ) -> pl.BlockSpec:
        """Return how programs see blocks of steps; where it is grouped, of their own channels."""

        def at(core: Any, g: Any, i: Any) -> tuple[Any, Any, Any]:
            b, j = self.place(core, i)
            return b, index(j), g if grouped else _zero()

        return pl.BlockSpec((None, steps, width // (self.plan.groups if grouped else 1)), at)

    def kept(self, *shape: int, by_core: bool = False, axis: int | None = None) -> pl.BlockSpec:
        """Return how programs see an array that stays on chip.

        Args:
            shape: of the array, or of each core's where it begins with an axis of these.
            by_core: whether it does.
            axis: of the channels, where programs see those of their group alone.
        """
        sizes = tuple(n // self.plan.groups if a == axis else n for a, n in enumerate(shape))

        def at(core: Any, g: Any, i: Any) -> tuple[Any, ...]:
            index = tuple(g if a == axis else _zero() for a in range(len(shape)))
            return (core, *index) if by_core else index

        return pl.BlockSpec((None,) * by_core + sizes, at, pipeline_mode=pl.Buffered(1))


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
        refs: what `Walk.specs` gives.
        plan: how steps are shared out.
        length: of the array; steps outside of it read zero.
        j: which block of the array's steps it is.
    """

    def __init__(self, refs: Sequence[Any], plan: Plan, length: int, j: Any):
        self.refs, self.plan, self.length, self.j = refs, plan, length, j
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
        start = self.j * self.plan.steps + first
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
    grid: tuple[int, int, int],
    independent: int,
    limit: int,
    name: str,
    interpret: bool,
) -> list[jax.Array]:
    """Run a kernel, program after program.

    Args:
        kernel: what a program does.
        operands, in_specs: and how programs see them.
        results: shapes and dtypes, and how programs see them.
        scratch: what a program has on chip besides.
        grid: of programs.
        independent: the first so many axes of the grid, along which programs share nothing that
            stays on chip: a chip with two cores (v4, v5p) divides these between them.
        limit: bytes of memory on chip that the compiler may use.
        name: of the kernel.
        interpret: whether to run on CPU.
    """
    semantics: list[Literal["arbitrary", "parallel"]] = ["parallel"] * independent
    semantics += ["arbitrary"] * (len(grid) - independent)
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
            dimension_semantics=tuple(semantics), vmem_limit_bytes=limit
        ),
        name=name,
        interpret=interpret,
    )(*operands)
    return made
