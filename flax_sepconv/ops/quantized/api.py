"""The operation on 8-bit integers, as users call it."""

import math
from typing import Any, Literal, Required, TypedDict, Unpack, overload

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from flax_sepconv.ops.api import depthwise_conv1d, separable_conv1d
from flax_sepconv.ops.arguments import (
    DataFormat,
    Padding,
    Size,
    bind,
    check_dtype,
    choice,
)
from flax_sepconv.ops.biased import ACTIVATIONS
from flax_sepconv.ops.call import Call
from flax_sepconv.ops.lowerings import Implementation
from flax_sepconv.ops.names import names_arguments
from flax_sepconv.ops.quantized import arguments, computing
from flax_sepconv.ops.quantized.arguments import DYNAMIC, Ending, Output, Scale, check_integers
from flax_sepconv.ops.quantized.computing import Input
from flax_sepconv.ops.state import StreamState


class Options(TypedDict, total=False):
    """The options of both operations, for type checkers."""

    x_scale: Required[Scale | None]
    depthwise_scale: Required[ArrayLike]
    output_scale: ArrayLike | None
    x_zero_point: ArrayLike
    output_zero_point: ArrayLike
    activation: Ending | None
    strides: Size
    padding: Padding
    data_format: DataFormat
    dilation_rate: Size
    lengths: ArrayLike | None
    initial_state: StreamState | None
    implementation: Implementation | None
    preferred_element_type: DTypeLike | None


class SeparableOptions(Options, total=False):
    """Those of both stages."""

    hidden_scale: Required[Scale | None]
    pointwise_scale: Required[ArrayLike]
    hidden_zero_point: ArrayLike


@overload
def quantized_depthwise_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    return_state: Literal[False] = False,
    **options: Unpack[Options],
) -> jax.Array: ...


@overload
def quantized_depthwise_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    return_state: Literal[True],
    **options: Unpack[Options],
) -> tuple[jax.Array, StreamState]: ...


@overload
def quantized_depthwise_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    return_state: bool,
    **options: Unpack[Options],
) -> jax.Array | tuple[jax.Array, StreamState]: ...


@names_arguments
def quantized_depthwise_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    x_scale: Scale | None,
    depthwise_scale: ArrayLike,
    output_scale: ArrayLike | None = None,
    x_zero_point: ArrayLike = 0,
    output_zero_point: ArrayLike = 0,
    activation: Ending | None = None,
    strides: Size = 1,
    padding: Padding = "valid",
    data_format: DataFormat = "channels_last",
    dilation_rate: Size = 1,
    lengths: ArrayLike | None = None,
    initial_state: StreamState | None = None,
    return_state: bool = False,
    implementation: Implementation | None = None,
    preferred_element_type: DTypeLike | None = None,
) -> jax.Array | tuple[jax.Array, StreamState]:
    """Filter every channel with its own M kernels of 8 bits.

    The first stage of `quantized_separable_conv1d`, with a bias and an output of its own: its sums,
    and the bias, are in steps of x_scale * depthwise_scale.

    Args:
        x: (..., L, C), or (..., C, L) with "channels_first": int8, or real numbers.
        depthwise_kernel: (K, C, M) int8.
        bias: (C*M,) int32 in steps of x_scale * depthwise_scale, or None.
        x_scale, depthwise_scale, output_scale, x_zero_point, output_zero_point, activation,
            strides, padding, data_format, dilation_rate, lengths, initial_state, return_state,
            implementation, preferred_element_type: as for `quantized_separable_conv1d`.

    Returns:
        (..., output length, C*M), or (..., C*M, output length): int8 with an `output_scale`, else
        real numbers; with `return_state` a pair of it and a `StreamState`.

    Raises:
        ValueError, TypeError, NotImplementedError: as `quantized_separable_conv1d`.

    Example:
        >>> x, k = jnp.ones((2, 10, 3), jnp.int8), jnp.ones((4, 3, 2), jnp.int8)
        >>> y = quantized_depthwise_conv1d(x, k, x_scale=0.5, depthwise_scale=0.25)
        >>> y.shape, float(y[0, 0, 0])
        ((2, 7, 6), 0.5)
    """
    operands = {"x": x, "depthwise_kernel": depthwise_kernel, "bias": bias}
    settings: dict[str, Any] = {
        "strides": strides,
        "padding": padding,
        "data_format": data_format,
        "dilation_rate": dilation_rate,
        "lengths": lengths,
        "initial_state": initial_state,
        "return_state": return_state,
        "implementation": implementation,
        "preferred_element_type": preferred_element_type,
    }
    if x_scale is None:
        _check_real(x, output_scale=output_scale, x=x_zero_point, output=output_zero_point)
        kernel = _real(depthwise_kernel, "depthwise_kernel", depthwise_scale, x)
        real: jax.Array | tuple[jax.Array, StreamState] = depthwise_conv1d(
            x, kernel, bias, activation=activation, **settings
        )
        return real
    output = Output.of(output_scale, output_zero_point, activation)
    given, call, first = _bound(operands, x_scale, x_zero_point, depthwise_scale, settings)
    y = computing.depthwise(call, given, first, output, _dtype(x, preferred_element_type))
    return (y, _state(call)) if return_state else y


@overload
def quantized_separable_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    pointwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    return_state: Literal[False] = False,
    **options: Unpack[SeparableOptions],
) -> jax.Array: ...


@overload
def quantized_separable_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    pointwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    return_state: Literal[True],
    **options: Unpack[SeparableOptions],
) -> tuple[jax.Array, StreamState]: ...


@overload
def quantized_separable_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    pointwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    return_state: bool,
    **options: Unpack[SeparableOptions],
) -> jax.Array | tuple[jax.Array, StreamState]: ...


@names_arguments
def quantized_separable_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    pointwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    x_scale: Scale | None,
    depthwise_scale: ArrayLike,
    hidden_scale: Scale | None,
    pointwise_scale: ArrayLike,
    output_scale: ArrayLike | None = None,
    x_zero_point: ArrayLike = 0,
    hidden_zero_point: ArrayLike = 0,
    output_zero_point: ArrayLike = 0,
    activation: Ending | None = None,
    strides: Size = 1,
    padding: Padding = "valid",
    data_format: DataFormat = "channels_last",
    dilation_rate: Size = 1,
    lengths: ArrayLike | None = None,
    initial_state: StreamState | None = None,
    return_state: bool = False,
    implementation: Implementation | None = None,
    preferred_element_type: DTypeLike | None = None,
) -> jax.Array | tuple[jax.Array, StreamState]:
    """Filter every channel, then mix the channels, in 8-bit integers with sums of 32 bits.

    A real number is scale * (integer - zero point); weights have the zero point 0. With x, h and y
    the integers, z their zero points, and round to the nearest, halves to even:

    s[b, l, c*M + m] = sum_i (x[b, l*S + i*D - pad_low, c] - z_x) * depthwise_kernel[i, c, m]
    h[b, l, j] = clip(round(s[b, l, j] * (x_scale * depthwise_scale[j] / hidden_scale)) + z_h)
    t[b, l, f] = sum_j (h[b, l, j] - z_h) * pointwise_kernel[0, j, f] + bias[f]
    y[b, l, f] = clip(round(t[b, l, f] * (hidden_scale * pointwise_scale[f] / output_scale)) + z_y)

    Sums are exact (a bias must leave them room in 32 bits). s and t are converted to float32 and
    multiplied once, by a multiplier that is x_scale * (depthwise_scale * (1 / hidden_scale)), or
    hidden_scale * (pointwise_scale * (1 / output_scale)), in float32: every lowering on every
    platform has the same integers for the same multipliers. (On TPU a division may have another
    last bit: give scales as NumPy's there.)
    Without `output_scale` y is the real number t * (hidden_scale * pointwise_scale).

    Args:
        x: (..., L, C), or (..., C, L) with "channels_first": int8; or real numbers, of which int8
            is made: clip(round(x * (1 / x_scale)) + z_x), NaN as zero.
        depthwise_kernel: (K, C, M) int8.
        pointwise_kernel: (1, C*M, F) int8.
        bias: (F,) int32 in steps of hidden_scale * pointwise_scale, or None.
        x_scale: of x: a number, or (...), one for each example. Of real numbers also "dynamic", the
            greatest finite magnitude of the call is 127 steps, or "dynamic_per_example". None: x
            stays real, and so does h (`hidden_scale` is None too); the bias is of real numbers, and
            the weights, 8 bits in memory, are multiplied by their scales.
        depthwise_scale: of the depthwise kernel: a number, or (C, M).
        hidden_scale: of h, as `x_scale`.
        pointwise_scale: of the pointwise kernel: a number, or (F,).
        output_scale: of y, a number; None: y is of real numbers.
        x_zero_point, hidden_zero_point, output_zero_point: integers from -128 to 127.
        activation: "relu" or "relu6", that y ends with, or None.
        strides, padding, data_format, dilation_rate, lengths: as for `separable_conv1d`. Zeros of
            the padding, and what is behind the end of a sequence, are the real number zero.
        initial_state, return_state: as for `separable_conv1d`; `history` is int8, less the zero
            point (`ops.initial_state(..., dtype="int8")`). Not with dynamic scales.
        implementation: "native" (CPU), "shifted_sum" or "grouped_conv", which is the definition
            (CPU, TPU); None is "native" where there is that, else "shifted_sum".
        preferred_element_type: of a real result; None: that of x, or float32 where x is int8.

    Returns:
        (..., output length, F), or (..., F, output length): int8 with an `output_scale`, else real
        numbers; with `return_state` a pair of it and a `StreamState`.

    Raises:
        ValueError: an argument or a shape breaks its rule: a scale that is not positive and finite
            (known ones only) or not for the right axis, a zero point out of range, more taps or
            channels than 32 bits hold the sums of; or no output step remains.
        TypeError: an operand is of another type; int8 without a scale; or a derivative is asked
            for (train with the layers' `quantization`).
        NotImplementedError: the named implementation cannot run here.

    Example:
        >>> x = jnp.full((2, 10, 3), 100, jnp.int8)
        >>> kernels = jnp.full((4, 3, 2), 50, jnp.int8), jnp.full((1, 6, 5), -10, jnp.int8)
        >>> scales = {"x_scale": 0.01, "depthwise_scale": 0.01, "pointwise_scale": 0.1}
        >>> y = quantized_separable_conv1d(x, *kernels, hidden_scale=0.02, **scales)
        >>> y.shape, round(float(y[0, 0, 0]), 5)
        ((2, 7, 5), -12.0)
        >>> quantized_separable_conv1d(
        ...     x, *kernels, hidden_scale=0.02, output_scale=0.1, output_zero_point=7, **scales
        ... )[0, 0, 0]
        Array(-113, dtype=int8)

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877
    """
    operands = {
        "x": x,
        "depthwise_kernel": depthwise_kernel,
        "pointwise_kernel": pointwise_kernel,
        "bias": bias,
    }
    settings: dict[str, Any] = {
        "strides": strides,
        "padding": padding,
        "data_format": data_format,
        "dilation_rate": dilation_rate,
        "lengths": lengths,
        "initial_state": initial_state,
        "return_state": return_state,
        "implementation": implementation,
        "preferred_element_type": preferred_element_type,
    }
    if x_scale is None:
        zeros = {"x": x_zero_point, "hidden": hidden_zero_point, "output": output_zero_point}
        _check_real(x, hidden_scale=hidden_scale, output_scale=output_scale, **zeros)
        found = separable_conv1d(
            x,
            _real(depthwise_kernel, "depthwise_kernel", depthwise_scale, x),
            _real(pointwise_kernel, "pointwise_kernel", pointwise_scale, x),
            bias,
            **settings,
        )
        return _activated(found, activation)
    output = Output.of(output_scale, output_zero_point, activation)
    given, call, first = _bound(operands, x_scale, x_zero_point, depthwise_scale, settings)
    lanes, filters = call.rest[0].shape[1:]
    arguments.check_products("pointwise_kernel", "C*M", lanes)
    second = arguments.scale("pointwise_scale", pointwise_scale, ((filters,), "(F,)"))
    zero = arguments.zero_point("hidden_zero_point", hidden_zero_point)
    if isinstance(hidden_scale, str):
        hidden: Any = choice("hidden_scale", hidden_scale, DYNAMIC)
        computing.check_symmetric("hidden", hidden, hidden_zero_point)
        if initial_state is not None or return_state:
            raise ValueError(
                f"hidden_scale={hidden!r} and the state of a stream do not go together: each chunk "
                "would have a scale of its own"
            )
    else:
        batch = jnp.shape(x)[:-2]
        hidden = arguments.scale("hidden_scale", hidden_scale, (batch, "for each example"))
    y = computing.separable(
        call, given, first, (hidden, zero), second, output, _dtype(x, preferred_element_type)
    )
    return (y, _state(call)) if return_state else y


def _bound(
    operands: dict[str, Any], x_scale: Any, x_zero_point: Any, depthwise_scale: Any, settings: Any
) -> tuple[Input, Call, Any]:
    """Check what both operations have, and return x, the call and the scale of the kernel."""
    settings = dict(settings)
    del settings["preferred_element_type"]
    arguments.check_implementation(settings["implementation"])
    named = {
        name: check_integers(name, operand, "int32" if name == "bias" else "int8")
        for name, operand in operands.items()
        if operand is not None and name != "x"
    }
    has_state = settings["initial_state"] is not None or settings["return_state"]
    given = Input.of(
        operands["x"],
        x_scale,
        x_zero_point,
        settings["lengths"],
        settings["data_format"],
        has_state,
    )
    kernel = named["depthwise_kernel"]
    if "bias" not in named:
        last = named.get("pointwise_kernel")
        features = math.prod(kernel.shape[1:]) if last is None else last.shape[-1]
        named["bias"] = jnp.zeros(features, jnp.int32)
    call = bind(
        {"x": given.x, **named},
        **settings,
        segment_ids=None,
        precision=None,
        preferred_element_type=None,
        integers=True,
    )
    shape = kernel.shape[1:]
    arguments.check_products("depthwise_kernel", "K", kernel.shape[0])
    return given, call, arguments.scale("depthwise_scale", depthwise_scale, (shape, "(C, M)"))


def _check_real(array: ArrayLike, /, **given: Any) -> None:
    """Raise unless x is of real numbers, and no scale and no zero point is given of another."""
    if jnp.asarray(array).dtype == jnp.int8:
        raise TypeError("x_scale must be given where x is of int8: what its steps are, got None")
    for name, value in given.items():
        if name.endswith("scale") and value is not None:
            raise ValueError(f"{name} must be None where x_scale is: x stays real, got {value!r}")
        if not name.endswith("scale") and not arguments.is_zero(value):
            raise ValueError(
                f"{name}_zero_point must be 0 where x_scale is None: x stays real, got {value!r}"
            )


def _real(kernel: ArrayLike, name: str, scale: Any, x: ArrayLike) -> jax.Array:
    """Return a kernel of 8 bits as real numbers of the type of x."""
    integers = check_integers(name, kernel, "int8")
    shape = integers.shape[1:] if name == "depthwise_kernel" else integers.shape[-1:]
    letters = "(C, M)" if name == "depthwise_kernel" else "(F,)"
    checked = arguments.scale(name.replace("kernel", "scale"), scale, (shape, letters))
    real: jax.Array = integers.astype(jnp.float32) * checked
    return real.astype(jnp.asarray(x).dtype)


def _activated(
    found: jax.Array | tuple[jax.Array, StreamState], activation: Ending | None
) -> jax.Array | tuple[jax.Array, StreamState]:
    """Let real numbers end with the activation."""
    known = Output.of(None, 0, activation).activation
    if known is None:
        return found
    if isinstance(found, tuple):
        return ACTIVATIONS[known](found[0]), found[1]
    return ACTIVATIONS[known](found)


def _dtype(x: ArrayLike, preferred: DTypeLike | None) -> DTypeLike:
    """Return the type of a real result."""
    own = jnp.asarray(x).dtype
    if preferred is not None:
        check_dtype("preferred_element_type", preferred)
    return preferred or (jnp.float32 if own == jnp.int8 else own)


def _state(call: Call) -> StreamState:
    assert call.state is not None
    return call.state
