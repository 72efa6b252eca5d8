"""Keras' initializer of given numbers."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flax_sepconv.keras import registry


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """Fill with `value`: a finite number, or an array (or nested list) of them.

    An array is broadcast to the weight's shape, as in Keras 3, or else, if it has as many elements,
    taken row by row, as in Keras 2.

    Raises:
        ValueError, TypeError: the value breaks this rule; on the call, it does not fit the shape.

    >>> Constant(0.5)(None, (2,)).tolist(), Constant([1, 2])(None, (2,)).tolist()
    ([0.5, 0.5], [1.0, 2.0])
    """

    value: Any = 0.0

    def __post_init__(self) -> None:
        value: Any = self.value
        if getattr(value, "shape", None) == ():
            value = value.item()
        listed = isinstance(value, list | tuple | np.ndarray | jax.Array)
        value = _array(value) if listed else registry.real("value", value)
        object.__setattr__(self, "value", value)

    def __call__(self, key: Any, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Return an array of this shape and dtype."""
        if not isinstance(self.value, np.ndarray):
            return jnp.full(shape, self.value, dtype)
        given, wanted = self.value.shape, tuple(shape)
        pairs = zip(given[::-1], wanted[::-1], strict=False)
        if len(given) <= len(wanted) and all(one in (1, size) for one, size in pairs):
            return jnp.asarray(np.broadcast_to(self.value, wanted).astype(dtype))
        if math.prod(wanted) == self.value.size:
            return jnp.asarray(self.value.reshape(wanted).astype(dtype))
        raise ValueError(f"value of Constant, of shape {given}, does not fit shape {wanted}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> Any:
        if isinstance(self.value, np.ndarray):
            return self.value.shape, self.value.tobytes()
        return self.value


def _array(value: Any) -> np.ndarray:
    rule = "value must be a finite number or an array of them"
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{rule}, got lists of different lengths") from error
    if not (jnp.issubdtype(array.dtype, np.floating) or array.dtype.kind in "iu"):
        raise TypeError(f"{rule}, got an array of {array.dtype}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{rule}, got one that is not finite")
    array.flags.writeable = False
    return array
