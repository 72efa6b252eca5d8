"""`lax.ppermute`, but for two things.

XLA would send 16-bit floats as 32 bits on CPUs. And `lax.ppermute` counts devices in the order of
the mesh's axes (JAX 0.10.2), however axes are named; `lax.axis_index` and shardings do not.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
        axes: of the mesh, whose devices are counted in row-major order of these.
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


def _in_order_of(mesh: Any, axes: tuple[str, ...], pairs: Pairs) -> tuple[tuple[str, ...], Pairs]:
    """Return the axes in the order of the mesh, and the pairs in their counting."""
    ordered = tuple(name for name in mesh.axis_names if name in axes)
    if ordered == axes:
        return axes, pairs
    counts = np.arange(math.prod(mesh.shape[name] for name in axes))
    counts = counts.reshape([mesh.shape[name] for name in ordered])
    places = counts.transpose([ordered.index(name) for name in axes]).ravel().tolist()
    return ordered, tuple((places[source], places[target]) for source, target in pairs)


def _lower(
    ctx: mlir.LoweringRuleContext, x: Any, *, platform: str, axes: tuple[str, ...], pairs: Pairs
) -> Any:
    dtype = ctx.avals_in[0].dtype  # type: ignore[attr-defined]
    is_short = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize == 2
    function = _as_bits if platform == "cpu" and is_short else _define
    context: Any = ctx.module_context.axis_context
    ordered = _in_order_of(context.mesh, axes, pairs)
    rule = mlir.lower_fun(lambda x: function(x, *ordered), multiple_results=False)
    return rule(ctx, x)


register(permute_p, abstract=_abstract, batch=_batch, jvp=_jvp, transpose=_transpose)
register_lowering(permute_p, _lower)
