"""Paddings that come from the sequence itself: "circular" and "reflect".

The operation is linear in x, so what is beyond the ends adds to the first and the last output steps
what these few steps alone give. That is computed from strips, and x is not copied. Where a copy is
little or is needed anyway, rows are continued beyond their ends and convolved without padding.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import InconclusiveDimensionOperation

from flax_sepconv.ops.geometry import EdgePadding, Geometry
from flax_sepconv.ops.sharding import axes_of, by_row, mesh_of, sharding_on

MODES: dict[EdgePadding, Literal["wrap", "reflect"]] = {"circular": "wrap", "reflect": "reflect"}
# Rows of fewer values are copied: two calls more take longer than that.
FEWEST_VALUES = 2**18


class Strip(NamedTuple):
    """What is beyond one end of the rows, and the output steps that it adds to.

    Attributes:
        x: (B, steps, C).
        geometry: of these steps, and of the output steps that meet them.
        first: of those output steps.
    """

    x: jax.Array
    geometry: Geometry
    first: int


def takes_strips(x: jax.Array, geometry: Geometry) -> bool:
    """Tell whether strips take less than a copy of x (B, L, C), which is whole."""
    is_known = all(isinstance(size, int) for size in x.shape)
    is_long = is_known and x.size >= FEWEST_VALUES and geometry.length >= 4 * geometry.reach
    return bool(is_long) and mesh_of(x) is None


def strips(x: jax.Array, padding: EdgePadding, geometry: Geometry) -> Iterator[Strip]:
    """Take what is in front of rows and behind them from these.

    Args:
        x: (B, L, C), with more steps than the taps reach.
        padding: where from.
        geometry: of the rows between zeros.
    """
    L, S, count = geometry.length, geometry.stride, geometry.output_length
    low, high = geometry.pad_low, geometry.reach - geometry.pad_low
    if low:
        steps = min(count, -(-low // S))
        own = replace(geometry, length=low, pad_low=0, output_length=steps)
        yield Strip(_in_front(x, padding, low), own, 0)
    first = -(-(L - high) // S)  # Output steps read up to `high` steps beyond their own.
    if high and first < count:
        own = replace(
            geometry, length=high, pad_low=L + low - first * S, output_length=count - first
        )
        yield Strip(_behind(x, padding, high), own, first)


def _in_front(x: jax.Array, padding: EdgePadding, steps: int) -> jax.Array:
    return x[:, x.shape[1] - steps :] if padding == "circular" else x[:, 1 : steps + 1][:, ::-1]


def _behind(x: jax.Array, padding: EdgePadding, steps: int) -> jax.Array:
    last = x.shape[1] - 1
    return x[:, :steps] if padding == "circular" else x[:, last - steps : last][:, ::-1]


def continued(
    x: jax.Array, lengths: jax.Array | None, padding: EdgePadding, low: int, high: int
) -> jax.Array:
    """Continue rows beyond their ends: (B, L, C) -> (B, low + L + high, C).

    Args:
        x: the rows.
        lengths: of the sequences (B,): each is continued at its own end; None: all are whole.
        padding: how, as `jnp.pad` does, also where a sequence is shorter than what is put there.
        low, high: steps in front and behind.

    Raises:
        ValueError: x has a symbol of `jax.export` for its steps, which may be too few.
    """
    if lengths is None:
        if _has_more_steps(x, padding, max(low, high)):
            around = _in_front(x, padding, low), x, _behind(x, padding, high)
            return lax.concatenate(around, 1)
        return jnp.pad(x, ((0, 0), (low, high), (0, 0)), mode=MODES[padding])
    steps = jnp.arange(-low, x.shape[1] + high, dtype=jnp.int32)
    n = jnp.maximum(lengths, 1)[:, None]
    if padding == "circular":
        met = steps % n
    else:
        period = jnp.maximum(2 * (n - 1), 1)
        met = steps % period
        met = jnp.minimum(met, 2 * (n - 1) - met)
    met = jnp.clip(met, 0, x.shape[1] - 1)
    mesh = mesh_of(x)
    if mesh is not None:
        met = jax.reshard(met, sharding_on(mesh, axes_of(x, 0), None))

    def taken(row: jax.Array, steps: jax.Array) -> jax.Array:
        return row.at[steps].get(mode="promise_in_bounds")

    return by_row(taken, x, met)


def _has_more_steps(x: jax.Array, padding: EdgePadding, steps: int) -> bool:
    length = x.shape[1]
    try:
        return bool(length > steps)
    except InconclusiveDimensionOperation as error:
        raise ValueError(
            f"padding {padding!r} needs an input length L={length} that is known to be more than "
            f"{steps}; say so by a constraint where the symbols are made (of "
            f"jax.export.symbolic_shape), such as '{length} >= {steps + 1}'"
        ) from error
