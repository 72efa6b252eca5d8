"""`lax.ppermute`, but for what XLA does to 16-bit floats on CPUs: it would send them as 32 bits."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from flax_sepconv.ops.primitives import register, register_lowering

Pairs = tuple[tuple[int, int], ...]

permute_p = Primitive("halo_permute")


def permute(x: jax.Array, axes: tuple[str, ...], pairs: Pairs) -> jax.Array:
    """Send an array from device to device; who gets none has zeros.

    Args:
        x: of each device.
        axes: of the mesh, whose devices are counted in row-major order.
        pairs: (source, target) each.
    """
    permuted: jax.Array = permute_p.bind(x, axes=axes, pairs=pairs)
    return permuted


def _define(x: jax.Array, axes: tuple[str, ...], pairs: Pairs) -> jax.Array:
    permuted: jax.Array = lax.ppermute(x, axes, pairs)
    return permuted


def _as_bits(x: jax.Array, axes: tuple[str, ...], pairs: Pairs) -> jax.Array:
    bits = lax.bitcast_convert_type(x, jnp.uint16)
    return lax.bitcast_convert_type(_define(bits, axes, pairs), x.dtype)


def _abstract(x: Any, *, axes: tuple[str, ...], pairs: Pairs) -> Any:
    return jax.make_jaxpr(lambda x: _define(x, axes, pairs))(x).out_avals[0]


def _jvp(
    primals: Sequence[jax.Array], tangents: Sequence[Any], *, axes: tuple[str, ...], pairs: Pairs
) -> tuple[jax.Array, Any]:
    (x,), (dot,) = primals, tangents
    is_zero = isinstance(dot, ad.Zero)
    return permute(x, axes, pairs), dot if is_zero else permute(dot, axes, pairs)


def _transpose(cotangent: Any, x: Any, *, axes: tuple[str, ...], pairs: Pairs) -> list[Any]:
    if isinstance(cotangent, ad.Zero):
        return [ad.Zero(x.aval)]
    return [permute(cotangent, axes, tuple((target, source) for source, target in pairs))]


def _batch(
    operands: Sequence[jax.Array],
    mapped: Sequence[int],
    *,
    axes: tuple[str, ...],
    pairs: Pairs,
) -> tuple[jax.Array, int]:
    return permute(operands[0], axes, pairs), mapped[0]


def _lower(ctx: mlir.LoweringRuleContext, x: Any, *, platform: str, **parameters: Any) -> Any:
    dtype: Any = ctx.avals_in[0]
    is_short = jnp.issubdtype(dtype.dtype, jnp.floating) and dtype.dtype.itemsize == 2
    function = _as_bits if platform == "cpu" and is_short else _define
    rule = mlir.lower_fun(lambda x: function(x, **parameters), multiple_results=False)
    return rule(ctx, x)


register(permute_p, abstract=_abstract, batch=_batch, jvp=_jvp, transpose=_transpose)
register_lowering(permute_p, _lower)
