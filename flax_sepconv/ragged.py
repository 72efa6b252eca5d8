"""Batches of sequences of different lengths: what lengths may be, and "same" for each by itself."""

import functools
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla
from jax.typing import ArrayLike

from flax_sepconv import geometry as geometry_lib
from flax_sepconv.geometry import Geometry
from flax_sepconv.primitives import register_check
from flax_sepconv.tails import zero_tails

RULE = "lengths must be from 0 to the input length L={length}, got {lengths}"


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
    are not: there they count as the nearest that is `possible`, and are an error of `checkify`,
    which is what `chex.chexify` wraps a function in.
    """
    array = integers("lengths", lengths, batch, "the batch dimensions of x")
    if isinstance(array, jax.core.Tracer) or jax.export.is_symbolic_dim(length):
        array = checked_p.bind(array, length=length)
    elif getattr(array, "is_fully_addressable", True):
        values = np.asarray(array)
        if ((values < 0) | (values > length)).any():
            raise ValueError(RULE.format(length=length, lengths=values))
    if array.dtype != jnp.int32:
        array = possible(array, length).astype(jnp.int32)
    return jnp.reshape(array, -1)


def possible(lengths: jax.Array, length: Any) -> jax.Array:
    """Return the nearest lengths that sequences in L steps can have."""
    symbolic = jax.export.is_symbolic_dim(length)
    top = length if symbolic else min(length, jnp.iinfo(lengths.dtype).max)
    return jnp.clip(lengths, 0, top)


# The lengths themselves. `checkify.debug_check` would be an effect, which a program without
# `checkify` need not have checked, but pays for: JAX then calls it on a slower way, which takes
# longer than small layers do.
checked_p = Primitive("checked_lengths")


def _failure(lengths: jax.Array, *, length: Any) -> tuple[jax.Array, str, dict[str, jax.Array]]:
    """Tell whether any length is impossible, and the rule that it breaks."""
    outside = jnp.any(possible(lengths, length) != lengths)
    return outside, RULE.replace("{length}", str(length)), {"lengths": lengths}


register_check(checked_p, _failure)
checked_p.def_impl(functools.partial(xla.apply_primitive, checked_p))
checked_p.def_abstract_eval(lambda lengths, length: lengths)
ad.primitive_jvps[checked_p] = lambda primals, tangents, length: (
    checked_p.bind(*primals, length=length),
    tangents[0],
)
batching.primitive_batchers[checked_p] = lambda lengths, axes, length: (
    checked_p.bind(*lengths, length=length),
    axes[0],
)
mlir.register_lowering(checked_p, lambda context, lengths, length: [lengths])


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


def mask(
    x: jax.Array, lengths: jax.Array, geometry: Geometry, padding: str
) -> tuple[jax.Array, Geometry, jax.Array]:
    """Let nothing stand behind the ends of sequences.

    Returns:
        Rows, the geometry that is right for all of them, and the output lengths (B,).
    """
    K, S, D = geometry.kernel_size, geometry.stride, geometry.dilation
    lengths = possible(lengths, x.shape[1])
    ends = output_length(lengths, K, S, D, padding)
    x = zero_tails(x, lengths)
    if padding == "same" and S > 1:
        x, geometry = align(x, lengths, geometry)
    return x, geometry, ends


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
