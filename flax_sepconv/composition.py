"""Both stages one after the other: what `separable` computes, by definition.

h = depthwise(x, k) is no residual: where it is needed again it is computed again (or, where XLA
sees both, once for both).
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from flax_sepconv.depthwise import depthwise
from flax_sepconv.geometry import Geometry
from flax_sepconv.sharding import axes_of, mesh_of, sharding_on

Result = Literal["y", "w", "xkw"]

# Bytes of an array that a TPU would read from memory once more.
TPU_LARGE = 2**26


def compose(
    x: jax.Array,
    kernel: jax.Array,
    *rest: jax.Array,
    result: Result,
    bias: bool,
    geometry: Geometry,
    implementation: str | None,
    precision: lax.PrecisionLike,
    dtype: DTypeLike,
    platform: str | None = None,
) -> list[jax.Array]:
    """Compute a result of `separable`.

    Accelerators, where one is given, spare passes over memory in 16 bits: the bias is added to what
    the contraction rounded, as Flax and Keras do, and on TPU the gradients of weights and bias are
    one contraction where the cotangent is too large to stay on chip.
    """
    stage: Any = {"implementation": implementation, "precision": precision}
    if result == "xkw":
        return _gradients(x, kernel, *rest, bias=bias, geometry=geometry, dtype=dtype, **stage)
    h = depthwise(x, kernel, geometry, dtype=jnp.result_type(x, kernel), **stage)
    settings: Any = {"result": result, "bias": bias, "precision": precision, "dtype": dtype}
    if bias and jnp.result_type(h, rest[0]).itemsize == 2:
        if platform == "tpu" and result == "w" and _is_large(rest[0]):
            return _gradients_in_one(h, rest[0], precision, dtype)
        if platform in ("cuda", "rocm", "tpu") and result == "y":
            (y,) = contract(h, rest[0], **settings | {"bias": False})
            return [y + rest[1].astype(dtype)]
    return contract(h, *rest, **settings)


def _is_large(y: jax.Array) -> bool:
    """Tell whether an array is known (its shape may be symbolic) to be large for a TPU."""
    return isinstance(y.size, int) and y.size * y.dtype.itemsize >= TPU_LARGE


def tangent(
    x: jax.Array, kernel: jax.Array, weights: jax.Array, *dots: jax.Array, **params: Any
) -> list[jax.Array]:
    """Compute how y moves with x, both kernels and, where there is one, the bias (`dots`)."""
    primals = (x, kernel, weights, *(jnp.zeros_like(dot) for dot in dots[3:]))
    return jax.jvp(functools.partial(compose, result="y", **params), primals, dots)[1]


def _gradients(
    x: jax.Array, kernel: jax.Array, weights: jax.Array, y: jax.Array, **params: Any
) -> list[jax.Array]:
    """Carry a cotangent back to x, both kernels and, where there is one, the bias."""
    biases = [jnp.zeros(weights.shape[1], weights.dtype)] if params["bias"] else []
    linear = functools.partial(compose, result="y", **params)
    return list(jax.vjp(linear, x, kernel, weights, *biases)[1]([y.astype(params["dtype"])]))


def _gradients_in_one(
    h: jax.Array, y: jax.Array, precision: lax.PrecisionLike, dtype: DTypeLike
) -> list[jax.Array]:
    """Take the bias for the weights of one more channel of h, whose steps are all one.

    For 16-bit operands, which a dot multiplies without rounding: the sums are those of `contract`.
    """
    with_ones = lax.pad(h, jnp.ones((), h.dtype), [(0, 0, 0), (0, 0, 0), (0, 1, 0)])
    (both,) = contract(with_ones, y, result="w", bias=False, precision=precision, dtype=dtype)
    return [both[:-1], both[-1]]


def contract(
    h: jax.Array,
    *rest: jax.Array,
    result: Result,
    bias: bool,
    precision: lax.PrecisionLike,
    dtype: DTypeLike,
) -> list[jax.Array]:
    """Contract h with the weights over channels, or with the cotangent over batch and steps."""
    operand_dtype = jnp.result_type(h, rest[0])
    accumulator = jnp.promote_types(operand_dtype, jnp.float32)
    axes = ((2,), (0,)) if result == "y" else ((0, 1), (0, 1))
    # Where types tell how arrays are divided, a sum over what is divided must say what it becomes.
    mesh = mesh_of(h, rest[0]) if result == "w" else None
    sums_on = result == "y" and bias
    contracted = lax.dot_general(
        h,
        rest[0],
        (axes, ((), ())),
        precision=precision,
        # Sums are made in float32 either way; what is asked for is when to round them.
        preferred_element_type=accumulator if sums_on else jnp.promote_types(operand_dtype, dtype),
        out_sharding=sharding_on(mesh, axes_of(h, 2), axes_of(rest[0], 2)),
    )
    if result == "y":
        return [(contracted + rest[1].astype(accumulator) if bias else contracted).astype(dtype)]
    gradients = [contracted.astype(dtype)]
    if bias:
        gradients.append(rest[0].astype(accumulator).sum((0, 1)).astype(dtype))
    return gradients
