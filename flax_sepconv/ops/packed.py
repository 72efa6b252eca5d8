"""Packed rows: sequences one behind the other, and what came before each of them.

A row has room for the states of its first N sequences, in slots: the n-th slot belongs to the n-th
segment. The operation is linear in x, so what came before a segment adds to its first D*(K-1)
output steps what these few steps alone give. That is computed for all slots at once and added; the
rest is the call that packed rows are without states, and x is not copied.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from flax_sepconv.ops import state as state_lib
from flax_sepconv.ops.geometry import Geometry, PaddingRule
from flax_sepconv.ops.lengths import integers
from flax_sepconv.ops.lowerings import LOWERINGS
from flax_sepconv.ops.primitives import compiled
from flax_sepconv.ops.sharding import axes_of, by_row, mesh_of, sharding_on
from flax_sepconv.ops.state import StreamState


class Slots(NamedTuple):
    """Which steps of their rows the first N segments are, and what came before each.

    Attributes:
        history: (B, N, D*(K-1), C).
        first: (B, N) int32, the step at which a segment begins.
        lengths: (B, N) int32, its steps; 0 where the row has no such segment.
    """

    history: jax.Array
    first: jax.Array
    lengths: jax.Array


def ids_of(
    segment_ids: ArrayLike,
    shape: tuple[int, ...],
    geometry: Geometry,
    padding: PaddingRule,
    implementation: str | None,
) -> jax.Array:
    """Check segment ids against the shape (..., L), and return them as int32 (B, L)."""
    is_short = padding == "valid" or geometry.output_length != geometry.length
    if geometry.stride != 1 or is_short:
        raise ValueError(
            "segment_ids need padding 'same', 'causal' or one of D*(K-1) zeros in all, and strides "
            f"1, got padding={padding!r} and strides={geometry.stride}"
        )
    if implementation is not None and "segments" not in LOWERINGS[implementation].limits:
        able = [name for name, lowering in LOWERINGS.items() if "segments" in lowering.limits]
        raise NotImplementedError(
            f"implementation={implementation!r} knows no segments: with segment_ids it must be "
            f"None or one of {', '.join(map(repr, able))}"
        )
    ids = integers("segment_ids", segment_ids, shape, "batch dimensions and steps of x")
    ids = jnp.asarray(ids).reshape(-1, shape[-1])
    if ids.dtype.itemsize == 8:  # Neighbours may differ in the upper half alone.
        ids = jnp.cumsum(ids != jnp.roll(ids, 1, axis=1), axis=1)
    return ids.astype(jnp.int32)


def slots_of(
    state: StreamState | None,
    x: jax.Array,
    ids: jax.Array,
    lengths: jax.Array | None,
    geometry: Geometry,
    row: StreamState,
    last: bool,
) -> tuple[Slots, StreamState]:
    """Find the steps that the states of segments belong to, and return the states behind these.

    Args:
        state: what came before the first N segments of each row, laid out as the caller's arrays.
        x: (B, L, C), the rows.
        ids: of segments (B, L).
        lengths: where rows end (B,), or None.
        geometry: of the rows.
        row: the state of rows that were each a stream.
        last: whether the caller's channels are.
    """
    if geometry.pad_low != geometry.reach:
        raise ValueError(
            "segment_ids with initial_state need padding 'causal', D*(K-1) zeros in front, got "
            f"{geometry.pad_low} with D*(K-1)={geometry.reach}"
        )
    if state is None:
        raise ValueError(
            "segment_ids with return_state need initial_state, whose shape says for how many "
            "segments of a row there is a state: ops.initial_state(..., segments=N) begins N"
        )
    if axes_of(x, 1):
        raise ValueError(
            "the steps of packed rows must not be divided where there are states, and those of x "
            f"are, by {axes_of(x, 1)!r}"
        )
    _check(state, row, last)
    slots = state.history.shape[:-2]
    history = state_lib.reshaped(state, slots, last).history
    history = history.reshape(x.shape[0], *history.shape[-3:])
    history, ids, lengths = _divided_like(x, history, ids, lengths)
    found = Slots(history, *_spans(ids, lengths, slots[-1]))
    behind = _histories_behind(found, x).reshape(*slots, *history.shape[-2:])
    return found, StreamState(behind if last else behind.swapaxes(-1, -2))


def _divided_like(x: jax.Array, *arrays: Any) -> tuple[Any, ...]:
    """Divide histories, ids and lengths among devices as the rows are, where types tell that."""
    mesh = mesh_of(x)
    if mesh is None:
        return arrays
    spec = axes_of(x, 0), None, None, axes_of(x, 2)
    return tuple(
        None if a is None else jax.reshard(a, sharding_on(mesh, *spec[: a.ndim])) for a in arrays
    )


def _check(state: StreamState, row: StreamState, last: bool) -> None:
    """Raise unless a state is one for segments of rows whose own state would be another one."""
    wanted = row.history
    shape = jnp.shape(state.history) if isinstance(state, StreamState) else wanted.shape
    if isinstance(state, StreamState) and len(shape) != wanted.ndim + 1:
        form = "(..., N, D*(K-1), C)" if last else "(..., N, C, D*(K-1))"
        raise ValueError(
            f"with segment_ids the state's history must have shape {form}, rank {wanted.ndim + 1}, "
            f"for N segments of a row, got {shape}: ops.initial_state(..., segments=N) makes one"
        )
    slots = (*wanted.shape[:-2], shape[-3], *wanted.shape[-2:])
    expected = row.replace(history=jax.ShapeDtypeStruct(slots, wanted.dtype))
    state_lib.check("the state", state, expected, last)


@compiled("count")
def _spans(ids: jax.Array, lengths: jax.Array | None, count: int) -> tuple[jax.Array, jax.Array]:
    """Return where the first segments of each row begin, and how many steps they have."""
    border = jnp.pad(ids[:, 1:] != ids[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    steps = ids.shape[1]

    def begins(row: jax.Array) -> jax.Array:
        return jnp.flatnonzero(row, size=count + 1, fill_value=steps)

    edges = jax.vmap(begins)(border).astype(jnp.int32)
    if lengths is not None:
        edges = jnp.minimum(edges, jnp.maximum(lengths, 0)[:, None])
    return edges[:, :-1], jnp.diff(edges)


@compiled()
def _histories_behind(slots: Slots, x: jax.Array) -> jax.Array:
    """Return the last D*(K-1) steps up to each segment's end: (B, N, D*(K-1), C).

    A segment that has fewer steps has some of its history in front of them.
    """
    reach = slots.history.shape[2]
    if reach == 0:
        return slots.history
    steps = jnp.arange(reach, dtype=jnp.int32)
    before = slots.lengths[..., None] + steps  # Of the history, which the segment's steps follow.
    own = slots.first[..., None] + before - reach
    taken = jax.vmap(lambda row, at: row[at])(x, jnp.clip(own, 0, x.shape[1] - 1))
    kept = jnp.take_along_axis(slots.history, jnp.minimum(before, reach - 1)[..., None], axis=2)
    is_kept = (before < reach)[..., None]
    return jnp.where(is_kept, kept, taken.astype(kept.dtype))


def geometry_before(geometry: Geometry) -> Geometry:
    """Return the geometry of histories, and of the output steps that meet them, for rows' own."""
    steps, reach = geometry.output_length, geometry.reach
    if isinstance(steps, int):
        reach = min(steps, reach)
    return replace(geometry, length=geometry.reach, pad_low=0, output_length=reach)


@compiled("dilation")
def histories_before(slots: Slots, x: jax.Array, dilation: int) -> jax.Array:
    """Return the histories as rows like x: (B*N, D*(K-1), C).

    What no step of its segment reads is zero, NaN there too.
    """
    steps = jnp.arange(slots.history.shape[2], dtype=jnp.int32)
    is_read = (steps % dilation < slots.lengths[..., None])[..., None]
    read = jnp.where(is_read, slots.history, jnp.zeros((), slots.history.dtype))
    return read.reshape(-1, *read.shape[2:]).astype(x.dtype)


@compiled()
def added(y: jax.Array, slots: Slots, part: jax.Array) -> jax.Array:
    """Add to y (B, L, F) what histories give, (B*N, steps, F), at the first steps of segments."""
    (B, N), (_, count, F) = slots.first.shape, part.shape
    steps = jnp.arange(count, dtype=jnp.int32)
    inside = steps < slots.lengths[..., None]
    at = jnp.where(inside, slots.first[..., None] + steps, y.shape[1])  # Beyond: it is dropped.

    sharding = sharding_on(mesh_of(y), axes_of(y, 0), None, axes_of(y, 2))
    part = lax.reshape(part, (B, N * count, F), out_sharding=sharding)

    def add(row: jax.Array, at: jax.Array, part: jax.Array) -> jax.Array:
        return row.at[at].add(part, mode="drop")

    return by_row(add, y, at.reshape(B, -1), part)
