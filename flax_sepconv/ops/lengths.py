"""Lengths of sequences: what they may be, and how many output steps they give."""

import numbers
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.typing import ArrayLike

from flax_sepconv.ops import geometry as geometry_lib
from flax_sepconv.ops.geometry import PaddingRule
from flax_sepconv.ops.primitives import compiled, register_check, register_identity

RULE = "lengths must be from 0 to the input length L={length}, got {lengths}"
Array = jax.Array | np.ndarray
Count = TypeVar("Count", int, np.ndarray, jax.Array)


def integers(name: str, value: ArrayLike, shape: tuple[int, ...], meaning: str) -> Array:
    """Return an array of integers, or raise TypeError or ValueError."""
    given: Any = value if hasattr(value, "dtype") else array_of(value)
    array: Array = given
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got dtype {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, {meaning}, got {array.shape}")
    return array


def array_of(numbers: Any) -> jax.Array:
    """Convert a list; one of nothing could hold integers as well as anything."""
    array = jnp.asarray(numbers)
    return array if array.size else array.astype(jnp.int32)


def resolve(lengths: ArrayLike, batch: tuple[int, ...], length: int) -> jax.Array:
    """Check lengths, and return them as int32 (B,), all batch dimensions in one.

    Lengths outside 0 ... L are an error where their values are known. Under a transformation they
    are not: there they count as the nearest that is `possible`, and are an error of `checkify`,
    which is what `chex.chexify` wraps a function in.
    """
    array = integers("lengths", lengths, batch, "the batch dimensions of x")
    if isinstance(array, jax.core.Tracer) or jax.export.is_symbolic_dim(length):
        array = _checked_p.bind(array, length=length)
    elif getattr(array, "is_fully_addressable", True):
        values = jax.device_get(array)
        if ((values < 0) | (values > length)).any():
            raise ValueError(RULE.format(length=length, lengths=values))
        array = jax.device_put(array)
    if array.dtype != jnp.int32:
        array = possible(array, length).astype(jnp.int32)
    return jnp.reshape(array, -1)


@compiled("length")
def possible(lengths: Array, length: int) -> jax.Array:
    """Return the nearest lengths that sequences in L steps can have."""
    symbolic = jax.export.is_symbolic_dim(length)
    top = length if symbolic else min(length, jnp.iinfo(lengths.dtype).max)
    return jnp.clip(lengths, 0, top)


def check_length(length: Any) -> Any:
    """Return a number of steps or an array of them, or raise TypeError or ValueError."""
    length = array_of(length) if isinstance(length, list | tuple) else length
    is_array = hasattr(length, "dtype")
    dtype: Any = getattr(length, "dtype", type(length))
    if isinstance(length, bool) or not (
        jnp.issubdtype(dtype, jnp.integer) if is_array else isinstance(length, numbers.Integral)
    ):
        given = f"dtype {dtype}" if is_array else repr(length)
        raise TypeError(f"length must be an int or an array of integers, got {given}")
    if not isinstance(length, jax.core.Tracer) and np.any(jax.device_get(length) < 0):
        raise ValueError(f"length must not be negative, got {length}")
    return length


@compiled("kernel_size", "stride", "dilation", "padding")
def output_length(
    length: Count, kernel_size: int, stride: int, dilation: int, padding: PaddingRule
) -> Count:
    """Count the output steps of a sequence, or of each of an array of them; at least 0."""
    # Differences must not leave what the numbers' own type can hold.
    dtype: Any = getattr(length, "dtype", None)
    wide: Any = length
    if dtype is not None:
        wide = wide.astype("int64" if dtype.itemsize == 8 else "int32")
    steps: Any = geometry_lib.output_length(wide, kernel_size, stride, dilation, padding)
    steps *= steps > 0  # The larger of it and 0, for all kinds of numbers.
    count: Count = steps if dtype is None else steps.astype(dtype)
    return count


def _failure(lengths: jax.Array, *, length: int) -> tuple[jax.Array, str, dict[str, jax.Array]]:
    """Tell whether any length is impossible, and the rule that it breaks."""
    outside = jnp.any(possible(lengths, length) != lengths)
    return outside, RULE.replace("{length}", str(length)), {"lengths": lengths}


# The lengths themselves. `checkify.debug_check` would be an effect, which a program without
# `checkify` need not have checked, but pays for: JAX then calls it on a slower way, which takes
# longer than small layers do.
_checked_p = Primitive("checked_lengths")
register_identity(_checked_p)
register_check(_checked_p, _failure)
