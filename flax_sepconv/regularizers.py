"""Penalize weights: Keras' regularizers as hashable values.

A regularizer is called on a weight, w -> scalar. The sum is taken in float32 (float64 for a
float64 weight) and returned in that dtype.

Source: https://keras.io/api/layers/regularizers/
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flax_sepconv.keras import registry

Regularizer = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class L1:
    """Penalize magnitudes: l1 * sum(|w|).

    Args:
        l1: the factor, finite and >= 0; None is the default.

    Raises:
        ValueError, TypeError: the factor is none.

    >>> float(L1(0.5)(jnp.array([1.0, -3.0])))
    2.0
    """

    l1: float = 0.01

    def __post_init__(self) -> None:
        _set_factor(self, "l1", default=0.01)

    def __call__(self, w: jax.Array) -> jax.Array:
        """Return the penalty."""
        return self.l1 * _magnitudes(_wide(w))


@dataclasses.dataclass(frozen=True)
class L2:
    """Penalize squares: l2 * sum(w**2), without a factor 1/2.

    Args:
        l2: the factor, finite and >= 0; None is the default.

    Raises:
        ValueError, TypeError: the factor is none.

    >>> float(L2(0.5)(jnp.array([1.0, -3.0])))
    5.0
    """

    l2: float = 0.01

    def __post_init__(self) -> None:
        _set_factor(self, "l2", default=0.01)

    def __call__(self, w: jax.Array) -> jax.Array:
        """Return the penalty."""
        return self.l2 * jnp.sum(jnp.square(_wide(w)))


@dataclasses.dataclass(frozen=True)
class L1L2:
    """Penalize magnitudes and squares: l1 * sum(|w|) + l2 * sum(w**2).

    The name "l1_l2" means L1L2(0.01, 0.01), as in Keras 2; "l1l2" means L1L2(), as in Keras 3.

    Args:
        l1: the factor of the magnitudes, finite and >= 0; None is the default.
        l2: the factor of the squares, finite and >= 0; None is the default.

    Raises:
        ValueError, TypeError: a factor is none.

    >>> float(L1L2(l1=0.5, l2=0.5)(jnp.array([1.0, -3.0])))
    7.0
    """

    l1: float = 0.0
    l2: float = 0.0

    def __post_init__(self) -> None:
        _set_factor(self, "l1", default=0.0)
        _set_factor(self, "l2", default=0.0)

    def __call__(self, w: jax.Array) -> jax.Array:
        """Return the penalty."""
        w = _wide(w)
        return self.l1 * _magnitudes(w) + self.l2 * jnp.sum(jnp.square(w))


@dataclasses.dataclass(frozen=True)
class OrthogonalRegularizer:
    """Penalize the angles between the rows, or columns, of a matrix.

    factor * mean over pairs i < j of |u_i . u_j|, where u_i is a row (column) divided by its norm.
    Needs a weight of rank 2: it cannot be used on the kernels of a separable convolution, which
    have rank 3, nor on its bias.

    Args:
        factor: finite and >= 0.
        mode: "rows" or "columns".

    Raises:
        ValueError, TypeError: an argument breaks its rule; on the call, the weight does not have
            rank 2, or has a single row (column).

    >>> round(float(OrthogonalRegularizer(factor=1.0)(jnp.array([[2.0, 0.0], [3.0, 4.0]]))), 6)
    0.6
    """

    factor: float = 0.01
    mode: str = "rows"

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", registry.real("factor", self.factor, low=0))
        if self.mode not in ("rows", "columns"):
            raise ValueError(f"mode must be 'rows' or 'columns', got {self.mode!r}")

    def __call__(self, w: jax.Array) -> jax.Array:
        """Return the penalty."""
        w = _wide(w)
        if w.ndim != 2:
            raise ValueError(
                f"OrthogonalRegularizer needs a weight of rank 2, got shape {w.shape}: the "
                "kernels of a separable convolution have rank 3"
            )
        vectors = w if self.mode == "rows" else w.T
        count = vectors.shape[0]
        if count < 2:
            raise ValueError(
                f"OrthogonalRegularizer needs at least two {self.mode}, got shape {w.shape}"
            )
        squares = jnp.sum(jnp.square(vectors), axis=1, keepdims=True)
        units = vectors * jax.lax.rsqrt(jnp.maximum(squares, 1e-14))
        products = jnp.abs(jnp.matmul(units, units.T, precision="highest"))
        pairs = jnp.where(jnp.eye(count, dtype=bool), 0.0, products)
        return self.factor * jnp.sum(pairs) / (count * (count - 1))


_KNOWN = registry.named(L1, L2, L1L2, OrthogonalRegularizer, l1_l2=L1L2)


def get(identifier: Any) -> Regularizer | None:
    """Return the regularizer that None, a Keras name, a Keras dict or a callable stands for.

    Raises:
        ValueError: the name or an argument in the dict is unknown.
        TypeError: the identifier is none of these.

    >>> get("l2"), get({"class_name": "L1", "config": {"l1": 0.5}})
    (L2(l2=0.01), L1(l1=0.5))
    """
    if isinstance(identifier, str) and identifier == "l1_l2":
        return L1L2(0.01, 0.01)
    return registry.get("regularizer", _KNOWN, identifier)


def serialize(regularizer: Regularizer | None) -> dict[str, Any] | None:
    """Return the Keras dict of a regularizer, None for None.

    Raises:
        TypeError: the regularizer is not one of this module.

    >>> serialize(L2(0.5))
    {'class_name': 'L2', 'config': {'l2': 0.5}}
    """
    return registry.serialize("regularizer", _KNOWN, regularizer)


def _set_factor(instance: Any, name: str, default: float) -> None:
    value = getattr(instance, name)
    value = default if value is None else registry.real(name, value, low=0)
    object.__setattr__(instance, name, value)


def _magnitudes(w: jax.Array) -> jax.Array:
    """Return sum(|w|) with derivative 0 at 0, as in TensorFlow; that of `jnp.abs` is 1 there."""
    return jnp.sum(w * jnp.sign(w))


def _wide(w: jax.Array) -> jax.Array:
    w = jnp.asarray(w)
    if not jnp.issubdtype(w.dtype, jnp.floating):
        raise TypeError(f"a regularizer needs a real floating-point weight, got dtype {w.dtype}")
    return w.astype(jnp.promote_types(w.dtype, jnp.float32))
