"""The sums over taps and over steps of one block, which all kernels are made of.

Every tap loads the steps that it meets once more: they come from the first-level cache.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from flax_sepconv.ops.geometry import Geometry
from flax_sepconv.ops.triton.blocks import Carry, Span, load_wide, loop, rows, zeros

# Taps that one turn of a loop does: enough for loads to overlap, and few enough registers that
# two programs share a multiprocessor.
AT_A_TIME = 2


@dataclasses.dataclass(frozen=True)
class Steps:
    """Consecutive steps of sequence b: `count` of them from `first` on."""

    b: Any
    first: Any
    count: int

    def span(self, limit: Any) -> Span:
        """Return them as rows of a block, those from `limit` on masked."""
        return rows(self.first, self.count, limit)


def over_taps(K: int, body: Callable[[Any, Carry], Carry], carry: Carry) -> Carry:
    """Run `body(i, carry)` for every tap."""

    def several(group: Any, carry: Carry) -> Carry:
        for i in range(AT_A_TIME):
            carry = body(group * AT_A_TIME + i, carry)
        return carry

    if K >= AT_A_TIME:
        carry = loop(K // AT_A_TIME, several, carry)
    for i in range(K - K % AT_A_TIME, K):
        carry = body(i, carry)
    return carry


def met(steps: Steps, tap: Any, geometry: Geometry) -> Span:
    """Return the input steps that these output steps read through a tap."""
    start = steps.first * geometry.stride + tap * geometry.dilation - geometry.pad_low
    return rows(start, steps.count, geometry.length, geometry.stride)


def meeting(steps: Steps, tap: Any, geometry: Geometry) -> Span:
    """Return the output steps that read these input steps through a tap."""
    S = geometry.stride
    start = steps.first + geometry.pad_low - tap * geometry.dilation
    if S == 1:
        return rows(start, steps.count, geometry.output_length)
    index = rows(start, steps.count, 0).index
    inside = (
        (index >= 0) & (index < geometry.output_length * S) & (lax.rem(index, jnp.int32(S)) == 0)
    )
    return Span(lax.div(index, jnp.int32(S)), inside)


def filtered(
    x: Any,
    taps: Any,
    steps: Steps,
    channels: Span,
    multipliers: Sequence[Any],
    geometry: Geometry,
) -> tuple[jax.Array, ...]:
    """Return h at these output steps, one float32 block for each of the multipliers.

    `x` is (B, L, C) and `taps` is (M, K, C).
    """

    def add(i: Any, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        block = load_wide(x, steps.b, met(steps, i, geometry), channels)
        return tuple(
            total + block * load_wide(taps, m, i, channels)
            for total, m in zip(sums, multipliers, strict=True)
        )

    empty = zeros(steps.count, channels.index.shape[1])
    return over_taps(geometry.kernel_size, add, (empty,) * len(multipliers))


def carried_back(
    cotangent: Callable[[Any, int], jax.Array], taps: Any, shape: tuple[int, int], channels: Span
) -> jax.Array:
    """Return the input gradient of a block; `cotangent(i, m)` is what it meets in tap i."""
    M, K, _ = taps.shape

    def add(i: Any, total: jax.Array) -> jax.Array:
        for m in range(M):
            total += cotangent(i, m) * load_wide(taps, m, i, channels)
        return total

    return over_taps(K, add, zeros(*shape))


def correlate(
    cotangent: Callable[[Any], jax.Array],
    inputs: Callable[[Any, Any], jax.Array],
    tiles: Any,
    K: int,
    shape: tuple[int, int],
    keep: Callable[[Any, jax.Array], None],
) -> None:
    """Sum the products of cotangents and inputs over the steps of all tiles, tap by tap.

    Adding block to block is cheap and summing over a block is not, so that is done once for a tap:
    the loop over tiles is inside the one over taps. `keep(i, sum)` takes the sum, (1, channels).
    """

    def group(first: Any, size: int) -> None:
        def add(tile: Any, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            block = cotangent(tile)
            return tuple(sums[i] + block * inputs(tile, first + i) for i in range(size))

        sums = loop(tiles, add, (zeros(*shape),) * size)
        for i in range(size):
            keep(first + i, sums[i].sum(0)[None, :])

    if K >= AT_A_TIME:
        loop(K // AT_A_TIME, lambda index, _: group(index * AT_A_TIME, AT_A_TIME), None)
    if K % AT_A_TIME:
        group(K - K % AT_A_TIME, K % AT_A_TIME)
