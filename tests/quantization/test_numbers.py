"""The numbers of quantized layers, against their definition in NumPy: bit for bit."""

import jax
import numpy as np
import pytest

import flax_sepconv as fsc
from flax_sepconv.quantization import Int8
from tests import oracle as float_oracle
from tests.quantization import oracle
from tests.quantization.networks import (
    LINEN,
    SETTINGS,
    activated,
    assert_equal,
    batch,
    drawn,
    layer_of,
    learned_of,
    observed,
    oracle_settings,
    weights_of,
)
from tests.streams import assert_close

CONFIGS = {
    "static": Int8(),
    "symmetric per tensor": Int8(symmetric=True, weights="per_tensor"),
    "learned": Int8(learned=True),
    "dynamic": Int8(activations="dynamic"),
    "dynamic per example": Int8(activations="dynamic_per_example", weights="per_tensor"),
}
# Each setting and each configuration, with the others in turn.
CASES = [
    (config, list(SETTINGS)[(i + j) % 4], name)
    for i, config in enumerate(CONFIGS)
    for j, name in enumerate(LINEN)
] + [("static", settings, "SeparableConv1D") for settings in SETTINGS]


@pytest.mark.parametrize(("config", "settings", "name"), sorted(set(CASES)))
def test_rounded_and_converted_layers_have_the_numbers_of_the_definition(config, settings, name):
    settings, config, x = SETTINGS[settings], CONFIGS[config], batch()
    layer = layer_of(name, config, **settings)
    variables, trained = observed(layer, x)
    expected = oracle.numbers(
        x,
        weights_of(variables),
        config=config,
        steps=learned_of(variables),
        **oracle_settings(settings),
    )
    y = activated(expected.y, settings)
    # A bias of real numbers may be added without rounding the product.
    exact = config.activations == "static"
    same = assert_equal if exact else (lambda actual, y: assert_close(actual, y, 1e-6))
    same(trained, y)
    apply = jax.jit(layer.apply)
    same(apply(variables, x), y)  # With the ranges as they are.
    converted = fsc.quantization.convert(layer, variables, x)
    assert_equal(converted["params"]["depthwise_kernel"], expected.k)
    same(apply(converted, x), y)
    if expected.w is not None:
        assert_equal(converted["params"]["pointwise_kernel"], expected.w)
    if exact:
        kept = converted["quantization"]
        assert_equal(kept["x_scale"], expected.scales["x"])
        assert np.array_equal(x_int(x, kept), expected.x)


def x_int(x, kept):
    zero = np.asarray(kept["x_zero_point"], np.float32)
    return oracle.whole(x, kept["x_scale"], zero)


def test_hidden_values():
    """A pointwise kernel that takes each lane as it is shows them."""
    x, settings = batch(), {"depth_multiplier": 2, "padding": "same"}
    layer = fsc.SeparableConv1D(6, 4, quantization=Int8(), use_bias=False, **settings)
    variables, _ = observed(layer, x)
    variables["params"]["pointwise_kernel"] = np.eye(6, dtype=np.float32)[None]
    assert_equal(layer.apply(variables, x), jax.jit(layer.apply)(variables, x))
    expected = oracle.numbers(x, weights_of(variables), config=Int8(), **oracle_settings(settings))
    y = np.asarray(layer.apply(variables, x))
    found = np.rint(y / expected.scales["h"])
    np.testing.assert_array_equal(found, expected.h)
    assert expected.h.min() < -20
    assert expected.h.max() > 20
    assert np.ptp(expected.h) == 255


@pytest.mark.parametrize("name", LINEN)
def test_weights_alone(name):
    config, settings, x = Int8(activations=None), {"padding": "same", "strides": 2}, batch()
    layer = layer_of(name, config, **settings)
    variables = drawn(layer, x, seed=1)
    assert "quantization" not in variables
    weights = weights_of(variables)
    rounded = {}
    for kernel, axes in (("depthwise_kernel", 0), ("pointwise_kernel", (0, 1))):
        if kernel in weights:
            scale = oracle.weight_scale(weights[kernel], axes)
            rounded[kernel] = oracle.whole(weights[kernel], scale) * scale
    function = float_oracle.separable if len(rounded) > 1 else float_oracle.depthwise
    expected = function(x, *rounded.values(), **oracle_settings(settings)) + weights["bias"]
    assert_close(layer.apply(variables, x), expected, 1e-6)
    converted = fsc.quantization.convert(layer, variables, x)
    assert converted["params"]["depthwise_kernel"].dtype == np.int8
    assert_equal(layer.apply(converted, x), layer.apply(variables, x))


def test_the_output_too():
    x = batch()
    layer = layer_of("SeparableConv1D", Int8(output=True), activation="gelu")
    variables, y = observed(layer, x)
    plain = layer.clone(quantization=Int8()).apply(variables, x)
    scale, zero = oracle.steps_of_range(*(np.float32(f(plain)) for f in (np.min, np.max)), False)
    assert_equal(y, oracle.whole(plain, scale, zero) * scale)
    assert len(np.unique(y)) < 200 < len(np.unique(plain))
    converted = fsc.quantization.convert(layer, variables, x)
    assert_equal(layer.apply(converted, x), y)


def test_constant_channels_and_silent_inputs():
    """Ranges and weights of nothing but zeros have scale 1."""
    layer = layer_of("SeparableConv1D", Int8())
    x = np.zeros((2, 9, 3), np.float32)
    variables, y = observed(layer, x)
    assert_close(y, np.broadcast_to(variables["params"]["bias"], y.shape), 0.05)
    variables["params"]["depthwise_kernel"] *= 0
    y, _ = layer.apply(variables, batch(), mutable=["quantization"])
    assert np.isfinite(y).all()
    for kind in ("dynamic", "dynamic_per_example"):
        y = layer_of("SeparableConv1D", Int8(activations=kind)).apply(variables, x)
        assert_close(y, np.broadcast_to(variables["params"]["bias"], y.shape), 1e-6)
