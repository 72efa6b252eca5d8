"""The operations on arrays."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from flax_sepconv import geometry as geometry_lib
from flax_sepconv import ragged, segments, sequences, streaming
from flax_sepconv.composition import contract
from flax_sepconv.depthwise import depthwise
from flax_sepconv.lowerings import native
from flax_sepconv.resolving import (
    arrays_of,
    check_kernel,
    choice,
    fresh_state,
    positive_int,
    resolve,
    resolve_streams,
    restored,
    result_dtype,
)
from flax_sepconv.selection import CONTRACTIONS, Selection, select
from flax_sepconv.separable import separable
from flax_sepconv.streaming import StreamState

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


def depthwise_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    *,
    strides: int | tuple[int] = 1,
    padding: str = "valid",
    data_format: str = "channels_last",
    dilation_rate: int | tuple[int] = 1,
    lengths: ArrayLike | None = None,
    segment_ids: ArrayLike | None = None,
    implementation: str | None = None,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
) -> jax.Array:
    """Filter every channel with its own M kernels; the first stage of `separable_conv1d`.

    h[b, l, c*M + m] = sum_i x[b, l*S + i*D - pad_low, c] * depthwise_kernel[i, c, m]

    Args:
        x: (..., L, C), or (..., C, L) with "channels_first"; any number of batch dimensions.
        depthwise_kernel: (K, C, M).
        strides, padding, data_format, dilation_rate, lengths, segment_ids, implementation,
            precision, preferred_element_type: as for `separable_conv1d`.

    Returns:
        (..., output length, C*M), or (..., C*M, output length).

    Raises:
        ValueError, TypeError, NotImplementedError: as `separable_conv1d`.

    Example:
        >>> depthwise_conv1d(jnp.ones((2, 10, 3)), jnp.ones((4, 3, 2)), padding="same").shape
        (2, 10, 6)
    """
    x, depthwise_kernel = arrays_of(x=x, depthwise_kernel=depthwise_kernel)
    rows, geometry, ends = resolve(
        x,
        depthwise_kernel,
        strides=strides,
        padding=padding,
        data_format=data_format,
        dilation_rate=dilation_rate,
        lengths=lengths,
        implementation=implementation,
    )
    dtype = result_dtype(preferred_element_type, x.dtype)
    if segment_ids is not None:
        shape = (*x.shape[:-2], rows.shape[1])
        ids = segments.resolve(segment_ids, shape, geometry, padding, implementation)
        h = segments.depthwise(rows, depthwise_kernel, ids, geometry, dtype)
    else:
        h = depthwise(
            rows,
            depthwise_kernel,
            geometry,
            implementation=implementation,
            precision=precision,
            dtype=dtype,
        )
    return restored(h, ends, x, data_format)


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
    segment_ids: ArrayLike | None = None,
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
        segment_ids: integers (..., L), or None. Where they change within a row, a sequence ends and
            another one begins, and no tap reaches across: with "same" or "causal" and strides 1,
            every sequence has the result that it has alone. The depthwise stage is then K masked
            sums of XLA's own operations, several times slower than without.
        implementation: name of the depthwise lowering, "grouped_conv", "shifted_sum" or "native";
            None takes what `select_implementation` says for where the program is lowered.
        precision: of the contractions on the matrix units; None is the platform's default.
        preferred_element_type: dtype of the result; None is the operands' (promoted) dtype.
        initial_state: with "causal", what came before x, as an earlier call returned it; None is
            the beginning. Gradients flow through its `history` (`lax.stop_gradient` truncates
            them); with respect to a whole state of strides > 1, `jax.grad` needs `allow_int=True`.
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
    x, depthwise_kernel, pointwise_kernel, *biases = arrays_of(**operands)
    streams = initial_state is not None or return_state
    is_open = any(map(jax.export.is_symbolic_dim, x.shape))
    by_sequence = not (lengths is None or streams or segment_ids is not None or is_open)
    resolved: Any = functools.partial(resolve, by_sequence=by_sequence)
    if streams:
        resolved = functools.partial(resolve_streams, initial_state, dtype)
    rows, geometry, ends, *states = resolved(
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
    out_dtype = result_dtype(preferred_element_type, x.dtype)
    if segment_ids is not None:
        if streams:
            raise ValueError("segment_ids and the state of a stream do not go together")
        shape = (*x.shape[:-2], rows.shape[1])
        ids = segments.resolve(segment_ids, shape, geometry, padding, implementation)
        h = segments.depthwise(rows, depthwise_kernel, ids, geometry, x.dtype)
        weights, has_bias = (pointwise_kernel[0], *biases), bool(biases)
        (y,) = contract(
            h, *weights, result="y", bias=has_bias, precision=precision, dtype=out_dtype
        )
    else:
        both: Any = separable
        if by_sequence:
            both = functools.partial(sequences.separable, lengths=ends, padding=padding.lower())
            ends = None
        y = both(
            rows,
            depthwise_kernel,
            pointwise_kernel[0],
            *biases,
            geometry=geometry,
            implementation=implementation,
            precision=precision,
            dtype=out_dtype,
        )
    y = restored(y, ends, x, data_format)
    return (y, *states) if return_state else y


def separable_conv1d_step(
    x: ArrayLike,
    state: StreamState | None,
    depthwise_kernel: ArrayLike,
    pointwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    strides: int | tuple[int] = 1,
    padding: str = "causal",
    data_format: str = "channels_last",
    dilation_rate: int | tuple[int] = 1,
    lengths: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    implementation: str | None = None,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
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
        strides, data_format, dilation_rate, implementation, precision, preferred_element_type: as
            for `separable_conv1d`.
        padding: "causal"; with another one an output step would read steps still to come.
        lengths: integers (...,), how many of the T steps each stream has, from 0 on; None: all.
            What stands behind them changes nothing, and 0 leaves a stream as it is.
        reset: bool (...,), which streams begin anew with this chunk.

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
    if reset is not None:
        reset = streaming.resolve_reset(reset, jnp.shape(x)[:-2])
        state = state.reset(reset) if isinstance(state, StreamState) else state
    return separable_conv1d(
        x,
        depthwise_kernel,
        pointwise_kernel,
        bias,
        strides=strides,
        padding=padding,
        data_format=data_format,
        dilation_rate=dilation_rate,
        lengths=lengths,
        implementation=implementation,
        precision=precision,
        preferred_element_type=preferred_element_type,
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
    return fresh_state(
        x_shape,
        depthwise_kernel_shape,
        strides=strides,
        data_format=data_format,
        dilation_rate=dilation_rate,
        dtype=dtype,
    )


def output_length(
    length: Any,
    kernel_size: int | tuple[int],
    strides: int | tuple[int] = 1,
    padding: str = "valid",
    dilation_rate: int | tuple[int] = 1,
) -> Any:
    """Count the output steps of a sequence: 0 where it is too short for one.

    Args:
        length: an int, or an array (traced too) or list of integers of any shape, none negative.
        kernel_size, strides, padding, dilation_rate: as for `separable_conv1d`.

    Returns:
        An int for an int, else an array of the same shape and dtype (a list's is JAX's own).

    Raises:
        ValueError, TypeError: an argument breaks its rule. Traced values are not looked at.

    Example:
        >>> output_length(28, kernel_size=3, strides=2, padding="same")
        14
        >>> output_length(jnp.array([28, 3, 2]), kernel_size=3)
        Array([26,  1,  0], dtype=int32)
    """
    return ragged.output_length(
        ragged.resolve_length(length),
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
    check_kernel(tuple(depthwise_kernel_shape), x_shape[-1])
    geometry = geometry_lib.resolve(
        length=x_shape[-2],
        kernel_size=depthwise_kernel_shape[0],
        stride=positive_int("strides", strides),
        dilation=positive_int("dilation_rate", dilation_rate),
        padding="causal",  # Which zeros are read makes no difference.
    )
    multiplier = depthwise_kernel_shape[2]
    return select(platform, contraction, geometry, multiplier, dtype, surroundings)
