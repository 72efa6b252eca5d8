"""What a program of the fused gradients does with one chunk of steps, phase by phase.

Phases hand dh over through memory. The row of the program's slot that holds output step l is
`l - (start + pad_low - reach)`: the first row is the first step that the chunk's inputs meet.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from flax_sepconv.ops.geometry import Geometry
from flax_sepconv.ops.triton.blocks import (
    Span,
    columns,
    dot,
    load,
    load_wide,
    loop,
    rows,
    store,
    turned,
    zeros,
)
from flax_sepconv.ops.triton.pointwise import add_products
from flax_sepconv.ops.triton.taps import Steps, carried_back, correlate, met
from flax_sepconv.ops.triton.tiles import GradientPlan


@dataclasses.dataclass(frozen=True)
class Part:
    """A chunk of steps of one sequence and a tile of channels: what a program does at a time.

    Attributes:
        b: the sequence.
        start: its first step.
        channels: of the arrays.
        split: where the program keeps its partial sums.
        slot: where the program keeps dh.
        is_first: whether the program did no chunk before.
    """

    plan: GradientPlan
    geometry: Geometry
    b: Any
    start: Any
    channels: Span
    split: Any
    slot: Any
    is_first: Any

    @property
    def slot_channels(self) -> Span:
        """Return the channels as columns of the slot."""
        return columns(0, self.plan.channels, self.plan.channels)

    @property
    def shape(self) -> tuple[int, int]:
        """Return the shape of a block: (steps, channels)."""
        return self.plan.steps, self.plan.channels

    def tile(self, t: Any) -> Steps:
        """Return the steps of one tile of the chunk."""
        return Steps(self.b, self.start + t * self.plan.steps, self.plan.steps)

    def before_end(self, limit: int) -> Any:
        """Return where the chunk ends, or a sequence of `limit` steps does."""
        return jnp.minimum(self.start + self.plan.chunk, limit)

    def held(self, first: Any, limit: int) -> Span:
        """Return a tile's rows of the slot."""
        return rows(first, self.plan.steps, limit)

    def accumulate(self, ref: Any, value: jax.Array, *position: Any) -> None:
        """Add to what the program keeps in memory, which holds anything at first."""
        store(ref, value + jnp.where(self.is_first, 0, load(ref, *position)), *position)


def contract(part: Part, dy: Any, w: Any, dh: Any, precision: Any) -> None:
    """Contract dy with the pointwise kernel, at all steps that the chunk's input steps meet."""
    plan, geometry = part.plan, part.geometry
    M, F = w.shape[1:]
    first = part.start + geometry.pad_low - geometry.reach

    def one_tile(t: Any, _: None) -> None:
        steps = rows(first + t * plan.steps, plan.steps, geometry.output_length)

        def add(f: Any, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            filters = columns(f, plan.filters, F)
            y = load(dy, part.b, steps, filters)
            return tuple(
                total + dot(y, load(w, turned(part.channels), m, filters), (1, 1), precision)
                for m, total in enumerate(sums)
            )

        sums = loop(pl.cdiv(F, plan.filters), add, (zeros(*part.shape),) * M)
        for m in range(M):
            store(
                dh, sums[m], part.slot, m, part.held(t * plan.steps, plan.held), part.slot_channels
            )

    loop(plan.held // plan.steps, one_tile, None)


def carry_back(part: Part, dh: Any, taps: Any, dx: Any) -> None:
    """Write the chunk's input gradient."""
    plan, geometry = part.plan, part.geometry

    def one_tile(t: Any, _: None) -> None:
        def cotangent(i: Any, m: int) -> jax.Array:
            first = t * plan.steps + geometry.reach - i * geometry.dilation
            return load_wide(dh, part.slot, m, part.held(first, plan.held), part.slot_channels)

        block = carried_back(cotangent, taps, part.shape, part.channels)
        span = part.tile(t).span(part.before_end(geometry.length))
        store(dx, block, part.b, span, part.channels)

    loop(plan.tiles, one_tile, None)


def correlate_taps(part: Part, dh: Any, x: Any, dk: Any) -> None:
    """Add the chunk's share of the depthwise kernel's gradient."""
    plan, geometry = part.plan, part.geometry
    M, K = dk.shape[1:3]
    first = geometry.reach - geometry.pad_low  # the slot's row of the chunk's first output step

    def inputs(t: Any, i: Any) -> jax.Array:
        return load_wide(x, part.b, met(part.tile(t), i, geometry), part.channels)

    for m in range(M):

        def cotangent(t: Any, m: int = m) -> jax.Array:
            span = part.held(first + t * plan.steps, first + plan.chunk)
            return load_wide(dh, part.slot, m, span, part.slot_channels)

        def keep(i: Any, total: jax.Array, m: int = m) -> None:
            part.accumulate(dk, total, part.split, m, i, part.channels)

        correlate(cotangent, inputs, plan.tiles, K, part.shape, keep)


def add_up(part: Part, block: Any, dy: Any, db: Any) -> None:
    """Add the chunk's share of the bias' gradient, for one of every `blocks` tiles of filters."""
    plan, F = part.plan, dy.shape[2]
    end = part.before_end(part.geometry.output_length)

    def one_tile(n: Any, _: None) -> None:
        filters = columns(n * plan.blocks + block, plan.bias_filters, F, exact=False)

        def add(t: Any, total: jax.Array) -> jax.Array:
            return total + load_wide(dy, part.b, part.tile(t).span(end), filters)

        total = loop(plan.tiles, add, zeros(plan.steps, plan.bias_filters))
        part.accumulate(db, total.sum(0)[None, :], part.split, filters)

    loop(pl.cdiv(F, plan.bias_filters * plan.blocks), one_tile, None)


def contract_steps(
    part: Part,
    sums: tuple[jax.Array, ...],
    x: Any,
    taps: Any,
    dy: Any,
    filters: Span,
    precision: Any,
) -> tuple[jax.Array, ...]:
    """Add the chunk's share of the pointwise kernel's gradient."""
    end = part.before_end(part.geometry.output_length)

    def add(t: Any, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        steps = part.tile(t)
        y = load(dy, part.b, steps.span(end), filters)
        return add_products(sums, x, taps, y, steps, part.channels, part.geometry, precision)

    return loop(part.plan.tiles, add, sums)
