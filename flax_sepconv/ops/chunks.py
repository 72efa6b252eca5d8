"""The operations on the next chunk of each stream, as users call them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from flax_sepconv.ops.api import result
from flax_sepconv.ops.arguments import (
    DATA_FORMATS,
    DTYPES,
    INTEGERS,
    DataFormat,
    Padding,
    Size,
    bind,
    check_dtype,
    check_kernel,
    choice,
    positive_int,
)
from flax_sepconv.ops.lowerings import Implementation
from flax_sepconv.ops.names import names_arguments
from flax_sepconv.ops.paddings import padding_rule
from flax_sepconv.ops.state import StreamState, delay_of, resolve_reset, zeros


def _step(
    x: ArrayLike,
    weights: dict[str, ArrayLike | None],
    state: StreamState | None,
    reset: ArrayLike | None,
    **settings: Any,
) -> tuple[jax.Array, StreamState]:
    """Compute the output of a chunk, and the state behind it."""
    if reset is not None:
        reset = resolve_reset(reset, jnp.shape(x)[:-2])
        state = state.reset(reset) if isinstance(state, StreamState) else state
    call = bind(
        {"x": x, **weights}, **settings, segment_ids=None, initial_state=state, return_state=True
    )
    found = result(call, None, True)
    assert isinstance(found, tuple)
    return found


@names_arguments
def separable_conv1d_step(
    x: ArrayLike,
    state: StreamState | None,
    depthwise_kernel: ArrayLike,
    pointwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    strides: Size = 1,
    padding: Padding = "causal",
    data_format: DataFormat = "channels_last",
    dilation_rate: Size = 1,
    lengths: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    flush: ArrayLike | None = None,
    implementation: Implementation | None = None,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
) -> tuple[jax.Array, StreamState]:
    """Take the next chunk of each stream of a batch, as `separable_conv1d` takes the whole.

    The results of all chunks, one behind the other, are the result of the whole sequence. Chunks
    may have any size from one step up; each new size compiles a program.

    With strides S > 1 a chunk of T steps gives ceil(T / S) output steps: of a stream the first
    `state.steps` (of the returned state), then zeros. Where T is a multiple of S (and all of the
    chunk is there, no `lengths`) every one of them counts.

    With another padding than "causal" an output step reads `state.delay` steps behind its own. It
    is given as soon as these have come: a stream's first chunks give fewer steps, again
    `state.steps` of them. What the zeros behind the last step then give comes with `flush`.

    Args:
        x: (..., T, C), or (..., C, T) with "channels_first".
        state: what the call before returned, or `initial_state`; None begins all streams.
        depthwise_kernel, pointwise_kernel, bias: as for `separable_conv1d`.
        strides, data_format, dilation_rate, implementation, precision, preferred_element_type: as
            for `separable_conv1d`.
        padding: "causal", "valid", a pair of numbers of zeros (low, high), no more than D * (K - 1)
            in all, or, with strides 1, "same".
        lengths: integers (...,), how many of the T steps each stream has, from 0 on; None: all.
            What stands behind them changes nothing, and 0 leaves a stream as it is.
        reset: bool (...,), which streams begin anew with this chunk.
        flush: bool (...,), which streams end with this chunk, or True: all. They get the `high`
            zeros of the padding behind it, and begin anew with the next chunk. There is room then
            for ceil((T + high) / S) output steps.

    Returns:
        (..., ceil(T / S), F), or (..., F, ceil(T / S)), and the state behind the chunk, which holds
        D * (K - 1) input steps.

    Raises:
        ValueError: an argument or a shape breaks its rule, or the state is of another
            configuration.
        TypeError: an operand, `lengths`, `reset`, `flush` or `state` has the wrong type.

    Example:
        >>> kernels = jnp.ones((4, 3, 2)), jnp.ones((1, 6, 5))
        >>> x = jnp.ones((2, 10, 3))
        >>> first, state = separable_conv1d_step(x[:, :7], None, *kernels)
        >>> second, state = separable_conv1d_step(x[:, 7:], state, *kernels)
        >>> first.shape, second.shape, state.history.shape
        ((2, 7, 5), (2, 3, 5), (2, 3, 3))

        One step on the left and two on the right: the outputs come two steps later.

        >>> first, state = separable_conv1d_step(x[:, :7], None, *kernels, padding=(1, 2))
        >>> state.delay, state.steps
        (2, Array([5, 5], dtype=int32))
        >>> last, state = separable_conv1d_step(
        ...     x[:, 7:], state, *kernels, padding=(1, 2), flush=True
        ... )
        >>> last.shape, state.steps
        ((2, 5, 5), Array([5, 5], dtype=int32))
    """
    return _step(
        x,
        {
            "depthwise_kernel": depthwise_kernel,
            "pointwise_kernel": pointwise_kernel,
            "bias": bias,
        },
        state,
        reset,
        strides=strides,
        padding=padding,
        data_format=data_format,
        dilation_rate=dilation_rate,
        lengths=lengths,
        implementation=implementation,
        precision=precision,
        preferred_element_type=preferred_element_type,
        flush=flush,
    )


@names_arguments
def depthwise_conv1d_step(
    x: ArrayLike,
    state: StreamState | None,
    depthwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    strides: Size = 1,
    padding: Padding = "causal",
    data_format: DataFormat = "channels_last",
    dilation_rate: Size = 1,
    lengths: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    flush: ArrayLike | None = None,
    implementation: Implementation | None = None,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
) -> tuple[jax.Array, StreamState]:
    """Take the next chunk of each stream of a batch, as `depthwise_conv1d` takes the whole.

    Args:
        x, state, strides, padding, data_format, dilation_rate, lengths, reset, flush,
            implementation, precision, preferred_element_type: as for `separable_conv1d_step`.
        depthwise_kernel, bias: as for `depthwise_conv1d`.

    Returns:
        (..., ceil(T / S), C*M), or (..., C*M, ceil(T / S)), and the state behind the chunk.

    Raises:
        ValueError, TypeError: as `separable_conv1d_step`.

    Example:
        >>> y, state = depthwise_conv1d_step(jnp.ones((2, 7, 3)), None, jnp.ones((4, 3, 2)))
        >>> y.shape, state.history.shape
        ((2, 7, 6), (2, 3, 3))
    """
    return _step(
        x,
        {
            "depthwise_kernel": depthwise_kernel,
            "bias": bias,
        },
        state,
        reset,
        strides=strides,
        padding=padding,
        data_format=data_format,
        dilation_rate=dilation_rate,
        lengths=lengths,
        implementation=implementation,
        precision=precision,
        preferred_element_type=preferred_element_type,
        flush=flush,
    )


@names_arguments
def initial_state(
    x_shape: tuple[int, ...],
    depthwise_kernel_shape: tuple[int, ...],
    *,
    strides: Size = 1,
    padding: Padding = "causal",
    data_format: DataFormat = "channels_last",
    dilation_rate: Size = 1,
    dtype: DTypeLike = "float32",
    segments: int | None = None,
) -> StreamState:
    """Return the state of streams that have not begun, for `separable_conv1d_step`.

    Args:
        x_shape: (..., T, C), or (..., C, T) with "channels_first", of a chunk; T may be any.
        depthwise_kernel_shape: (K, C, M).
        strides, padding, data_format, dilation_rate: as for the calls.
        dtype: of the inputs.
        segments: None, or for calls with `segment_ids` N, for how many segments of a row there is a
            state: `history` is (..., N, D * (K - 1), C), or (..., N, C, D * (K - 1)).

    Raises:
        ValueError: an argument or a shape breaks its rule.
        TypeError: `dtype` is neither floating point nor int8.

    Example:
        >>> initial_state((2, 1, 3), (4, 3, 1), dilation_rate=2).history.shape
        (2, 6, 3)
        >>> initial_state((2, 100, 3), (4, 3, 1), segments=5).history.shape
        (2, 5, 3, 3)
    """
    last = choice("data_format", data_format, DATA_FORMATS) == "channels_last"
    S, D = positive_int("strides", strides), positive_int("dilation_rate", dilation_rate)
    if len(x_shape) < 2:
        raise ValueError(f"x_shape must have rank 2 or more, got {x_shape}")
    channels = x_shape[-1 if last else -2]
    check_kernel(tuple(depthwise_kernel_shape), channels)
    check_dtype("dtype", dtype, (*DTYPES, *INTEGERS))
    K = depthwise_kernel_shape[0]
    delay = delay_of(padding_rule(padding), K, D, S)
    batch = tuple(x_shape[:-2])
    if segments is not None:
        if S != 1 or delay:
            raise ValueError(
                f"segments need padding 'causal' and strides 1, got {padding!r} and strides={S}"
            )
        batch = (*batch, positive_int("segments", segments))
    return zeros(batch, channels, D * (K - 1), S, last, dtype, delay)
