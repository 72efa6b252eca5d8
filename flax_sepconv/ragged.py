"""Batches of sequences of different lengths: what lengths may be, and "same" for each by itself."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import checkify
from jax.typing import ArrayLike

from flax_sepconv import geometry as geometry_lib
from flax_sepconv.geometry import Geometry
from flax_sepconv.tails import zero_tails


def integers(name: str, value: ArrayLike, shape: tuple[Any, ...], meaning: str) -> Any:
    """Return an array of integers, or raise TypeError or ValueError."""
    array: Any = value if hasattr(value, "dtype") else _array_of(value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got dtype {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, {meaning}, got {array.shape}")
    return array


def _array_of(numbers: Any) -> jax.Array:
    """Convert a list; one of nothing could hold integers as well as anything."""
    array = jnp.asarray(numbers)
    return array if array.size else array.astype(jnp.int32)


def resolve(lengths: ArrayLike, batch: tuple[Any, ...], length: Any) -> jax.Array:
    """Check lengths, and return them as int32 (B,), all batch dimensions in one.

    Lengths outside 0 ... L are an error where their values are known. Under a transformation they
    are not: there they count as the nearest that is possible, and are an error of `checkify`, which
    is what `chex.chexify` wraps a function in.
    """
    array = integers("lengths", lengths, batch, "the batch dimensions of x")
    symbolic = jax.export.is_symbolic_dim(length)
    top = length if symbolic else min(length, jnp.iinfo(array.dtype).max)
    message = f"lengths must be from 0 to the input length L={length}, got "
    if isinstance(array, jax.core.Tracer) or symbolic:
        possible = jnp.clip(array, 0, top)
        holds = jnp.all(possible == array)
        checkify.debug_check(holds, message + "{lengths}", lengths=array)
    else:
        if getattr(array, "is_fully_addressable", True):
            values = np.asarray(array)
            if ((values < 0) | (values > length)).any():
                raise ValueError(message + str(values))
        possible = jnp.clip(array, 0, top)
    return possible.astype(jnp.int32).reshape(-1)


def output_length(length: Any, kernel_size: int, stride: int, dilation: int, padding: str) -> Any:
    """Count the output steps of a sequence, or of each of an array of them; at least 0."""
    # Differences must not leave what the numbers' own type can hold.
    dtype = getattr(length, "dtype", None)
    wide = length.astype(_wide(dtype)) if dtype is not None else length
    steps: Any = geometry_lib.output_length(wide, kernel_size, stride, dilation, padding)
    steps *= steps > 0  # The larger of it and 0, for all kinds of numbers.
    return steps.astype(dtype) if dtype is not None else steps


def resolve_length(length: Any) -> Any:
    """Return a number of steps or an array of them, or raise TypeError or ValueError."""
    length = _array_of(length) if isinstance(length, list | tuple) else length
    is_array = hasattr(length, "dtype")
    dtype = length.dtype if is_array else type(length)
    if isinstance(length, bool) or not (
        jnp.issubdtype(dtype, jnp.integer) if is_array else isinstance(length, numbers.Integral)
    ):
        given = f"dtype {dtype}" if is_array else repr(length)
        raise TypeError(f"length must be an int or an array of integers, got {given}")
    if not isinstance(length, jax.core.Tracer) and np.any(np.asarray(length) < 0):
        raise ValueError(f"length must not be negative, got {length}")
    return length


def _wide(dtype: np.dtype) -> np.dtype:
    return jnp.dtype("int64" if dtype.itemsize == 8 else "int32")


def plan(lengths: jax.Array, geometry: Geometry, padding: str) -> jax.Array:
    """Return (3, B): the length, the output length, and the zeros in front, of each sequence."""
    K, S, D = geometry.kernel_size, geometry.stride, geometry.dilation
    ends = output_length(lengths, K, S, D, padding)
    if padding == "same":
        low = geometry_lib.same_pad_low(lengths, K, S, D)
    else:
        low = jnp.full_like(lengths, geometry.pad_low)
    return jnp.stack([lengths, ends, low])


def mask(
    x: jax.Array, lengths: jax.Array, geometry: Geometry, padding: str
) -> tuple[jax.Array, Geometry]:
    """Let nothing stand behind the ends, and return the geometry that is right for each row."""
    x = zero_tails(x, lengths)
    return (
        align(x, lengths, geometry) if padding == "same" and geometry.stride > 1 else (x, geometry)
    )


def align(x: jax.Array, lengths: jax.Array, geometry: Geometry) -> tuple[jax.Array, Geometry]:
    """Let one geometry be right for rows whose own lengths want different zeros in front.

    With "same" and strides S > 1 the zeros depend on the length modulo S, and take a few
    neighbouring values. The geometry puts the least of them in front; each row brings the rest.

    Returns:
        (B, L + the greatest difference, C), and the geometry for it.
    """
    K, S, D = geometry.kernel_size, geometry.stride, geometry.dilation
    possible = [geometry_lib.same_pad_low(length, K, S, D) for length in range(1, S + 1)]
    least, spread = min(possible), max(possible) - min(possible)
    shifts = geometry_lib.same_pad_low(lengths, K, S, D) - least
    rows = _behind(x, 0, spread)
    for shift in range(1, spread + 1):
        rows = jnp.where((shifts == shift)[:, None, None], _behind(x, shift, spread), rows)
    length = geometry.length + spread
    return rows, Geometry(length, K, S, D, least, geometry.output_length)


def _behind(x: jax.Array, zeros: int, most: int) -> jax.Array:
    """Put so many zeros in front, and the rest of the most behind."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (zeros, most - zeros, 0), (0, 0, 0)))
