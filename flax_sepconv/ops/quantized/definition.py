"""What the operation on integers is, by operations of XLA's: on any platform the same integers.

Sums are int32, and exact; `scales` has the rest.
"""

import functools
import operator
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from flax_sepconv.ops.geometry import Geometry
from flax_sepconv.ops.limits import pad_steps
from flax_sepconv.ops.quantized.scales import GREATEST, LEAST, rounded

# More taps are summed in a loop, so that programs stay short.
MOST_UNROLLED = 32

Form = Literal["shifted_sum", "grouped_conv"]


@dataclass(frozen=True)
class Task:
    """What is to be computed, in static facts.

    Attributes:
        geometry: of whole rows.
        dtype: of the result: "int8" or "float32".
        has_pointwise: whether there is a second stage.
        implementation: the name of a lowering, or None.
    """

    geometry: Geometry
    dtype: Literal["int8", "float32"]
    has_pointwise: bool
    implementation: str | None


def sums(
    x: jax.Array, kernel: jax.Array, zero_point: jax.Array, geometry: Geometry, form: Form
) -> jax.Array:
    """Filter every channel: (B, L, C), (K, C, M) -> (B, output_length, C*M) int32.

    Args:
        x: int8.
        kernel: int8.
        zero_point: of x, a scalar.
        geometry: of whole rows.
        form: the convolution, or a sum of products with shifted inputs.
    """
    K, C, M = kernel.shape
    centred = x.astype(jnp.int32) - zero_point
    rows = pad_steps(centred, geometry.pad_low, geometry.pad_high)
    taps = kernel.astype(jnp.int32)
    S, D, steps = geometry.stride, geometry.dilation, geometry.output_length
    if form == "grouped_conv":
        dimensions = lax.conv_dimension_numbers(rows.shape, (K, 1, C * M), ("NWC", "WIO", "NWC"))
        return lax.conv_general_dilated(
            rows,
            taps.reshape(K, 1, C * M),
            (S,),
            ((0, 0),),
            rhs_dilation=(D,),
            dimension_numbers=dimensions,
            feature_group_count=C,
        )
    span = (steps - 1) * S + 1

    def term(i: jax.Array | int) -> jax.Array:
        window = lax.dynamic_slice_in_dim(rows, i * D, span, axis=1)
        return lax.slice_in_dim(window, 0, None, S, axis=1)[..., None] * taps[i]

    if K <= MOST_UNROLLED:
        total = functools.reduce(operator.add, map(term, range(K)))
    else:
        start = term(0)
        total = lax.fori_loop(1, K, lambda i, total: total + term(i), start)
    return total.reshape(*total.shape[:2], C * M)


def ended(
    total: jax.Array, multiplier: jax.Array, zero: jax.Array, bounds: jax.Array, dtype: str
) -> jax.Array:
    """Make the result of its sums (B, L, F): real numbers within bounds, or the nearest int8.

    Args:
        total: int32.
        multiplier: (1, F) or (B, F).
        zero: the zero point of int8.
        bounds: (2,), of the real numbers, or of steps from the zero point.
        dtype: of the result.
    """
    real = total.astype(jnp.float32) * multiplier[:, None]
    low, high = bounds[0], bounds[1]
    if dtype == "float32":
        return jnp.clip(real, low, high)
    away = zero.astype(jnp.float32)
    steps = jnp.clip(
        rounded(real), jnp.maximum(low, LEAST - away), jnp.minimum(high, GREATEST - away)
    )
    return (steps.astype(jnp.int32) + zero).astype(jnp.int8)


def depthwise(task: Task, form: Form, *operands: jax.Array) -> jax.Array:
    """Compute the first stage alone.

    Args:
        task: what is to be computed.
        form: as for `sums`.
        operands: x (B, L, C), the kernel (K, C, M), the bias (C*M,) int32, the
            multipliers (1 or B, C*M), the zero points (2,) int32 of x and of the result, and its
            bounds (2,).
    """
    x, kernel, bias, multiplier, zeros, bounds = operands
    total = sums(x, kernel, zeros[0], task.geometry, form) + bias
    return ended(total, multiplier, zeros[1], bounds, task.dtype)


def separable(task: Task, form: Form, *operands: jax.Array) -> jax.Array:
    """Compute both stages.

    Args:
        task: what is to be computed.
        form: as for `sums`.
        operands: x (B, L, C), the kernels (K, C, M) and (C*M, F), the bias (F,) int32,
            the multipliers (1 or B, C*M) and (1 or B, F), the zero points (3,) int32 of x, h and
            the result, and its bounds (2,).
    """
    x, kernel, weights, bias, first, second, zeros, bounds = operands
    total = sums(x, kernel, zeros[0], task.geometry, form)
    unbounded = jnp.array([-jnp.inf, jnp.inf], jnp.float32)
    h = ended(total, first, zeros[1], unbounded, "int8")
    mixed = lax.dot_general(h, weights, (((2,), (0,)), ((), ())), preferred_element_type=jnp.int32)
    columns = jnp.sum(weights, 0, dtype=jnp.int32)
    return ended(mixed - zeros[1] * columns + bias, second, zeros[2], bounds, task.dtype)
