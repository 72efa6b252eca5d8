"""Names that other libraries have for arguments: the errors say what they are called here."""

import inspect
import pickle

import jax.numpy as jnp
import pytest
from flax import nnx

import flax_sepconv as fsc

X = jnp.ones((1, 9, 3))
CALLS = {
    "linen": lambda **given: fsc.SeparableConv1D(**given),
    "nnx": lambda **given: fsc.nnx.SeparableConv1D(3, **given, rngs=nnx.Rngs(0)),
    "function": lambda **given: fsc.separable_conv1d(X, **given),
    "operation": lambda **given: fsc.ops.separable_conv1d(X, X[0], X, **given),
}
BOTH = "each kernel has its own, 'depthwise_{0}' and 'pointwise_{0}'"
LAYER = {
    "features": "called 'filters' here",
    "out_channels": "called 'filters' here",
    "kernel_init": BOTH.format("initializer"),
    "kernel_initializer": BOTH.format("initializer"),
    "bias_init": "called 'bias_initializer' here",
    "kernel_regularizer": BOTH.format("regularizer"),
    "kernel_constraint": BOTH.format("constraint"),
    "bias": "called 'use_bias' here",
    "kernels_size": "did you mean 'kernel_size'",
}
ALL = {
    "stride": "called 'strides' here",
    "window_strides": "called 'strides' here",
    "kernel_dilation": "called 'dilation_rate' here",
    "dilation": "called 'dilation_rate' here",
    "data_layout": "called 'data_format' here",
    "feature_group_count": "every channel is a group of its own",
    "cu_seqlens": "segment_ids say which segment",
    "nonsense": "must be one of .*strides, padding, data_format",
}


@pytest.mark.parametrize("call", CALLS)
def test_the_error_says_what_it_is_called_here(call):
    for name, message in (ALL if call == "operation" else ALL | LAYER).items():
        with pytest.raises(TypeError, match=f"unknown argument '{name}': .*{message}"):
            CALLS[call](**{name: 1})
    message = "called 'in_features'" if call == "nnx" else "the inputs say how many channels"
    with pytest.raises(TypeError, match=message):
        CALLS[call](in_channels=3)


@pytest.mark.parametrize("what", ["initializer", "regularizer", "constraint"])
def test_a_layer_of_one_kernel(what):
    with pytest.raises(TypeError, match=f"called 'depthwise_{what}' here"):
        fsc.DepthwiseConv1D(3, **{f"kernel_{what}": None})


def test_classes_of_users_have_arguments_of_their_own():
    class Own(fsc.SeparableConv1D):
        features: int = 0

    assert Own(5, 3, features=7).clone(strides=2) == Own(5, 3, strides=2, features=7)
    with pytest.raises(TypeError, match="called 'strides' here"):
        Own(5, 3, stride=2)
    layer = fsc.SeparableConv1D(5, 3, activation="relu")
    assert pickle.loads(pickle.dumps(layer)) == layer

    class OwnNnx(fsc.nnx.SeparableConv1D):
        def __init__(self, width, *, rngs):
            super().__init__(width, width, 3, rngs=rngs)

    assert list(inspect.signature(OwnNnx).parameters) == ["width", "rngs"]


def test_every_argument_shows_and_is_documented():
    for layer, first in (
        (fsc.SeparableConv1D, "filters"),
        (fsc.nnx.SeparableConv1D, "in_features"),
    ):
        names = [name for name in inspect.signature(layer).parameters if name != "parent"]
        assert names[0] == first
        documented = inspect.getdoc(layer).split("Args:")[1].split("Raises:")[0]
        assert [name for name in names if name not in documented] == []
    call = inspect.signature(fsc.nnx.SeparableConv1D(3, 5, 3, rngs=nnx.Rngs(0))).parameters
    assert next(iter(call)) == "inputs"
