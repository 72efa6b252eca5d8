"""Project weights: Keras' constraints as hashable values.

A constraint is called on a weight, w -> w', and returns the weight's shape and dtype. Weights of
bfloat16 and float16 are projected in float32 and rounded once. The functions are pure, and safe
under `jax.jit` and `jax.vmap`.

Source: https://keras.io/api/layers/constraints/
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from flax_sepconv.keras import registry

Constraint = Callable[[jax.Array], jax.Array]

_EPSILON = 1e-7  # Keras' backend.epsilon(), whatever the dtype
# A rounded norm is measured in float32: this much above the bound counts as inside it.
_SLACK = 2.5e-7


@dataclasses.dataclass(frozen=True)
class MaxNorm:
    """Shrink weights whose norm exceeds a bound.

    w' = w * min(norm, max_value) / (1e-7 + norm), the norm taken over `axis`. The norm of the
    result is at most max_value * (1 + 1e-6) in every dtype: where rounding to bfloat16 or float16
    would exceed it, that group of weights is rounded toward zero.

    With axis=0 a depthwise kernel (K, C, M) has one norm per channel and multiplier; a pointwise
    kernel (1, C*M, F) has one per scalar there, and one per filter with axis=(0, 1).

    Args:
        max_value: the largest norm, >= 0.
        axis: the axis or axes that a norm runs over; may be negative.

    Raises:
        ValueError, TypeError: an argument breaks its rule; on the call, the weight lacks an axis.

    >>> print(MaxNorm(max_value=2.0)(jnp.array([[3.0, 0.3], [4.0, 0.4]])).round(3))
    [[1.2 0.3]
     [1.6 0.4]]
    """

    max_value: float = 2
    axis: int | Sequence[int] = 0

    def __post_init__(self) -> None:
        _set(self, max_value=registry.real("max_value", self.max_value, low=0, finite=False))
        _set(self, axis=registry.axes("axis", self.axis))

    def __call__(self, w: jax.Array) -> jax.Array:
        """Return the projected weight."""
        w, wide, axes = _prepare(w, self.axis)
        norms = _norms(wide, axes)
        projected = wide * (jnp.clip(norms, 0, self.max_value) / (_EPSILON + norms))
        if w.dtype == wide.dtype:
            return projected
        nearest = projected.astype(w.dtype)
        fixed = lax.stop_gradient(nearest)
        inside = _norms(fixed.astype(wide.dtype), axes) <= self.max_value * (1 + _SLACK)
        away = jnp.abs(fixed.astype(wide.dtype)) > jnp.abs(projected)
        # What is rounded further has the derivative of what is rounded.
        inward = jnp.nextafter(fixed, jnp.zeros_like(fixed)) + (nearest - fixed)
        return jnp.where(~inside & away, inward, nearest)


@dataclasses.dataclass(frozen=True)
class NonNeg:
    """Replace negative weights by zero; NaN stays NaN.

    w' = max(w, 0)

    >>> NonNeg()(jnp.array([-1.0, 0.5])).tolist()
    [0.0, 0.5]
    """

    def __call__(self, w: jax.Array) -> jax.Array:
        """Return the projected weight."""
        w = _floating(w)
        return jnp.where(w < 0, jnp.zeros_like(w), w)


@dataclasses.dataclass(frozen=True)
class UnitNorm:
    """Scale weights to norm 1.

    w' = w / (1e-7 + norm), the norm taken over `axis`.

    Args:
        axis: the axis or axes that a norm runs over; may be negative.

    Raises:
        ValueError, TypeError: the axis is no axis; on the call, the weight lacks it.

    >>> print(UnitNorm()(jnp.array([3.0, 4.0])).round(3))
    [0.6 0.8]
    """

    axis: int | Sequence[int] = 0

    def __post_init__(self) -> None:
        _set(self, axis=registry.axes("axis", self.axis))

    def __call__(self, w: jax.Array) -> jax.Array:
        """Return the projected weight."""
        w, wide, axes = _prepare(w, self.axis)
        return (wide / (_EPSILON + _norms(wide, axes))).astype(w.dtype)


@dataclasses.dataclass(frozen=True)
class MinMaxNorm:
    """Move norms toward an interval.

    w' = w * (rate * clip(norm, min_value, max_value) + (1 - rate) * norm) / (1e-7 + norm), the
    norm taken over `axis`. A zero weight stays zero, whatever min_value.

    Args:
        min_value: the smallest norm, >= 0.
        max_value: the largest norm, >= min_value.
        rate: how much of the way one call goes, 0 to 1; 1 enforces the interval at once.
        axis: the axis or axes that a norm runs over; may be negative.

    Raises:
        ValueError, TypeError: an argument breaks its rule; on the call, the weight lacks an axis.

    >>> w = MinMaxNorm(min_value=5.0, max_value=6.0)(jnp.array([0.3, 0.4]))
    >>> print(f"{jnp.linalg.norm(w):.3f}")
    5.000
    """

    min_value: float = 0.0
    max_value: float = 1.0
    rate: float = 1.0
    axis: int | Sequence[int] = 0

    def __post_init__(self) -> None:
        _set(self, min_value=registry.real("min_value", self.min_value, low=0))
        _set(self, max_value=registry.real("max_value", self.max_value, low=0, finite=False))
        _set(self, rate=registry.real("rate", self.rate, low=0, high=1))
        _set(self, axis=registry.axes("axis", self.axis))
        if self.min_value > self.max_value:
            raise ValueError(
                f"min_value must be <= max_value, got {self.min_value} and {self.max_value}"
            )

    def __call__(self, w: jax.Array) -> jax.Array:
        """Return the projected weight."""
        w, wide, axes = _prepare(w, self.axis)
        norms = _norms(wide, axes)
        clipped = jnp.clip(norms, self.min_value, self.max_value)
        desired = self.rate * clipped + (1 - self.rate) * norms
        return (wide * (desired / (_EPSILON + norms))).astype(w.dtype)


@dataclasses.dataclass(frozen=True)
class Stacked:
    """Apply a constraint to every slice along an axis.

    For parameters that `nn.scan` or `nn.vmap` stacks: the axes of the inner constraint count
    within a slice.

    Args:
        constraint: what `get` accepts, except None.
        axis: the stacking axis of the weight; may be negative.

    Raises:
        ValueError, TypeError: an argument breaks its rule; on the call, the weight lacks the axis.

    >>> print(Stacked(MaxNorm(max_value=1.0), axis=0)(jnp.full((2, 4), 2.0)).round(3))
    [[0.5 0.5 0.5 0.5]
     [0.5 0.5 0.5 0.5]]
    """

    constraint: Constraint
    axis: int = 0

    def __post_init__(self) -> None:
        if self.constraint is None:
            raise TypeError("constraint of Stacked must be a constraint, got None")
        _set(self, constraint=get(self.constraint))
        axis = registry.axes("axis", self.axis)
        if not isinstance(axis, int):
            raise TypeError(f"axis of Stacked must be an int, got {self.axis!r}")
        _set(self, axis=axis)

    def __call__(self, w: jax.Array) -> jax.Array:
        """Return the projected weight."""
        w = jnp.asarray(w)
        _resolve(self.axis, w.ndim)
        return jax.vmap(self.constraint, self.axis, self.axis)(w)


_KNOWN = registry.named(
    *(MaxNorm, NonNeg, UnitNorm, MinMaxNorm, Stacked),
    maxnorm=MaxNorm,  # Keras 2 knows these three too
    nonneg=NonNeg,
    unitnorm=UnitNorm,
)


def get(identifier: Any) -> Constraint | None:
    """Return the constraint that None, a Keras name, a Keras dict or a callable stands for.

    Raises:
        ValueError: the name or an argument in the dict is unknown.
        TypeError: the identifier is none of these.

    >>> get("max_norm"), get({"class_name": "UnitNorm", "config": {"axis": [0, 1]}})
    (MaxNorm(max_value=2, axis=0), UnitNorm(axis=(0, 1)))
    """
    name = identifier.get("class_name") if isinstance(identifier, Mapping) else identifier
    if name in ("RadialConstraint", "radial_constraint"):
        raise ValueError(
            f"constraint {name!r} of Keras 2 is for weights of rank 4; a separable convolution has "
            "none, and Keras 2 itself fails to apply it here"
        )
    return registry.get("constraint", _KNOWN, identifier)


def serialize(constraint: Constraint | None) -> dict[str, Any] | None:
    """Return the Keras dict of a constraint, None for None.

    Raises:
        TypeError: the constraint is not one of this module.

    >>> serialize(MaxNorm(axis=(0, 1)))
    {'class_name': 'MaxNorm', 'config': {'max_value': 2, 'axis': [0, 1]}}
    """
    return registry.serialize("constraint", _KNOWN, constraint)


def _set(instance: Any, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def _floating(w: jax.Array) -> jax.Array:
    w = jnp.asarray(w)
    if not jnp.issubdtype(w.dtype, jnp.floating):
        raise TypeError(f"a constraint needs a real floating-point weight, got dtype {w.dtype}")
    return w


def _prepare(
    w: jax.Array, axis: int | Sequence[int]
) -> tuple[jax.Array, jax.Array, tuple[int, ...]]:
    """Return the weight, the weight in the dtype to compute in, and non-negative axes."""
    w = _floating(w)
    axes = _resolve(axis, w.ndim)
    return w, w.astype(jnp.promote_types(w.dtype, jnp.float32)), axes


def _resolve(axis: int | Sequence[int], rank: int) -> tuple[int, ...]:
    axes = (axis,) if isinstance(axis, int) else axis
    resolved = tuple(a + rank if a < 0 else a for a in axes)
    if not all(0 <= a < rank for a in resolved) or len(set(resolved)) != len(resolved):
        raise ValueError(f"axis must name different axes of a weight of rank {rank}, got {axis}")
    return resolved


def _norms(w: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Return the norms over axes, kept with size 1; that of zeros has the derivative zero.

    Sums by halves: the error of N float32 squares is at most log2(N) * 6e-8 on every backend,
    which keeps MaxNorm's promise; that of a running sum may grow with N.
    """
    total = jnp.square(w)
    for axis in axes:
        while (size := total.shape[axis]) > 1:
            half = size // 2
            low = lax.slice_in_dim(total, 0, half, axis=axis)
            high = lax.slice_in_dim(total, half, 2 * half, axis=axis)
            rest = lax.slice_in_dim(total, 2 * half, size, axis=axis)
            total = low + high if 2 * half == size else lax.concatenate([low + high, rest], axis)
    is_zero = total == 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, total)))
