"""The operations on arrays: the only place where arguments are checked and resolved."""

import functools
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
from flax_sepconv.depthwise import depthwise
from flax_sepconv.lowerings import LOWERINGS, native
from flax_sepconv.selection import CONTRACTIONS, Selection, select
from flax_sepconv.separable import separable
from flax_sepconv.streaming import StreamState
from flax_sepconv.tails import zero_tails

__all__ = [
    "Selection",
    "StreamState",
    "depthwise_conv1d",
    "initial_state",
    "output_length",
    "select_implementation",
    "separable_conv1d",
    "separable_conv1d_step",
]

DATA_FORMATS = ("channels_last", "channels_first")
DTYPES = ("float32", "float64", "bfloat16", "float16")


def depthwise_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    *,
    strides: int | tuple[int] = 1,
    padding: str = "valid",
    data_format: str = "channels_last",
    dilation_rate: int | tuple[int] = 1,
    lengths: ArrayLike | None = None,
    implementation: str | None = None,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
) -> jax.Array:
    """Filter every channel with its own M kernels; the first stage of `separable_conv1d`.

    h[b, l, c*M + m] = sum_i x[b, l*S + i*D - pad_low, c] * depthwise_kernel[i, c, m]

    Args:
        x: (..., L, C), or (..., C, L) with "channels_first"; any number of batch dimensions.
        depthwise_kernel: (K, C, M).
        strides, padding, data_format, dilation_rate, lengths, implementation, precision,
            preferred_element_type: as for `separable_conv1d`.

    Returns:
        (..., output length, C*M), or (..., C*M, output length).

    Raises:
        ValueError, TypeError, NotImplementedError: as `separable_conv1d`.

    Example:
        >>> depthwise_conv1d(jnp.ones((2, 10, 3)), jnp.ones((4, 3, 2)), padding="same").shape
        (2, 10, 6)
    """
    x, depthwise_kernel = _arrays(x=x, depthwise_kernel=depthwise_kernel)
    rows, geometry, ends = _resolve(
        x,
        depthwise_kernel,
        strides=strides,
        padding=padding,
        data_format=data_format,
        dilation_rate=dilation_rate,
        lengths=lengths,
        implementation=implementation,
    )
    h = depthwise(
        rows,
        depthwise_kernel,
        geometry,
        implementation=implementation,
        precision=precision,
        dtype=_result_dtype(preferred_element_type, x.dtype),
    )
    return _from_channels_last(h, ends, x, data_format)


def separable_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    pointwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    strides: int | tuple[int] = 1,
    padding: str = "valid",
    data_format: str = "channels_last",
    dilation_rate: int | tuple[int] = 1,
    lengths: ArrayLike | None = None,
    implementation: str | None = None,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    initial_state: StreamState | None = None,
    return_state: bool = False,
) -> Any:
    """Filter every channel on its own, then mix the channels.

    h[b, l, c*M + m] = sum_i x[b, l*S + i*D - pad_low, c] * depthwise_kernel[i, c, m]
    y[b, l, f] = sum_j h[b, l, j] * pointwise_kernel[0, j, f] + bias[f]

    bfloat16 and float16 are accumulated in float32 in both stages and in every gradient.

    Args:
        x: (..., L, C), or (..., C, L) with "channels_first"; any number of batch dimensions.
        depthwise_kernel: (K, C, M).
        pointwise_kernel: (1, C*M, F).
        bias: (F,), or None.
        strides: S, input steps between output steps. Unlike the layer, the operation takes strides
            and a dilation rate together.
        padding: "valid", "same" (TensorFlow's rule: the odd zero goes to the right) or "causal"
            (D * (K - 1) zeros in front), in any case.
        data_format: "channels_last" or "channels_first". The kernels are the same.
        dilation_rate: D, input steps between taps.
        lengths: integers (...), one for each sequence of the batch, or None: all are whole. What
            stands from a sequence's end on, NaN included, counts as zeros of the padding and gets
            no gradient; its first `output_length(length, ...)` steps are those of the sequence
            alone ("same" by its own length), and what follows them is zero, without the bias.
        implementation: name of the depthwise lowering, "grouped_conv", "shifted_sum" or "native";
            None takes what `select_implementation` says for where the program is lowered.
        precision: of the contractions on the matrix units; None is the platform's default.
        preferred_element_type: dtype of the result; None is the operands' (promoted) dtype.
        initial_state: with "causal", what came before x, as an earlier call returned it; None is
            the beginning. Gradients flow through it (`lax.stop_gradient` truncates them).
        return_state: with "causal", whether the state behind x is returned too.

    Returns:
        (..., output length, F), or (..., F, output length); with `return_state` a pair of it and a
        `StreamState`.

    Raises:
        ValueError: an argument or a shape breaks its rule, or no output step remains.
        TypeError: an operand is not floating point.
        NotImplementedError: the named implementation cannot run here.

    Example:
        >>> x = jnp.ones((2, 10, 3))
        >>> separable_conv1d(x, jnp.ones((4, 3, 2)), jnp.ones((1, 6, 5)), strides=2).shape
        (2, 4, 5)

    Source: https://www.tensorflow.org/api_docs/python/tf/compat/v1/layers/separable_conv1d
    """
    operands = {"x": x, "depthwise_kernel": depthwise_kernel, "pointwise_kernel": pointwise_kernel}
    if bias is not None:
        operands["bias"] = bias
    dtype = jnp.asarray(x).dtype
    x, depthwise_kernel, pointwise_kernel, *biases = _arrays(**operands)
    streams = initial_state is not None or return_state
    resolve = functools.partial(_resolve_streams, initial_state, dtype) if streams else _resolve
    rows, geometry, ends, *states = resolve(
        x,
        depthwise_kernel,
        strides=strides,
        padding=padding,
        data_format=data_format,
        dilation_rate=dilation_rate,
        lengths=lengths,
        implementation=implementation,
    )
    lanes = math.prod(depthwise_kernel.shape[1:])
    kernel_shape = pointwise_kernel.shape
    if len(kernel_shape) != 3 or kernel_shape[:2] != (1, lanes):
        raise ValueError(
            f"pointwise_kernel must have shape (1, C*M, F) with C*M={lanes}, got {kernel_shape}"
        )
    if biases and biases[0].shape != kernel_shape[2:]:
        raise ValueError(
            f"bias must have shape (F,) with F={kernel_shape[2]}, got {biases[0].shape}"
        )
    y = separable(
        rows,
        depthwise_kernel,
        pointwise_kernel[0],
        *biases,
        geometry=geometry,
        implementation=implementation,
        precision=precision,
        dtype=_result_dtype(preferred_element_type, x.dtype),
    )
    y = _from_channels_last(y, ends, x, data_format)
    return (y, *states) if return_state else y


def separable_conv1d_step(
    x: ArrayLike,
    state: StreamState | None,
    depthwise_kernel: ArrayLike,
    pointwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    **options: Any,
) -> tuple[jax.Array, StreamState]:
    """Take the next chunk of each stream of a batch: `separable_conv1d` with padding "causal".

    The results of all chunks, one behind the other, are the result of the whole sequence. Chunks
    may have any size from one step up; each new size compiles a program.

    With strides S > 1 a chunk of T steps gives ceil(T / S) output steps: of a stream the first
    `state.steps` (of the returned state), then zeros. Where T is a multiple of S (and all of the
    chunk is there, no `lengths`) every one of them counts.

    Args:
        x: (..., T, C), or (..., C, T) with "channels_first".
        state: what the call before returned, or `initial_state`; None begins all streams.
        depthwise_kernel, pointwise_kernel, bias: as for `separable_conv1d`.
        lengths: integers (...,), how many of the T steps each stream has, from 0 on; None: all.
            What stands behind them changes nothing, and 0 leaves a stream as it is.
        reset: bool (...,), which streams begin anew with this chunk.
        **options: `strides`, `data_format`, `dilation_rate`, `implementation`, `precision` and
            `preferred_element_type`, as for `separable_conv1d`.

    Returns:
        (..., ceil(T / S), F), or (..., F, ceil(T / S)), and the state behind the chunk, which holds
        D * (K - 1) input steps.

    Raises:
        ValueError: an argument or a shape breaks its rule, or the state is of another
            configuration.
        TypeError: an operand, `lengths`, `reset` or `state` has the wrong type.

    Example:
        >>> kernels = jnp.ones((4, 3, 2)), jnp.ones((1, 6, 5))
        >>> x = jnp.ones((2, 10, 3))
        >>> first, state = separable_conv1d_step(x[:, :7], None, *kernels)
        >>> second, state = separable_conv1d_step(x[:, 7:], state, *kernels)
        >>> first.shape, second.shape, state.history.shape
        ((2, 7, 5), (2, 3, 5), (2, 3, 3))
    """
    if "padding" in options and str(options["padding"]).lower() != "causal":
        raise ValueError(f"padding of a stream must be 'causal', got {options['padding']!r}")
    if reset is not None and isinstance(state, StreamState):
        state = state.reset(reset)
    return separable_conv1d(
        x,
        depthwise_kernel,
        pointwise_kernel,
        bias,
        **options | {"padding": "causal"},
        lengths=lengths,
        initial_state=state,
        return_state=True,
    )


def initial_state(
    x_shape: tuple[int, ...],
    depthwise_kernel_shape: tuple[int, ...],
    *,
    strides: int | tuple[int] = 1,
    data_format: str = "channels_last",
    dilation_rate: int | tuple[int] = 1,
    dtype: DTypeLike = "float32",
) -> StreamState:
    """Return the state of streams that have not begun, for `separable_conv1d_step`.

    Args:
        x_shape: (..., T, C), or (..., C, T) with "channels_first", of a chunk; T may be any.
        depthwise_kernel_shape: (K, C, M).
        strides, data_format, dilation_rate: as for the calls.
        dtype: of the inputs.

    Example:
        >>> initial_state((2, 1, 3), (4, 3, 1), dilation_rate=2).history.shape
        (2, 6, 3)
    """
    last = choice("data_format", data_format, DATA_FORMATS) == "channels_last"
    S, D = positive_int("strides", strides), positive_int("dilation_rate", dilation_rate)
    if len(x_shape) < 2:
        raise ValueError(f"x_shape must have rank 2 or more, got {x_shape}")
    channels = x_shape[-1 if last else -2]
    _check_kernel(tuple(depthwise_kernel_shape), channels)
    _check_dtype("dtype", dtype)
    reach = D * (depthwise_kernel_shape[0] - 1)
    return streaming.zeros(tuple(x_shape[:-2]), channels, reach, S, last, dtype)


def output_length(
    length: Any,
    kernel_size: int | tuple[int],
    strides: int | tuple[int] = 1,
    padding: str = "valid",
    dilation_rate: int | tuple[int] = 1,
) -> Any:
    """Count the output steps of a sequence: 0 where it is too short for one.

    Args:
        length: an int, or an array of integers of any shape (traced ones included), none negative.
        kernel_size, strides, padding, dilation_rate: as for `separable_conv1d`.

    Returns:
        An int for an int, else an array of the same shape and dtype.

    Raises:
        ValueError, TypeError: an argument breaks its rule. Values that are traced are not looked at.

    Example:
        >>> output_length(28, kernel_size=3, strides=2, padding="same")
        14
        >>> output_length(jnp.array([28, 3, 2]), kernel_size=3)
        Array([26,  1,  0], dtype=int32)
    """
    ragged.check_length(length)
    return ragged.output_length(
        length,
        positive_int("kernel_size", kernel_size),
        positive_int("strides", strides),
        positive_int("dilation_rate", dilation_rate),
        choice("padding", padding, geometry_lib.PADDINGS),
    )


def select_implementation(
    x_shape: tuple[int, ...],
    depthwise_kernel_shape: tuple[int, ...],
    *,
    platform: str,
    contraction: str = "output",
    strides: int | tuple[int] = 1,
    dilation_rate: int | tuple[int] = 1,
    dtype: DTypeLike = "float32",
    surroundings: str | None = None,
) -> Selection:
    """Tell which depthwise lowering `implementation=None` takes, and why.

    A pure function of static facts; nothing is measured or asked of a device.

    Args:
        x_shape: (..., L, C).
        depthwise_kernel_shape: (K, C, M).
        platform: "cpu", "cuda", "rocm" or "tpu" (`jax.default_backend()` says "gpu" for the middle
            two, which is accepted).
        contraction: "output", "input_gradient" or "kernel_gradient".
        strides: S, as in the operation.
        dilation_rate: D, as in the operation.
        dtype: of the operands.
        surroundings: None, or what sets the program apart: "exported" (lowered by `jax.export`),
            "partly manual" (inside a `shard_map` over some axes of a mesh), "without mesh"
            (several devices, arrays not sharded over a mesh), "explicit mesh" (the kernel
            gradient on several devices, explicit axes). There the native lowering stays out.

    Example:
        >>> select_implementation((8, 1024, 256), (31, 256, 1), platform="tpu").name
        'grouped_conv'
    """
    if contraction not in CONTRACTIONS.values():
        raise ValueError(
            f"contraction must be one of {', '.join(CONTRACTIONS.values())}, got {contraction!r}"
        )
    if surroundings is not None:
        choice("surroundings", surroundings, tuple(native.SURROUNDINGS))
    _check_kernel(tuple(depthwise_kernel_shape), x_shape[-1])
    geometry = geometry_lib.resolve(
        length=x_shape[-2],
        kernel_size=depthwise_kernel_shape[0],
        stride=positive_int("strides", strides),
        dilation=positive_int("dilation_rate", dilation_rate),
        padding="causal",  # Which zeros are read makes no difference.
    )
    multiplier = depthwise_kernel_shape[2]
    return select(platform, contraction, geometry, multiplier, dtype, surroundings)


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
    _check_dtype(name, x.dtype)
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


def _check_dtype(name: str, dtype: DTypeLike) -> None:
    if jnp.dtype(dtype).name not in DTYPES:
        raise TypeError(f"{name} must be of dtype {', '.join(DTYPES)}, got {jnp.dtype(dtype)}")


def _check_kernel(shape: tuple[int, ...], channels: int) -> None:
    if len(shape) != 3 or shape[1] != channels or 0 in shape:
        raise ValueError(
            f"depthwise_kernel must have shape (K, C, M), all positive, with C={channels}, "
            f"the channels of x, got {shape}"
        )


def _arrays(**operands: ArrayLike) -> list[jax.Array]:
    """Check the operands' dtypes, and convert them to their common one."""
    arrays = {name: jnp.asarray(operand) for name, operand in operands.items()}
    for name, array in arrays.items():
        _check_dtype(name, array.dtype)
    dtype = jnp.result_type(*arrays.values())
    return [array.astype(dtype) for array in arrays.values()]


def _result_dtype(preferred: DTypeLike | None, default: DTypeLike) -> jnp.dtype:
    if preferred is None:
        return jnp.dtype(default)
    _check_dtype("preferred_element_type", preferred)
    return jnp.dtype(preferred)


def _resolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: int | tuple[int],
    padding: str,
    data_format: str,
    dilation_rate: int | tuple[int],
    lengths: ArrayLike | None,
    implementation: str | None,
) -> tuple[jax.Array, geometry_lib.Geometry, jax.Array | None]:
    """Check and resolve the arguments.

    Returns:
        x as (B, L, C), zero behind the ends of its sequences, the geometry, and the output lengths
        (B,), None where the sequences are whole.
    """
    channels = channels_of("x", x, data_format)
    _check_kernel(kernel.shape, channels)
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
        rows = zero_tails(rows, own)
        K, S, D = geometry.kernel_size, geometry.stride, geometry.dilation
        ends = ragged.output_length(own, K, S, D, padding.lower())
        if S > 1 and padding.lower() == "same":
            rows, geometry = ragged.align(rows, own, geometry)
    edges = geometry.pad_low, geometry.pad_high
    if any(jax.export.is_symbolic_dim(edge) for edge in edges):
        # No lowering has to pad by what is not known: that is done here.
        zero = jnp.zeros((), rows.dtype)
        rows = lax.pad(rows, zero, ((0, 0, 0), (*edges, 0), (0, 0, 0)))
        geometry = geometry.padded()
    return rows, geometry, ends


def _resolve_streams(
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
        As `_resolve`, and the state behind x.
    """
    if choice("padding", padding, geometry_lib.PADDINGS) != "causal":
        raise ValueError(f"padding must be 'causal' where there is a state, got {padding!r}")
    channels_of("x", x, data_format)
    fresh = initial_state(x.shape, kernel.shape, data_format=data_format, dtype=dtype, **steps)
    last, batch = data_format.lower() == "channels_last", x.shape[:-2]
    if state is not None:
        streaming.check("the state", state, fresh, last)
    rows = x if last else x.swapaxes(-1, -2)
    if rows.shape[-2] == 0:
        raise ValueError(f"x must have at least one step, got shape {x.shape}")
    ends = None if lengths is None else ragged.resolve(lengths, batch, rows.shape[-2])
    count = math.prod(batch)
    before = streaming.reshaped(fresh if state is None else state, (count,), last)
    joined, ends, after = streaming.join(before, rows.reshape(count, *rows.shape[-2:]), ends)
    after = streaming.reshaped(after, batch, last)
    steps["implementation"] = implementation
    if state is None:  # The zeros in front need not be copied: `joined` is of no use.
        settings: Any = {"padding": padding, "data_format": data_format, "lengths": lengths}
        return *_resolve(x, kernel, **settings, **steps), after
    settings = {"padding": "valid", "data_format": "channels_last", "lengths": None}
    rows, geometry, _ = _resolve(joined, kernel, **settings, **steps)
    return rows, geometry, ends, after


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
    """Let nothing but zeros stand behind the ends (...) of sequences (..., L, F), or (..., F, L)."""
    last = data_format == "channels_last"
    steps = y if last else y.swapaxes(-1, -2)
    rows = steps.reshape(math.prod(steps.shape[:-2]), *steps.shape[-2:])
    zeroed = zero_tails(rows, jnp.asarray(ends, jnp.int32).reshape(-1)).reshape(steps.shape)
    return zeroed if last else zeroed.swapaxes(-1, -2)


def _from_channels_last(
    y: jax.Array, ends: jax.Array | None, x: jax.Array, data_format: str
) -> jax.Array:
    """Cut the sequences at their ends; restore the batch dimensions and the axis order of x."""
    if ends is not None:
        y = zero_tails(y, ends)
    y = y.reshape(*x.shape[:-2], *y.shape[-2:])
    return y if data_format.lower() == "channels_last" else y.swapaxes(-1, -2)
