"""A quantized layer as operations of TensorFlow, for LiteRT's converter to keep its integers.

The converter takes scales and zero points of activations from operations that round them, and finds
those of weights itself: a kernel whose greatest magnitude is 127 steps in each channel, as those of
`Int8(weights="per_channel", learned=False)` are, gets the scales back that it had.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from flax_sepconv import activations
from flax_sepconv.interop.layer import InteropError, Layer
from flax_sepconv.ops.geometry import EDGES
from flax_sepconv.spec import BIAS, DEPTHWISE_KERNEL, POINTWISE_KERNEL, Arguments

# With which LiteRT's integer operations end themselves.
_ENDINGS = {"linear": None, "relu": "relu", "relu6": "relu6"}


def tensorflow_layer(layer: Layer) -> Callable[[Any], Any]:
    """Return a function of TensorFlow that computes a layer with its own scales.

    Args:
        layer: with scales of static activations, and the arguments that it was made with.

    Returns:
        (B, L, C) -> (B, output length, F), of float32 tensors: one DEPTHWISE_CONV_2D and one
        CONV_2D of int8 once `tf.lite.TFLiteConverter` has made integers of it. Its result is
        rounded where there is an `output_scale`.

    Raises:
        InteropError: the layer has no such scales; it is not known with which arguments it was
            made; or its activation, its padding or its layout is none of LiteRT's.

    Example:
        >>> import numpy as np
        >>> tensorflow_layer(Layer("conv", {"depthwise_kernel": np.ones((3, 2, 1), "f")}))
        Traceback (most recent call last):
        flax_sepconv.interop.layer.InteropError: layer 'conv' has no scales of integers: make it \
one of them (quantization.convert)
    """
    own, scales = _arguments(layer), layer.scales or {}
    name = _ENDINGS[str(activations.serialize(own.activation))]
    real = layer.dequantized().weights
    K, C, M = real[DEPTHWISE_KERNEL].shape
    has_pointwise = POINTWISE_KERNEL in real
    reach = own.dilation_rate * (K - 1)

    def compute(x: Any) -> Any:
        import tensorflow as tf

        def rounded(x: Any, letter: str) -> Any:
            if f"{letter}_scale" not in scales:
                return x
            scale, zero = scales[f"{letter}_scale"], int(scales[f"{letter}_zero_point"])
            ends = (float(scale * (end - zero)) for end in (-128, 127))
            return tf.quantization.fake_quant_with_min_max_args(x, *ends)

        y = rounded(x, "x")
        zeros = own.padding if isinstance(own.padding, tuple) else (0, 0)
        if own.padding == "causal":
            zeros = (reach, 0)
        if any(zeros):
            y = tf.pad(y, ((0, 0), zeros, (0, 0)))
        y = tf.nn.depthwise_conv2d(
            y[:, None],
            real[DEPTHWISE_KERNEL].reshape(1, K, C, M),
            (1, own.strides, own.strides, 1),
            "SAME" if own.padding == "same" else "VALID",
            dilations=(1, own.dilation_rate),
        )
        if has_pointwise:
            y = tf.nn.conv2d(rounded(y, "hidden"), real[POINTWISE_KERNEL][None], 1, "VALID")
        if BIAS in real:
            y = tf.nn.bias_add(y, real[BIAS])
        y = y if name is None else getattr(tf.nn, name)(y)
        return rounded(tf.squeeze(y, 1), "output")

    return compute


def _arguments(layer: Layer) -> Arguments:
    """Return what the layer was made with, or raise."""

    def refuse(why: str) -> InteropError:
        return InteropError(f"layer {layer.path!r} {why}")

    if layer.scales is None:
        raise refuse("has no scales of integers: make it one of them (quantization.convert)")
    needed = ["x"] + ["hidden"] * (POINTWISE_KERNEL in layer.weights)
    missing = [f"{name}_scale" for name in needed if f"{name}_scale" not in layer.scales]
    if missing:
        raise refuse(f"needs scales of static activations, and {missing[0]} is not there")
    for name in (DEPTHWISE_KERNEL, POINTWISE_KERNEL):
        if name in layer.weights:
            kernel = np.abs(layer.weights[name].astype(np.int32))
            greatest = kernel.max((0,) if name == DEPTHWISE_KERNEL else (0, 1))
            if not np.isin(greatest, (0, 127)).all():
                raise refuse(
                    f"must have a {name} whose channels reach 127 steps each, for the converter to "
                    "find their scales: Int8(weights='per_channel', learned=False)"
                )
    if layer.config is None:
        raise refuse("needs a config: strides, padding and activation are not known")
    own = layer.resolved()
    if own.data_format != "channels_last":
        raise refuse(f"must have data_format='channels_last', got {own.data_format!r}")
    if own.padding in EDGES:
        raise refuse(f"must have zeros for its padding, got {own.padding!r}")
    activation = activations.serialize(own.activation)
    if not isinstance(activation, str) or activation not in _ENDINGS:
        raise refuse(f"must have one of the activations {', '.join(_ENDINGS)}, got {activation!r}")
    return own
