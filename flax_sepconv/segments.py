"""Packed rows: sequences one behind the other in a row, and no tap that reaches into another one.

Each tap has a mask of its own, so that what another sequence holds, NaN included, is not read. It
is made of XLA's own operations on every platform: a fused pass over the row of K selects, products
and sums, and more for the gradients.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from flax_sepconv.geometry import Geometry
from flax_sepconv.ragged import integers


def resolve(
    segment_ids: ArrayLike,
    shape: tuple[int, ...],
    geometry: Geometry,
    padding: str,
    implementation: str | None,
) -> jax.Array:
    """Check segment ids against the shape (..., L), and return them as (B, L)."""
    if geometry.stride != 1 or padding.lower() == "valid":
        raise ValueError(
            "segment_ids need padding 'same' or 'causal' and strides 1, got "
            f"padding={padding!r} and strides={geometry.stride}"
        )
    if implementation not in (None, "shifted_sum"):
        raise NotImplementedError(
            f"implementation={implementation!r} knows no segments: with segment_ids there are "
            "masked shifted sums alone (None or 'shifted_sum')"
        )
    ids = integers("segment_ids", segment_ids, shape, "batch dimensions and steps of x")
    return jnp.asarray(ids).reshape(-1, shape[-1])


def depthwise(
    x: jax.Array, kernel: jax.Array, ids: jax.Array, geometry: Geometry, dtype: DTypeLike
) -> jax.Array:
    """Filter every channel within segments: (B, L, C), (K, C, M), (B, L) -> (B, L, C*M)."""
    within = jax.checkpoint(_depthwise, static_argnums=(3, 4))  # K masked copies are no residuals.
    return within(x, kernel, ids, geometry, jnp.dtype(dtype))


def _depthwise(
    x: jax.Array, kernel: jax.Array, ids: jax.Array, geometry: Geometry, dtype: jnp.dtype
) -> jax.Array:
    L, D, low = x.shape[1], geometry.dilation, geometry.pad_low
    accumulator = jnp.promote_types(x.dtype, jnp.float32)
    edges = ((0, 0, 0), (low, geometry.reach - low, 0), (0, 0, 0))
    padded = lax.pad(x, jnp.zeros((), x.dtype), edges)
    first, last = _ends(ids)
    steps = jnp.arange(L, dtype=jnp.int32)
    h = jnp.zeros((), accumulator)
    for i in range(geometry.kernel_size):
        met = steps + (i * D - low)
        inside = (met >= first) & (met <= last)
        reached = lax.slice_in_dim(padded, i * D, i * D + L, axis=1)
        own = jnp.where(inside[..., None], reached, 0).astype(accumulator)
        h += own[..., None] * kernel[i].astype(accumulator)
    return h.reshape(*x.shape[:2], kernel.shape[1] * kernel.shape[2]).astype(dtype)


def _ends(ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the first and the last step of the segment that each step belongs to: (B, L) each.

    A border is where the id changes: an id that comes again is another segment.
    """
    steps = jnp.arange(ids.shape[1], dtype=jnp.int32)
    border = ids[:, 1:] != ids[:, :-1]
    edge = jnp.ones_like(ids[:, :1], bool)
    begins = jnp.where(jnp.concatenate([edge, border], 1), steps, 0)
    ends = jnp.where(jnp.concatenate([border, edge], 1), steps, ids.shape[1])
    return lax.cummax(begins, axis=1), lax.cummin(ends, axis=1, reverse=True)
