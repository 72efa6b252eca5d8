"""The operations on whole arrays, as users call them."""

from dataclasses import replace
from typing import Literal, TypedDict, Unpack, overload

import jax
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from flax_sepconv.ops import packed
from flax_sepconv.ops.arguments import DataFormat, Padding, Size, bind
from flax_sepconv.ops.biased import ACTIVATIONS
from flax_sepconv.ops.call import Call
from flax_sepconv.ops.contraction import Activation
from flax_sepconv.ops.divided import along_axes, compute, on_mesh, plan_of
from flax_sepconv.ops.edges import strips
from flax_sepconv.ops.interception import is_intercepted
from flax_sepconv.ops.lowerings import Implementation
from flax_sepconv.ops.names import names_arguments
from flax_sepconv.ops.sharding import AxisName, OutSharding, place
from flax_sepconv.ops.state import StreamState
from flax_sepconv.ops.stepping import step


class Options(TypedDict, total=False):
    """The options of both operations, for type checkers."""

    strides: Size
    padding: Padding
    data_format: DataFormat
    dilation_rate: Size
    lengths: ArrayLike | None
    segment_ids: ArrayLike | None
    implementation: Implementation | None
    precision: lax.PrecisionLike
    preferred_element_type: DTypeLike | None
    axis_name: AxisName | None
    out_sharding: OutSharding | None
    initial_state: StreamState | None
    activation: Activation | None


def _compute(call: Call, out_sharding: OutSharding | None) -> jax.Array:
    """Compute what was asked for, by devices that hold parts where types tell that they do."""
    x, weights, stages, late = call.x, (call.kernel, *call.rest), call.stages, None
    if call.edges is not None or call.slots is not None:  # More is to be added first.
        late, stages = stages.activation, replace(stages, activation=None)
    plan = None
    if call.shards is None and not is_intercepted():
        plan = plan_of(x, weights, stages, call.rows_of(out_sharding))
    operands = x, call.kernel, call.rest, call.limits, stages
    if plan is not None:
        y = on_mesh(plan, x, weights, call.limits, stages)
    elif call.shards is not None and not call.shards.is_own:
        y = along_axes(*operands, call.shards)
    else:
        y = compute(*operands, call.shards)
    if call.edges is not None:
        for strip in strips(x, call.edges, stages.geometry):
            own = replace(stages, geometry=strip.geometry, bias=False)
            part = compute(strip.x, call.kernel, call.rest[: len(call.rest) - stages.bias], (), own)
            y = y.at[:, strip.first : strip.first + part.shape[1]].add(part)
    if call.slots is not None and 0 not in call.slots.history.shape[1:]:
        before = packed.histories_before(call.slots, x, stages.geometry.dilation)
        geometry = packed.geometry_before(stages.geometry)
        own = replace(stages, geometry=geometry, limits="whole", bias=False)
        part = compute(before, call.kernel, call.rest[: len(call.rest) - stages.bias], (), own)
        y = packed.added(y, call.slots, part)
    if late is not None:
        y = ACTIVATIONS[late](y)
    y = call.unflatten(y)
    return y if out_sharding is None else place(y, out_sharding)


def result(
    call: Call, out_sharding: OutSharding | None, return_state: bool
) -> jax.Array | tuple[jax.Array, StreamState]:
    """Compute what was asked for, and add the state behind x where that was."""
    if call.before is not None:
        y, after = step(call.before, call.x, call.kernel, call.rest, call.stages)
        y = call.unflatten(y)
        return y if out_sharding is None else place(y, out_sharding), call.state_of(after)
    y = _compute(call, out_sharding)
    if not return_state:
        return y
    assert call.state is not None
    return y, call.state


@overload
def depthwise_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    return_state: Literal[False] = False,
    **options: Unpack[Options],
) -> jax.Array: ...


@overload
def depthwise_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    return_state: Literal[True],
    **options: Unpack[Options],
) -> tuple[jax.Array, StreamState]: ...


@overload
def depthwise_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    return_state: bool,
    **options: Unpack[Options],
) -> jax.Array | tuple[jax.Array, StreamState]: ...


@names_arguments
def depthwise_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
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
    activation: Activation | None = None,
) -> jax.Array | tuple[jax.Array, StreamState]:
    """Filter every channel with its own M kernels; the first stage of `separable_conv1d`.

    y[b, l, c*M + m] = sum_i x[b, l*S + i*D - pad_low, c] * depthwise_kernel[i, c, m]
                       + bias[c*M + m]

    Args:
        x: (..., L, C), or (..., C, L) with "channels_first"; any number of batch dimensions.
        depthwise_kernel: (K, C, M).
        bias: (C*M,), or None.
        strides, padding, data_format, dilation_rate, lengths, segment_ids, implementation,
            precision, preferred_element_type, axis_name, out_sharding, initial_state, return_state,
            activation: as for `separable_conv1d`.

    Returns:
        (..., output length, C*M), or (..., C*M, output length); with `return_state` a pair of it
        and a `StreamState`.

    Raises:
        ValueError, TypeError, NotImplementedError: as `separable_conv1d`.

    Example:
        >>> import jax.numpy as jnp
        >>> depthwise_conv1d(jnp.ones((2, 10, 3)), jnp.ones((4, 3, 2)), padding="same").shape
        (2, 10, 6)
    """
    call = bind(
        {"x": x, "depthwise_kernel": depthwise_kernel, "bias": bias},
        activation=activation,
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
    return result(call, out_sharding, return_state)


@overload
def separable_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    pointwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    return_state: Literal[False] = False,
    **options: Unpack[Options],
) -> jax.Array: ...


@overload
def separable_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    pointwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    return_state: Literal[True],
    **options: Unpack[Options],
) -> tuple[jax.Array, StreamState]: ...


@overload
def separable_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    pointwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    return_state: bool,
    **options: Unpack[Options],
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
    activation: Activation | None = None,
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
            zeros in numbers, and strides 1, every sequence has the result that it has alone. With
            "causal" the first N of a row may go on from states: see `initial_state`.
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
            whole state that has integers in it, `jax.grad` needs `allow_int=True`. With
            `segment_ids` its `history` is (..., N, D * (K - 1), C), or (..., N, C, D * (K - 1)), as
            of `ops.initial_state(..., segments=N)`: the n-th state belongs to the n-th segment of a
            row. Segments from the N-th on begin anew, and have no state behind them.
        return_state: whether the state behind x is returned too; with `segment_ids` those behind
            the segments, for which `initial_state` must be given, and of n-th segments that a row
            does not have the states as they came.
        activation: "relu", "relu6" or "silu", that y ends with, or None. On CPU it is computed with
            the sums, in their dtype, before y is written.

    Returns:
        (..., output length, F), or (..., F, output length); with `return_state` a pair of it and a
        `StreamState`.

    Raises:
        ValueError: an argument or a shape breaks its rule, or no output step remains.
        TypeError: an operand is not floating point.
        NotImplementedError: the named implementation cannot run here.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.ones((2, 10, 3))
        >>> separable_conv1d(x, jnp.ones((4, 3, 2)), jnp.ones((1, 6, 5)), strides=2).shape
        (2, 4, 5)

        Two segments in each row, of four and of six steps, with room for a third one's state:

        >>> from flax_sepconv import ops
        >>> ids = jnp.array([[0, 0, 0, 0, 1, 1, 1, 1, 1, 1]] * 2)
        >>> kernels = jnp.ones((4, 3, 2)), jnp.ones((1, 6, 5))
        >>> state = ops.initial_state(x.shape, kernels[0].shape, segments=3)
        >>> y, state = separable_conv1d(
        ...     x, *kernels, padding="causal", segment_ids=ids, initial_state=state,
        ...     return_state=True,
        ... )
        >>> state.history.shape
        (2, 3, 3, 3)

    Source: https://www.tensorflow.org/api_docs/python/tf/compat/v1/layers/separable_conv1d
    """
    call = bind(
        {
            "x": x,
            "depthwise_kernel": depthwise_kernel,
            "pointwise_kernel": pointwise_kernel,
            "bias": bias,
        },
        activation=activation,
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
    return result(call, out_sharding, return_state)
