"""Layers with scales of their own as operations of TensorFlow."""

import dataclasses

import jax
import numpy as np
import pytest

import flax_sepconv as fsc
from flax_sepconv import interop
from flax_sepconv.interop import InteropError
from flax_sepconv.quantization import Int8
from tests import peers

X = np.random.default_rng(0).normal(size=(4, 25, 6)).astype(np.float32)
CASES = {
    "plain": {},
    "same, strides": {"padding": "same", "strides": 3, "activation": "relu"},
    "causal, dilation": {"padding": "causal", "dilation_rate": 2, "depth_multiplier": 2},
    "numbers": {"padding": (3, 1), "use_bias": False, "activation": "relu6"},
    "depthwise": {"kind": "DepthwiseConv1D", "padding": "same", "depth_multiplier": 2},
    "output": {"quantization": Int8(output=True)},
}


def quantized(kind="SeparableConv1D", quantization=None, **settings):
    """Return the layer, its integers, and what is written of it."""
    x = X.swapaxes(1, 2) if settings.get("data_format") == "channels_first" else X
    given = {"kernel_size": 4, "bias_initializer": "normal"} | settings
    given |= {"filters": 7} if kind == "SeparableConv1D" else {}
    real = getattr(fsc, kind)(**given)
    variables = real.init(jax.random.key(0), x)
    layer = real.clone(quantization=quantization or Int8())
    ready = fsc.quantization.calibrate(layer, variables, [x])
    integers = fsc.quantization.convert(layer, ready, x)
    (written,) = interop.from_params(integers["params"], quantization=integers["quantization"])
    try:
        config = real.to_keras_config()
    except ValueError:  # Keras has no such padding.
        config = real.clone(padding="valid").to_keras_config()
        config["flax_sepconv_padding"] = settings["padding"]
    return layer, integers, dataclasses.replace(written, config=config)


@pytest.mark.parametrize("case", CASES)
def test_layers_are_the_same(case):
    """In float32, with the rounding in it: the last bits of sums may differ."""
    peers.tf()
    layer, integers, written = quantized(**CASES[case])
    y = np.asarray(interop.tensorflow_layer(written)(X))
    expected = np.asarray(layer.apply(integers, X))
    assert y.shape == expected.shape
    steps = np.abs(y - expected) / np.abs(expected).max()
    assert steps.max() < 0.01
    assert (steps < 1e-5).mean() > 0.99


WRONG = {
    "padding": ({"padding": "circular"}, "must have zeros for its padding, got 'circular'"),
    "activation": ({"activation": "gelu"}, "must have one of the activations linear, relu, relu6"),
    "layout": ({"data_format": "channels_first"}, "must have data_format='channels_last'"),
    "coarse": ({"quantization": Int8(weights="per_tensor")}, "whose channels reach 127 steps each"),
    "dynamic": ({"quantization": Int8(activations="dynamic")}, "needs scales of static activ"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_written(case):
    settings, message = WRONG[case]
    *_, written = quantized(**settings)
    with pytest.raises(InteropError, match=message):
        interop.tensorflow_layer(written)


def test_what_is_not_known():
    *_, written = quantized()
    with pytest.raises(InteropError, match="has no scales of integers: make it one"):
        interop.tensorflow_layer(written.dequantized())
    with pytest.raises(InteropError, match="needs a config: strides, padding and activation"):
        interop.tensorflow_layer(dataclasses.replace(written, config=None))
