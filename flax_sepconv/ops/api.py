"""The operations on arrays, as users call them."""

from dataclasses import replace
from typing import Literal, overload

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from flax_sepconv.ops.arguments import (
    Call,
    DataFormat,
    Padding,
    Size,
    bind,
    fresh_state,
)
from flax_sepconv.ops.divided import along_axes, compute, on_mesh, plan_of
from flax_sepconv.ops.edges import strips
from flax_sepconv.ops.interception import is_intercepted
from flax_sepconv.ops.lowerings import Implementation
from flax_sepconv.ops.names import names_arguments
from flax_sepconv.ops.sharding import AxisName, OutSharding, place
from flax_sepconv.ops.state import StreamState, resolve_reset


def _compute(call: Call, out_sharding: OutSharding | None) -> jax.Array:
    """Compute what was asked for, by devices that hold parts where types tell that they do."""
    x, weights, stages = call.x, (call.kernel, *call.pointwise), call.stages
    plan = None
    if call.shards is None and not is_intercepted():
        plan = plan_of(x, weights, stages, call.rows_of(out_sharding))
    operands = x, call.kernel, call.pointwise, call.limits, stages
    if plan is not None:
        y = on_mesh(plan, x, weights, call.limits, stages)
    elif call.shards is not None and not call.shards.is_own:
        y = along_axes(*operands, call.shards)
    else:
        y = compute(*operands, call.shards)
    if call.edges is not None:
        for strip in strips(x, call.edges, stages.geometry):
            own = replace(stages, geometry=strip.geometry, bias=False)
            part = compute(strip.x, call.kernel, call.pointwise[:1], (), own)
            y = y.at[:, strip.first : strip.first + part.shape[1]].add(part)
    y = call.unflatten(y)
    return y if out_sharding is None else place(y, out_sharding)


@names_arguments
def depthwise_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    *,
    strides: Size = 1,
    padding: Padding = "valid",
    data_format: DataFormat = "channels_last",
    dilation_rate: Size = 1,
    lengths: ArrayLike | None = None,
    segment_ids: ArrayLike | None = None,
    implementation: Implementation | None = None,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    axis_name: AxisName | None = None,
    out_sharding: OutSharding | None = None,
) -> jax.Array:
    """Filter every channel with its own M kernels; the first stage of `separable_conv1d`.

    h[b, l, c*M + m] = sum_i x[b, l*S + i*D - pad_low, c] * depthwise_kernel[i, c, m]

    Args:
        x: (..., L, C), or (..., C, L) with "channels_first"; any number of batch dimensions.
        depthwise_kernel: (K, C, M).
        strides, padding, data_format, dilation_rate, lengths, segment_ids, implementation,
            precision, preferred_element_type, axis_name, out_sharding: as for `separable_conv1d`.

    Returns:
        (..., output length, C*M), or (..., C*M, output length).

    Raises:
        ValueError, TypeError, NotImplementedError: as `separable_conv1d`.

    Example:
        >>> depthwise_conv1d(jnp.ones((2, 10, 3)), jnp.ones((4, 3, 2)), padding="same").shape
        (2, 10, 6)
    """
    call = bind(
        {"x": x, "depthwise_kernel": depthwise_kernel},
        strides=strides,
        padding=padding,
        data_format=data_format,
        dilation_rate=dilation_rate,
        lengths=lengths,
        segment_ids=segment_ids,
        implementation=implementation,
        precision=precision,
        preferred_element_type=preferred_element_type,
        axis_name=axis_name,
    )
    return _compute(call, out_sharding)


@overload
def separable_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    pointwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    strides: Size = 1,
    padding: Padding = "valid",
    data_format: DataFormat = "channels_last",
    dilation_rate: Size = 1,
    lengths: ArrayLike | None = None,
    segment_ids: ArrayLike | None = None,
    implementation: Implementation | None = None,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    axis_name: AxisName | None = None,
    out_sharding: OutSharding | None = None,
    initial_state: StreamState | None = None,
    return_state: Literal[False] = False,
) -> jax.Array: ...


@overload
def separable_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    pointwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    strides: Size = 1,
    padding: Padding = "valid",
    data_format: DataFormat = "channels_last",
    dilation_rate: Size = 1,
    lengths: ArrayLike | None = None,
    segment_ids: ArrayLike | None = None,
    implementation: Implementation | None = None,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    axis_name: AxisName | None = None,
    out_sharding: OutSharding | None = None,
    initial_state: StreamState | None = None,
    return_state: Literal[True],
) -> tuple[jax.Array, StreamState]: ...


@overload
def separable_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    pointwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    strides: Size = 1,
    padding: Padding = "valid",
    data_format: DataFormat = "channels_last",
    dilation_rate: Size = 1,
    lengths: ArrayLike | None = None,
    segment_ids: ArrayLike | None = None,
    implementation: Implementation | None = None,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    axis_name: AxisName | None = None,
    out_sharding: OutSharding | None = None,
    initial_state: StreamState | None = None,
    return_state: bool,
) -> jax.Array | tuple[jax.Array, StreamState]: ...


@names_arguments
def separable_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    pointwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    strides: Size = 1,
    padding: Padding = "valid",
    data_format: DataFormat = "channels_last",
    dilation_rate: Size = 1,
    lengths: ArrayLike | None = None,
    segment_ids: ArrayLike | None = None,
    implementation: Implementation | None = None,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    axis_name: AxisName | None = None,
    out_sharding: OutSharding | None = None,
    initial_state: StreamState | None = None,
    return_state: bool = False,
) -> jax.Array | tuple[jax.Array, StreamState]:
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
            (D * (K - 1) zeros in front), in any case; or as `flax.linen.Conv` has it: a number of
            zeros at both ends, a pair (low, high) or [(low, high)], any number, none negative;
            "circular" or "reflect", with D * (K - 1) steps in all, the odd one behind, as
            `jnp.pad` takes them from the sequence.
        data_format: "channels_last" or "channels_first". The kernels are the same.
        dilation_rate: D, input steps between taps.
        lengths: integers (...), one for each sequence of the batch, or None: all are whole. What
            stands from a sequence's end on, NaN included, counts as zeros of the padding and gets
            no gradient; its first `output_length(length, ...)` steps are those of the sequence
            alone ("same" by its own length), and what follows them is zero, without the bias.
        segment_ids: integers (..., L), or None. Where they change within a row, a sequence ends and
            another one begins, and no tap reaches across: with "same", "causal" or D * (K - 1)
            zeros in numbers, and strides 1, every sequence has the result that it has alone.
        implementation: name of the depthwise lowering, "grouped_conv", "shifted_sum", "fft" or
            "native" ("triton" and "mosaic" for accelerators); segments need "shifted_sum" or
            "native". None takes what `select_implementation` says for where the program is lowered.
            Where "grouped_conv" is named, the program that JAX traces has
            `lax.conv_general_dilated` and `lax.dot_general` (but on meshes), which tools that
            quantize or convert look for.
        precision: of the contractions on the matrix units; None is the platform's default.
        preferred_element_type: dtype of the result, and of all sums where it is wider than the
            operands' (h is not rounded between the stages then, and float64 is computed in
            float64); None is the operands' (promoted) dtype.
        axis_name: None, or inside a `jax.shard_map` the mesh axis (or axes) that divides the steps.
            Then x and `segment_ids` are a device's own steps, as many on each device, which are one
            sequence with those of all others; `lengths` are of that. What taps reach beyond the own
            steps comes from the neighbours. Outside of a `shard_map` divided arrays tell; but on
            TPUs, on meshes of automatic axes, XLA exchanges less where the axis is named (x is
            whole then).
        out_sharding: how the result is to be divided, or None: as x and the weights are.
        initial_state: what came before x, as an earlier call returned it; None is the beginning.
            Paddings as for `separable_conv1d_step`, which says when outputs are there. Gradients
            flow through its `history` (`lax.stop_gradient` truncates them); with respect to a
            whole state that has integers in it, `jax.grad` needs `allow_int=True`.
        return_state: whether the state behind x is returned too.

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
    call = bind(
        {
            "x": x,
            "depthwise_kernel": depthwise_kernel,
            "pointwise_kernel": pointwise_kernel,
            "bias": bias,
        },
        strides=strides,
        padding=padding,
        data_format=data_format,
        dilation_rate=dilation_rate,
        lengths=lengths,
        segment_ids=segment_ids,
        implementation=implementation,
        precision=precision,
        preferred_element_type=preferred_element_type,
        axis_name=axis_name,
        initial_state=initial_state,
        return_state=return_state,
    )
    y = _compute(call, out_sharding)
    if not return_state:
        return y
    assert call.state is not None
    return y, call.state


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
    if reset is not None:
        reset = resolve_reset(reset, jnp.shape(x)[:-2])
        state = state.reset(reset) if isinstance(state, StreamState) else state
    call = bind(
        {
            "x": x,
            "depthwise_kernel": depthwise_kernel,
            "pointwise_kernel": pointwise_kernel,
            "bias": bias,
        },
        strides=strides,
        padding=padding,
        data_format=data_format,
        dilation_rate=dilation_rate,
        lengths=lengths,
        segment_ids=None,
        implementation=implementation,
        precision=precision,
        preferred_element_type=preferred_element_type,
        initial_state=state,
        return_state=True,
        flush=flush,
    )
    assert call.state is not None
    return _compute(call, None), call.state


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
) -> StreamState:
    """Return the state of streams that have not begun, for `separable_conv1d_step`.

    Args:
        x_shape: (..., T, C), or (..., C, T) with "channels_first", of a chunk; T may be any.
        depthwise_kernel_shape: (K, C, M).
        strides, padding, data_format, dilation_rate: as for the calls.
        dtype: of the inputs.

    Example:
        >>> initial_state((2, 1, 3), (4, 3, 1), dilation_rate=2).history.shape
        (2, 6, 3)
    """
    return fresh_state(
        x_shape,
        depthwise_kernel_shape,
        strides=strides,
        padding=padding,
        data_format=data_format,
        dilation_rate=dilation_rate,
        dtype=dtype,
    )
