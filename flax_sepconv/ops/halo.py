"""Rows whose steps are divided among devices: each gets from its neighbours what its taps reach.

n devices hold the input steps in order, up to ceil(L / n) each, and the output steps alike. What
output steps read beyond the device's own input steps, the halo, is sent from device to device:
D * (K - 1) steps in all where output steps lie at input steps, and as many of the cotangent for the
gradients. Where no device is, beyond both ends of a sequence, zeros come: the padding.

All functions here are for inside a `shard_map`, or a program that is one device's.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from flax_sepconv.ops.geometry import Geometry
from flax_sepconv.ops.limits import Limit, align_rows, output_lengths, pad_steps, paddings
from flax_sepconv.ops.masking import zero_tails
from flax_sepconv.ops.permute import permute
from flax_sepconv.ops.sharding import Shards

Limits = tuple[jax.Array, ...]


class Rows(NamedTuple):
    """What one device needs for its own output steps.

    Attributes:
        x: (B, steps, C), with the halo.
        limits: of these rows, as an operation takes them.
        kind: of limits.
        geometry: of these rows.
        before: output steps in front of the device's own ones.
        steps: the device's own output steps.
        ends: where sequences end in these (B,), or None.
    """

    x: jax.Array
    limits: Limits
    kind: Limit
    geometry: Geometry
    before: int
    steps: int
    ends: jax.Array | None

    def own(self, y: jax.Array) -> jax.Array:
        """Cut what is not the device's own from a result, and set what is behind ends to zero."""
        if y.shape[1] != self.steps:
            y = lax.slice_in_dim(y, self.before, self.before + self.steps, axis=1)
        return y if self.ends is None else zero_tails(y, self.ends)


def rows_with_halo(
    x: jax.Array, limits: Limits, kind: Limit, geometry: Geometry, shards: Shards
) -> Rows:
    """Gather what the device's own output steps read.

    Args:
        x: the device's own steps (B, ceil(L / n), C).
        limits: lengths of whole sequences (B,), or the device's own segment ids.
        kind: of limits.
        geometry: of whole sequences.
        shards: how their steps are divided.
    """
    x = _without_padding(x, geometry.length, shards)
    steps = -(-geometry.output_length // shards.count)
    if kind == "segments":
        low, high = geometry.pad_low, geometry.reach - geometry.pad_low
        (ids,) = limits
        ids, x = (exchange(each, shards, low, high) for each in (ids, x))
        local = _of_equal_length(geometry, x.shape[1])
        return Rows(x, (ids,), kind, local, low, steps, None)
    least, spread, ends = geometry.pad_low, 0, None
    if kind == "lengths":
        least, spread = paddings(geometry)
        x = zero_tails(x, shards.own(limits[0], x.shape[1]))
        ends = shards.own(output_lengths(limits[0], geometry), steps)
    local = _valid(geometry, steps)
    drift = x.shape[1] - steps * geometry.stride
    before = [least + spread + i * drift for i in range(shards.count)]
    x = _window(x, shards, before, local.length + spread)
    if spread:
        x = align_rows(x, limits[0], geometry)
    return Rows(x, (), "whole", local, 0, steps, ends)


class Cotangents(NamedTuple):
    """What one device needs for its part of the gradients.

    Attributes:
        y: cotangents (B, steps, C*M), with the halo.
        limits, kind, geometry: of these and of the rows that they meet.
        rows: linear, from the device's own input steps to rows that meet these cotangents.
    """

    y: jax.Array
    limits: Limits
    kind: Limit
    geometry: Geometry
    rows: Callable[[jax.Array], jax.Array]


def cotangents_with_halo(
    y: jax.Array,
    limits: Limits,
    kind: Limit,
    geometry: Geometry,
    shards: Shards,
    largest: int,
    multiplier: int,
) -> Cotangents:
    """Gather the cotangents that the device's own input steps meet.

    One halo serves both gradients. But where that is too large, or strides are larger than 1 and
    output steps do not lie at input steps, the rows have the halo, and send it for each gradient.

    Args:
        y: the device's own cotangents (B, ceil(O / n), C*M).
        limits, kind, geometry, shards: as for `rows_with_halo`.
        largest: the halo of the cotangents may have so many times the values of the rows' halo.
        multiplier: M.
    """
    S, n, steps = geometry.stride, shards.count, y.shape[1]
    own = -(-geometry.length // n)
    drift = own - steps * S
    y = _without_padding(y, geometry.output_length, shards)
    if kind == "segments":
        low, high = geometry.reach - geometry.pad_low, geometry.pad_low
        (ids,) = limits
        ids, y = (exchange(each, shards, low, high) for each in (ids, y))
        local = _of_equal_length(geometry, y.shape[1])
        return Cotangents(y, (ids,), kind, local, lambda x: pad_steps(x, low, high))
    least, spread = geometry.pad_low, 0
    if kind == "lengths":
        least, spread = paddings(geometry)
        y = zero_tails(y, shards.own(output_lengths(limits[0], geometry), steps))
    if (S > 1 and drift) or multiplier > largest * S:
        local = _valid(geometry, steps)

        def with_halo(x: jax.Array) -> jax.Array:
            return rows_with_halo(x, limits, kind, geometry, shards).x

        return Cotangents(y, (), "whole", local, with_halo)
    low = max(0, (geometry.reach - least) // S)
    read = low + (own - 1 + spread + least) // S + 1
    y = _window(y, shards, [low - i * drift for i in range(n)], read)
    local = replace(
        geometry,
        length=own + spread,
        pad_low=least + low * S,
        output_length=read,
        same=False,
        behind=0,
    )

    def aligned(x: jax.Array) -> jax.Array:
        x = _without_padding(x, geometry.length, shards)
        if kind == "lengths":
            x = zero_tails(x, shards.own(limits[0], own))
        return align_rows(pad_steps(x, spread, spread), limits[0], geometry) if spread else x

    return Cotangents(y, (), "whole", local, aligned)


def exchange(x: jax.Array, shards: Shards, low: int, high: int) -> jax.Array:
    """Put so many steps of the devices before in front of the own ones, and of those behind."""
    before = [_from(x, shards, hop, take) for hop, take in reversed(_hops(low, x.shape[1]))]
    behind = [_from(x, shards, -hop, take) for hop, take in _hops(high, x.shape[1])]
    return lax.concatenate([*before, x, *behind], 1) if before or behind else x


def _hops(steps: int, length: int) -> list[tuple[int, int]]:
    """Part steps among devices that hold so many each: how far each is, and what it gives."""
    hops = range(1, -(-steps // length) + 1)
    return [(hop, min(length, steps - (hop - 1) * length)) for hop in hops]


def _from(x: jax.Array, shards: Shards, hop: int, take: int) -> jax.Array:
    """Return the last steps of the device so many before this one, or the first of one behind."""
    given = x[:, x.shape[1] - take :] if hop > 0 else x[:, :take]
    n = shards.count
    pairs = tuple((i, i + hop) for i in range(n) if 0 <= i + hop < n)
    return permute(given, shards.axes, pairs) if pairs else jnp.zeros_like(given)


def _window(x: jax.Array, shards: Shards, before: Sequence[int], read: int) -> jax.Array:
    """Gather `read` steps that begin so many steps before the own ones: of each device its own."""
    low = max(0, *before)
    high = max(0, *(read - x.shape[1] - each for each in before))
    x = exchange(x, shards, low, high)
    if len(set(before)) == 1:
        return lax.slice_in_dim(x, low - before[0], low - before[0] + read, axis=1)
    first = low - jnp.asarray(before, jnp.int32)[shards.index]
    return lax.dynamic_slice_in_dim(x, first, read, axis=1)


def _without_padding(x: jax.Array, steps: int, shards: Shards) -> jax.Array:
    """Set to zero what XLA puts behind the last step for all devices to hold as many steps."""
    if steps % shards.count == 0:
        return x
    end = shards.own(jnp.int32(steps), x.shape[1])
    return zero_tails(x, jnp.full(x.shape[0], end))


def _valid(geometry: Geometry, steps: int) -> Geometry:
    """Return the geometry of rows that hold what so many output steps read, padding included."""
    read = (steps - 1) * geometry.stride + geometry.reach + 1
    return replace(geometry, length=read, pad_low=0, output_length=steps, same=False, behind=0)


def _of_equal_length(geometry: Geometry, steps: int) -> Geometry:
    return replace(geometry, length=steps, output_length=steps, same=False)
