"""Zeros behind the ends of the sequences of a padded batch, as one primitive.

It is linear in the batch and its own transpose: every transformation of it is itself. What stood
behind the ends is replaced, not multiplied, so that NaN there is gone too.

On CPU it is a call of the native library that works in place and touches the tails alone;
elsewhere a select, which XLA fuses with its neighbours.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from flax_sepconv.ops import native
from flax_sepconv.ops.context import Context
from flax_sepconv.ops.partitioning import partitioned
from flax_sepconv.ops.primitives import fold, register, register_lowering
from flax_sepconv.ops.sharding import (
    Shards,
    axes_of,
    mesh_of,
    reshard_to,
    sharding_on,
    vary_alike,
)

zero_tails_p = Primitive("zero_tails")


def zero_tails(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Set the steps from lengths[b] on to zero in row b: (B, L, C), (B,) int32 -> (B, L, C).

    Example:
        >>> zero_tails(jnp.ones((2, 3, 1)), jnp.array([1, 3]))[..., 0]
        Array([[1., 0., 0.],
               [1., 1., 1.]], dtype=float32)
    """
    zeroed: jax.Array = zero_tails_p.bind(*vary_alike(x, lengths))
    return zeroed


def _select(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Define it."""
    steps = lax.broadcasted_iota(jnp.int32, (1, x.shape[1], 1), 1)
    inside = steps < lengths[:, None, None]
    sharding = sharding_on(mesh_of(x), *(axes_of(x, dimension) for dimension in range(3)))
    mask = lax.broadcast_in_dim(inside, x.shape, (0, 1, 2), out_sharding=sharding)
    return lax.select(mask, x, jnp.zeros_like(x))


def _jvp(primals: Sequence[jax.Array], tangents: Sequence[Any]) -> tuple[jax.Array, Any]:
    x, lengths = primals
    dot = tangents[0]
    return zero_tails(x, lengths), dot if isinstance(dot, ad.Zero) else zero_tails(dot, lengths)


def _transpose(cotangent: Any, x: Any, lengths: jax.Array) -> list[Any]:
    if isinstance(cotangent, ad.Zero):
        return [cotangent, None]
    return [reshard_to(zero_tails(cotangent, lengths), x.aval.sharding), None]


def _batch(operands: Sequence[jax.Array], axes: Sequence[int | None]) -> tuple[jax.Array, int]:
    """Fold the mapped axis into the batch."""
    size = next(o.shape[a] for o, a in zip(operands, axes, strict=True) if a is not None)
    out = zero_tails(*(fold(o, a, size) for o, a in zip(operands, axes, strict=True)))
    return out.reshape(size, out.shape[0] // size, *out.shape[1:]), 0


def _lower(ctx: mlir.LoweringRuleContext, *operands: Any, platform: str) -> Any:
    """Lower to the native call where there is one, and the program may contain it."""
    context = Context.of(ctx, platform)
    function = _select
    if native.reason_to_avoid(context) is None:
        function = native.zero_tails
        if context.is_partitioned:
            function = partitioned("zero_tails", _local, 1, "lengths", ctx.avals_in)
    return mlir.lower_fun(function, multiple_results=False)(ctx, *operands)


def _local(shards: Shards | None, x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Set the tails of a device's own steps to zero."""
    return zero_tails(x, lengths if shards is None else shards.own(lengths, x.shape[1]))


register(
    zero_tails_p,
    abstract=lambda *avals: jax.make_jaxpr(_select)(*avals).out_avals[0],
    batch=_batch,
    jvp=_jvp,
    transpose=_transpose,
)
register_lowering(zero_tails_p, _lower)
