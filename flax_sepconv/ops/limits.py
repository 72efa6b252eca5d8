"""Where sequences begin and end in the rows of a batch: no tap reaches beyond."""

from dataclasses import replace
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from flax_sepconv.ops import geometry as geometry_lib
from flax_sepconv.ops.geometry import Geometry, PaddingRule
from flax_sepconv.ops.lengths import output_length, possible
from flax_sepconv.ops.masking import zero_tails
from flax_sepconv.ops.sharding import by_row

# "whole": each row is a sequence; "lengths": it is one up to a length of its own, integers (B,);
# "segments": neighbouring steps of one id are a sequence, integers (B, L) (with strides 1, and as
# many output steps as input steps). The primitives have these integers, int32, as an operand.
Limit = Literal["whole", "lengths", "segments"]
# Rows that begin at up to so many steps are selected among copies, in passes that XLA fuses.
MOST_SELECTED = 16


def output_lengths(lengths: jax.Array, geometry: Geometry) -> jax.Array:
    """Count the output steps of sequences of so many input steps: (B,) -> (B,)."""
    K, S, D = geometry.kernel_size, geometry.stride, geometry.dilation
    lengths = possible(lengths, geometry.length)
    padding: PaddingRule = "same" if geometry.same else (geometry.pad_low, geometry.behind)
    return output_length(lengths, K, S, D, padding)


def rows_geometry(geometry: Geometry) -> Geometry:
    """Return the geometry that is right for all `whole_rows`."""
    return padded_geometry(_aligned(geometry))


def whole_rows(x: jax.Array, lengths: jax.Array, geometry: Geometry) -> jax.Array:
    """Make rows that end of sequences that do: zeros behind them, and in front what each needs.

    With "same" and strides S > 1 the zeros in front depend on the length modulo S, and take a few
    neighbouring values. The geometry puts the least of them in front; each row brings the rest.

    Returns:
        (B, L + the greatest difference, C).
    """
    x = zero_tails(x, lengths)
    if spread := paddings(geometry)[1]:
        x = align_rows(pad_steps(x, spread, spread), lengths, geometry)
    return padded(x, _aligned(geometry))


def align_rows(x: jax.Array, lengths: jax.Array, geometry: Geometry) -> jax.Array:
    """Let the zeros in front of each row be as many as of the others: (B, N, C) -> fewer steps.

    Args:
        x: rows behind the greatest difference of zeros, or of what stands there instead.
        lengths: of the sequences.
        geometry: of whole rows.
    """
    spread = paddings(geometry)[1]
    shifts = _shifts(lengths, geometry)
    steps = x.shape[1] - spread
    if spread > MOST_SELECTED:
        return cut_rows(x, spread - shifts[:, 0, 0], steps)
    rows = lax.slice_in_dim(x, spread, spread + steps, axis=1)
    for shift in range(1, spread + 1):
        first = spread - shift
        rows = jnp.where(shifts == shift, lax.slice_in_dim(x, first, first + steps, axis=1), rows)
    return rows


def transpose_whole_rows(rows: jax.Array, lengths: jax.Array, geometry: Geometry) -> jax.Array:
    """Carry a cotangent of `whole_rows` back to x."""
    low, high = _unknown_edges(_aligned(geometry))
    rows = pad_steps(rows, -low, -high)
    if spread := paddings(geometry)[1]:
        shifts = _shifts(lengths, geometry)
        if spread > MOST_SELECTED:
            return zero_tails(cut_rows(rows, shifts[:, 0, 0], rows.shape[1] - spread), lengths)
        x = pad_steps(rows, 0, -spread)
        for shift in range(1, spread + 1):
            x = jnp.where(shifts == shift, pad_steps(rows, -shift, shift - spread), x)
        rows = x
    return zero_tails(rows, lengths)


def padded(x: jax.Array, geometry: Geometry) -> jax.Array:
    """Pad rows by what is not known, for no lowering to have to."""
    return pad_steps(x, *_unknown_edges(geometry))


def padded_geometry(geometry: Geometry) -> Geometry:
    """Return the geometry of `padded` rows."""
    return geometry if has_known_padding(geometry) else geometry.padded()


def has_known_padding(geometry: Geometry) -> bool:
    """Tell whether the padding of whole rows is no symbol of `jax.export`."""
    edges = geometry.pad_low, geometry.pad_high
    return not any(map(jax.export.is_symbolic_dim, edges))


def segment_ends(ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the first and the last step of the segment that each step belongs to: (B, L) each.

    A border is where the id changes: an id that comes again is another segment.
    """
    steps = jnp.arange(ids.shape[1], dtype=jnp.int32)
    border = ids[:, 1:] != ids[:, :-1]
    edge = jnp.ones_like(ids[:, :1], bool)
    begins = jnp.where(jnp.concatenate([edge, border], 1), steps, 0)
    ends = jnp.where(jnp.concatenate([border, edge], 1), steps, ids.shape[1])
    return lax.cummax(begins, axis=1), lax.cummin(ends, axis=1, reverse=True)


def _unknown_edges(geometry: Geometry) -> tuple[int, int]:
    """Return the padding of whole rows where it is not known, else zeros."""
    return (0, 0) if has_known_padding(geometry) else (geometry.pad_low, geometry.pad_high)


def _aligned(geometry: Geometry) -> Geometry:
    """Return the geometry of rows that bring what they have more in front than others."""
    least, spread = paddings(geometry)
    length = geometry.length + spread
    return replace(geometry, length=length, pad_low=least, same=False, behind=0)


def paddings(geometry: Geometry) -> tuple[int, int]:
    """Return the least number of zeros in front of any sequence, and by how much others differ."""
    K, S, D = geometry.kernel_size, geometry.stride, geometry.dilation
    if not geometry.same or S == 1:
        return geometry.pad_low, 0
    # They fall with the length, and begin anew behind each multiple of S.
    most, least = (geometry_lib.same_pad_low(length, K, S, D) for length in (1, S))
    return least, most - least


def _shifts(lengths: jax.Array, geometry: Geometry) -> jax.Array:
    """Return how many zeros more each sequence has in front: (B,) -> (B, 1, 1)."""
    K, S, D = geometry.kernel_size, geometry.stride, geometry.dilation
    lows: jax.Array = geometry_lib.same_pad_low(possible(lengths, geometry.length), K, S, D)
    return (lows - paddings(geometry)[0])[:, None, None]


def cut_rows(x: jax.Array, first: jax.Array, count: int) -> jax.Array:
    """Take `count` steps of each row from its own first one on: (B, L, C) -> (B, count, C)."""
    return by_row(lambda row, start: lax.dynamic_slice_in_dim(row, start, count), x, first)


def pad_steps(x: jax.Array, low: int, high: int) -> jax.Array:
    """Pad, or where negative cut, the steps of (B, L, C)."""
    if isinstance(low, int) and isinstance(high, int) and low == high == 0:
        return x
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (low, high, 0), (0, 0, 0)))
