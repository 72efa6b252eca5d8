"""From arguments as they are given to rows, integers and a geometry: every check is here."""

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import InconclusiveDimensionOperation
from jax.typing import ArrayLike, DTypeLike

from flax_sepconv import geometry as geometry_lib
from flax_sepconv import ragged, streaming
from flax_sepconv.lowerings import LOWERINGS
from flax_sepconv.streaming import StreamState
from flax_sepconv.tails import zero_tails

DATA_FORMATS = ("channels_last", "channels_first")
DTYPES = ("float32", "float64", "bfloat16", "float16")


def positive_int(name: str, value: Any) -> int:
    """Resolve a positive int, or a sequence of one, to an int.

    Example:
        >>> positive_int("kernel_size", (3,))
        3
    """
    single = value[0] if isinstance(value, tuple | list) and len(value) == 1 else value
    if isinstance(single, bool) or not isinstance(single, numbers.Integral) or single < 1:
        raise ValueError(f"{name} must be a positive int (or a 1-tuple of one), got {value!r}")
    return int(single)


def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Resolve a name, given in any case, to one of the choices."""
    if not isinstance(value, str) or value.lower() not in choices:
        expected = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be one of {expected} (in any case), got {value!r}")
    return value.lower()


def check_implementation(implementation: Any) -> None:
    """Raise ValueError unless it is None or the name of a lowering."""
    if implementation is not None and implementation not in LOWERINGS:
        raise ValueError(
            f"implementation must be None or one of {', '.join(map(repr, LOWERINGS))}, "
            f"got {implementation!r}"
        )


def channels_of(name: str, x: ArrayLike, data_format: str) -> int:
    """Check what the operation takes as input, and return its number of channels."""
    x = jnp.asarray(x)
    check_dtype(name, x.dtype)
    last = choice("data_format", data_format, DATA_FORMATS) == "channels_last"
    if x.ndim < 2:
        form = "(..., L, C)" if last else "(..., C, L)"
        raise ValueError(f"{name} must have shape {form}, rank 2 or more, got {x.shape}")
    channels = x.shape[-1 if last else -2]
    if not isinstance(channels, int) or channels < 1:
        raise ValueError(
            f"the number of channels of {name} must be known and positive, got {x.shape} with "
            f"data_format={data_format!r}"
        )
    return channels


def check_dtype(name: str, dtype: DTypeLike) -> None:
    """Raise TypeError unless it is floating point."""
    if jnp.dtype(dtype).name not in DTYPES:
        raise TypeError(f"{name} must be of dtype {', '.join(DTYPES)}, got {jnp.dtype(dtype)}")


def check_kernel(shape: tuple[int, ...], channels: int) -> None:
    """Raise ValueError unless it is the shape of a depthwise kernel for C channels."""
    if len(shape) != 3 or shape[1] != channels or 0 in shape:
        raise ValueError(
            f"depthwise_kernel must have shape (K, C, M), all positive, with C={channels}, "
            f"the channels of x, got {shape}"
        )


def arrays_of(**operands: ArrayLike) -> list[jax.Array]:
    """Check the operands' dtypes, and convert them to their common one."""
    arrays = {name: jnp.asarray(operand) for name, operand in operands.items()}
    for name, array in arrays.items():
        check_dtype(name, array.dtype)
    dtype = jnp.result_type(*arrays.values())
    return [array.astype(dtype) for array in arrays.values()]


def result_dtype(preferred: DTypeLike | None, default: DTypeLike) -> jnp.dtype:
    """Resolve `preferred_element_type`."""
    if preferred is None:
        return jnp.dtype(default)
    check_dtype("preferred_element_type", preferred)
    return jnp.dtype(preferred)


def resolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: int | tuple[int],
    padding: str,
    data_format: str,
    dilation_rate: int | tuple[int],
    lengths: ArrayLike | None,
    implementation: str | None,
    by_sequence: bool = False,
) -> tuple[jax.Array, geometry_lib.Geometry, jax.Array | None]:
    """Check and resolve the arguments.

    Returns:
        x as (B, L, C), zero behind the ends of its sequences, the geometry, and the output lengths
        (B,), None where the sequences are whole. Or, by sequence, x as it is, the geometry of a
        whole one, and the input lengths (B,).
    """
    channels = channels_of("x", x, data_format)
    check_kernel(kernel.shape, channels)
    check_implementation(implementation)
    if choice("data_format", data_format, DATA_FORMATS) == "channels_first":
        x = x.swapaxes(-1, -2)
    geometry = _geometry(
        x.shape[-2],
        kernel.shape[0],
        positive_int("strides", strides),
        positive_int("dilation_rate", dilation_rate),
        choice("padding", padding, geometry_lib.PADDINGS),
    )
    rows = x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])
    ends = None
    if lengths is not None:
        own = ragged.resolve(lengths, x.shape[:-2], x.shape[-2])
        if by_sequence:
            return rows, geometry, own
        rows, geometry, ends = ragged.mask(rows, own, geometry, padding.lower())
    edges = geometry.pad_low, geometry.pad_high
    if any(jax.export.is_symbolic_dim(edge) for edge in edges):
        # No lowering has to pad by what is not known: that is done here.
        zero = jnp.zeros((), rows.dtype)
        rows = lax.pad(rows, zero, ((0, 0, 0), (*edges, 0), (0, 0, 0)))
        geometry = geometry.padded()
    return rows, geometry, ends


def resolve_streams(
    state: StreamState | None,
    dtype: DTypeLike,
    x: jax.Array,
    kernel: jax.Array,
    *,
    padding: str,
    data_format: str,
    lengths: ArrayLike | None,
    implementation: str | None,
    **steps: Any,
) -> tuple[jax.Array, geometry_lib.Geometry, jax.Array | None, StreamState]:
    """Check and resolve the arguments where x has a state before it, or is to have one behind it.

    Returns:
        As `resolve`, and the state behind x.
    """
    if choice("padding", padding, geometry_lib.PADDINGS) != "causal":
        raise ValueError(f"padding must be 'causal' where there is a state, got {padding!r}")
    channels_of("x", x, data_format)
    fresh = fresh_state(x.shape, kernel.shape, data_format=data_format, dtype=dtype, **steps)
    last, batch = data_format.lower() == "channels_last", x.shape[:-2]
    if state is not None:
        streaming.check("the state", state, fresh, last)
    rows = x if last else x.swapaxes(-1, -2)
    if rows.shape[-2] == 0:
        raise ValueError(f"x must have at least one step, got shape {x.shape}")
    ends = None
    if lengths is not None:
        ends = ragged.possible(ragged.resolve(lengths, batch, rows.shape[-2]), rows.shape[-2])
    count = math.prod(batch)
    before = streaming.reshaped(fresh if state is None else state, (count,), last)
    joined, ends, after = streaming.join(before, rows.reshape(count, *rows.shape[-2:]), ends)
    after = streaming.reshaped(after, batch, last)
    steps["implementation"] = implementation
    if state is None:  # The zeros in front need not be copied: `joined` is of no use.
        settings: Any = {"padding": padding, "data_format": data_format, "lengths": lengths}
        return *resolve(x, kernel, **settings, **steps), after
    settings = {"padding": "valid", "data_format": "channels_last", "lengths": None}
    rows, geometry, _ = resolve(joined, kernel, **settings, **steps)
    return rows, geometry, ends, after


def fresh_state(
    x_shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    *,
    strides: int | tuple[int],
    data_format: str,
    dilation_rate: int | tuple[int],
    dtype: DTypeLike,
) -> StreamState:
    """Check the arguments of streams, and return the state of those that have not begun."""
    last = choice("data_format", data_format, DATA_FORMATS) == "channels_last"
    S, D = positive_int("strides", strides), positive_int("dilation_rate", dilation_rate)
    if len(x_shape) < 2:
        raise ValueError(f"x_shape must have rank 2 or more, got {x_shape}")
    channels = x_shape[-1 if last else -2]
    check_kernel(tuple(kernel_shape), channels)
    check_dtype("dtype", dtype)
    reach = D * (kernel_shape[0] - 1)
    return streaming.zeros(tuple(x_shape[:-2]), channels, reach, S, last, dtype)


def _geometry(
    length: int, kernel_size: int, stride: int, dilation: int, padding: str
) -> geometry_lib.Geometry:
    """Resolve a padding rule for a length that may be a symbol."""
    try:
        return geometry_lib.resolve(length, kernel_size, stride, dilation, padding)
    except InconclusiveDimensionOperation as error:
        least = geometry_lib.least_length(kernel_size, dilation, padding)
        raise ValueError(
            f"whether an output step remains must be known: input length L={length} must be at "
            f"least {least} with padding={padding!r}, kernel_size K={kernel_size}, "
            f"dilation_rate D={dilation}; say so by a constraint where the symbols are made "
            f"(of jax.export.symbolic_shape), such as '{length} >= {least}'"
        ) from error


def cut(y: jax.Array, ends: ArrayLike, data_format: str) -> jax.Array:
    """Set what is behind the ends (...) of sequences, (..., L, F) or (..., F, L), to zero."""
    last = data_format == "channels_last"
    steps = y if last else y.swapaxes(-1, -2)
    rows = steps.reshape(math.prod(steps.shape[:-2]), *steps.shape[-2:])
    zeroed = zero_tails(rows, jnp.asarray(ends, jnp.int32).reshape(-1)).reshape(steps.shape)
    return zeroed if last else zeroed.swapaxes(-1, -2)


def restored(y: jax.Array, ends: jax.Array | None, x: jax.Array, data_format: str) -> jax.Array:
    """Cut the sequences at their ends; restore the batch dimensions and the axis order of x."""
    if ends is not None:
        y = zero_tails(y, ends)
    y = y.reshape(*x.shape[:-2], *y.shape[-2:])
    return y if data_format.lower() == "channels_last" else y.swapaxes(-1, -2)
