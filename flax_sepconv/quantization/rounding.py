"""Rounding that can be trained: real numbers become integers, and gradients pass.

Integers are float32 here, counted from the zero point, so that zero is zero. Their sums are exact
as long as they are less than 2^24.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from flax_sepconv.ops.quantized.scales import (
    GREATEST,
    LEAST,
    dynamic_scale,
    inverse,
    product,
    rounded,
    steps_of,
)
from flax_sepconv.quantization.config import Int8

# A step size that is trained is kept from zero by this.
SMALLEST_STEP = 1e-12
# The scale of a kernel's channel that is zero.
SHORT_STEP = 2.0**-20


class Steps(NamedTuple):
    """How an activation is rounded.

    Attributes:
        scale: the real number that a step is: of all, (), or of each example, (..., 1, 1).
        zero_point: float32, a whole number from -128 to 127; None: nothing is cut off, because the
            scale is that of the greatest magnitude.
    """

    scale: Any
    zero_point: Any

    @property
    def bounds(self) -> tuple[Any, Any] | None:
        """The least and the greatest integer, counted from the zero point."""
        zero = self.zero_point
        return None if zero is None else (LEAST - zero, GREATEST - zero)


@jax.custom_jvp
def nearest(steps: jax.Array) -> jax.Array:
    """Round to the nearest whole number, halves to even ones; the derivative is 1.

    Example:
        >>> jax.value_and_grad(nearest)(2.6)
        (Array(3., dtype=float32, weak_type=True), Array(1., dtype=float32, weak_type=True))
    """
    return rounded(steps)


@nearest.defjvp
def _nearest_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return nearest(*primals), tangents[0]


def integers(
    x: jax.Array, scale: Any, bounds: tuple[Any, Any] | None, warming: jax.Array | None = None
) -> jax.Array:
    """Return real numbers in whole steps of a scale.

    Args:
        x: real numbers.
        scale: of the steps; None: they are steps already.
        bounds: the least and the greatest integer. What is beyond is cut off, and its derivative is
            0. None: there is nothing beyond.
        warming: bool, whether steps stay as they are, neither rounded nor cut off; None: no.
    """
    steps = x if scale is None else steps_of(x, scale)
    whole = nearest(steps if bounds is None else _cut(steps, *bounds))
    return whole if warming is None else jnp.where(warming, steps, whole)


def _cut(steps: jax.Array, low: Any, high: Any) -> jax.Array:
    bounds = (jnp.asarray(bound, jnp.float32) for bound in (low, high))
    low, high = bounds
    cut: jax.Array = lax.clamp(low, steps, high)
    return cut


def steps_of_range(low: jax.Array, high: jax.Array, symmetric: bool) -> Steps:
    """Return the steps that reach from the least to the greatest value; NaN where none was seen.

    Example:
        >>> steps_of_range(jnp.float32(-1), jnp.float32(1), symmetric=True)
        Steps(scale=Array(0.00787402, dtype=float32), zero_point=Array(0., dtype=float32))
        >>> float(steps_of_range(jnp.float32(0), jnp.float32(1), symmetric=False).zero_point)
        -128.0
    """
    if symmetric:
        reach, count = jnp.maximum(-low, high), GREATEST
    else:
        reach, count = high - low, GREATEST - LEAST
    scale = jnp.where(reach > 0, product(reach, jnp.float32(1 / count)), 1)
    scale = jnp.where(low <= high, scale, jnp.nan)
    if symmetric:
        return Steps(scale, jnp.zeros_like(scale))
    # Nothing is added before it is rounded: a sum of a product may be rounded once, or twice.
    zero_point = rounded(-product(low, inverse(scale))) + LEAST
    return Steps(scale, jnp.clip(zero_point, LEAST, GREATEST))


def weight_scale(name: str, kernel: jax.Array, config: Int8) -> jax.Array:
    """Return the scale whose 127 steps reach the greatest weight, for each channel or for all.

    Args:
        name: of the weight.
        kernel: (K, C, M), or (1, C*M, F).
        config: says for what there is a scale.

    Returns:
        (C, M), or (F,), or (), float32.
    """
    axes: tuple[int, ...] = (0,) if name == "depthwise_kernel" else (0, 1)
    axes = axes if config.weights == "per_channel" else (0, 1, 2)
    # Nothing but a bias is counted in steps of what is zero: they are short.
    is_zero = jnp.all(kernel == 0, axis=axes)
    scale: jax.Array = jnp.where(is_zero, SHORT_STEP, dynamic_scale(kernel, axes))
    return scale


def trained_scale(scale: jax.Array, count: int) -> jax.Array:
    """Return a step size that is a parameter, with the gradient of LSQ.

    Args:
        scale: the parameter; its sign does not count.
        count: how many values are rounded by one of it. The gradient is multiplied by
            1 / sqrt(count * 127), so that step sizes learn as fast as weights do.
    """
    size = jnp.maximum(jnp.abs(scale.astype(jnp.float32)), SMALLEST_STEP)
    fixed = lax.stop_gradient(size)
    if isinstance(count, int):
        rate: Any = 1 / math.sqrt(count * GREATEST)
    else:  # A number of steps that is a symbol.
        rate = lax.rsqrt(jnp.asarray(count * GREATEST, jnp.float32))
    return fixed + (size - fixed) * rate
