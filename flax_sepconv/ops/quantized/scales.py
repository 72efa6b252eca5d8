"""Real numbers as 8-bit integers: steps of a scale, counted from a zero point.

    x = scale * (x_int8 - zero_point)

Whoever computes a multiplier in another order gets another last bit, and now and then another
integer. So every product of scales is here, in float32, one multiplication at a time, and XLA is
kept from joining constants.
"""

from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

LEAST, GREATEST = -128, 127
NO_DERIVATIVE = (
    "the operation on integers has no derivative: train with the layers' "
    "quantization=flax_sepconv.quantization.Int8(...), which rounds and differentiates"
)


def inverse(scale: Any) -> Any:
    """Return 1 / scale, in float32; by NumPy where the scale is no array of JAX's."""
    return _one_by_one(lambda one, s: one / s, np.float32(1), scale)


def product(a: Any, b: Any) -> Any:
    """Return a * b, in float32, rounded once; by NumPy where both are no arrays of JAX's."""
    return _one_by_one(lambda one, other: one * other, a, b)


def _one_by_one(compute: Any, *numbers: Any) -> Any:
    if any(isinstance(number, jax.Array) for number in numbers):
        arrays = (jnp.asarray(number, jnp.float32) for number in numbers)
        return compute(*map(lax.optimization_barrier, arrays))
    with np.errstate(divide="ignore", invalid="ignore"):
        return compute(*(np.asarray(number, np.float32) for number in numbers))


def steps_of(x: jax.Array, scale: Any) -> jax.Array:
    """Return real numbers in steps of a scale: x * (1 / scale), in float32, not rounded."""
    rate: jax.Array = jnp.asarray(inverse(scale))
    return jnp.asarray(x, jnp.float32) * rate


def rounded(steps: jax.Array) -> jax.Array:
    """Round to the nearest whole number, halves to even ones."""
    return lax.round(steps, lax.RoundingMethod.TO_NEAREST_EVEN)


@jax.custom_jvp
def quantized(x: jax.Array, scale: Any, zero_point: Any = 0) -> jax.Array:
    """Return real numbers as int8, the nearest that there are. NaN counts as zero.

    Raises:
        TypeError: it is differentiated; the derivative of integers would be zero, without a word.

    Example:
        >>> quantized(jnp.array([-9.0, 0.1, 0.5, 0.8]), 0.05, 10)
        Array([-128,   12,   20,   26], dtype=int8)
    """
    steps = rounded(steps_of(x, scale))
    steps = jnp.where(jnp.isnan(steps), 0, steps)
    zero = jnp.asarray(zero_point, jnp.float32)
    return (jnp.clip(steps, LEAST - zero, GREATEST - zero) + zero).astype(jnp.int8)


@quantized.defjvp
def _no_derivative(primals: Any, tangents: Any) -> NoReturn:
    raise TypeError(NO_DERIVATIVE)


def dynamic_scale(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Return the scale whose 127 steps reach the greatest magnitude over axes; of zeros it is 1.

    What is not finite does not count: it would leave no steps for the others.
    """
    magnitudes = jnp.abs(x.astype(jnp.float32))
    greatest = jnp.max(jnp.where(jnp.isfinite(magnitudes), magnitudes, 0), axis=axes, initial=0)
    return jnp.where(greatest > 0, product(greatest, np.float32(1 / GREATEST)), 1)


def first_multiplier(x_scale: Any, depthwise_scale: Any, hidden_scale: Any) -> Any:
    """Return the steps of h that a sum of the first stage is: x * (depthwise * (1 / hidden))."""
    return product(x_scale, product(depthwise_scale, inverse(hidden_scale)))


def second_multiplier(hidden_scale: Any, pointwise_scale: Any, output_scale: Any = None) -> Any:
    """Return what a sum of the second stage is: a real number, or steps of the output."""
    if output_scale is not None:
        pointwise_scale = product(pointwise_scale, inverse(output_scale))
    return product(hidden_scale, pointwise_scale)
