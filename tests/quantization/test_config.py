"""What may be given, and what is said about the rest."""

import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import flax_sepconv as fsc
from flax_sepconv.quantization import Int8

WRONG = {
    "weights": ("per_row", "weights must be one of 'per_channel', 'per_tensor', got 'per_row'"),
    "activations": (
        "adaptive",
        "activations must be None or one of 'static', 'dynamic', 'dynamic_per_example', got",
    ),
    "observer": (None, "observer must be one of 'moving_average', 'min_max', got None"),
    "symmetric": (1, "symmetric must be True or False, got 1"),
    "learned": ("yes", "learned must be True or False, got 'yes'"),
    "output": (None, "output must be True or False, got None"),
    "momentum": (1, "momentum must be a number from 0 up to 1, got 1"),
    "warmup": (-1, "warmup must be an int, 0 or more .*, got -1"),
}


@pytest.mark.parametrize("argument", WRONG)
def test_errors_name_the_argument_the_rule_and_what_came(argument):
    value, message = WRONG[argument]
    with pytest.raises(ValueError, match=message):
        Int8(**{argument: value})


def test_what_does_not_go_together():
    with pytest.raises(ValueError, match="learned=True needs activations='static' or None"):
        Int8(learned=True, activations="dynamic")
    for make in (
        fsc.SeparableConv1D,
        lambda *args, **given: fsc.nnx.SeparableConv1D(3, *args, **given, rngs=nnx.Rngs(0)),
    ):
        with pytest.raises(TypeError, match=r"quantization must be None or .*Int8, got 'int8'"):
            make(5, 4, quantization="int8")
        with pytest.raises(ValueError, match="needs sums that are exact"):
            make(5, 4, quantization=Int8(), implementation="fft")
    layer = fsc.SeparableConv1D(5, 4, quantization=Int8())
    own = fsc.nnx.SeparableConv1D(3, 5, 4, quantization=Int8(), rngs=nnx.Rngs(0))
    for each in (layer, own):
        with pytest.raises(ValueError, match="quantization must be None for Keras"):
            each.to_keras_config()
    assert (
        fsc.SeparableConv1D.from_keras_config({"filters": 5, "kernel_size": 4}).quantization is None
    )


def test_it_is_a_value():
    config = Int8(warmup=3)
    assert hash(config) == hash(Int8(warmup=3))
    assert pickle.loads(pickle.dumps(config)) == config
    layer = fsc.SeparableConv1D(5, 4, quantization=config)
    assert (
        layer == fsc.SeparableConv1D(5, 4, quantization=Int8(warmup=3)) != fsc.SeparableConv1D(5, 4)
    )


def test_nnx_modes_and_views():
    layer = fsc.nnx.SeparableConv1D(3, 5, 4, quantization=Int8(), rngs=nnx.Rngs(0))
    assert layer.use_running_average is False
    view = nnx.view(layer, use_running_average=True)
    assert view.use_running_average is True
    assert view.x_low is layer.x_low
    plain = fsc.nnx.SeparableConv1D(3, 5, 4, rngs=nnx.Rngs(0))
    plain.eval()
    assert not hasattr(plain, "use_running_average")
    plain.depthwise_kernel = nnx.Param(plain.depthwise_kernel[...].astype(jnp.int8))
    with pytest.raises(ValueError, match="has weights of int8 and quantization=None"):
        plain(jnp.ones((2, 9, 3)))


def test_the_functional_layer_takes_the_quantization_of_the_model_around_it():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            return fsc.separable_conv1d(x, 5, 4, name="conv")

    x = jax.random.normal(jax.random.key(0), (2, 20, 3))
    variables = Twice().init(jax.random.key(1), x)
    small, integers = fsc.quantization.quantize(Twice(), variables, [x])
    y = Twice().apply(variables, x)
    assert integers["params"]["conv"]["depthwise_kernel"].dtype == jnp.int8
    assert jnp.abs(small.apply(integers, x) - y).max() < 0.05 * jnp.abs(y).max()
