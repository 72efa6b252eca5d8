"""What cannot be read from Keras, or written for it, is refused by name."""

import json
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import pytest

import flax_sepconv as fsc
from flax_sepconv.keras.config import arguments_of
from tests import peers, settings
from tests.keras_layers import PEERS, PLAIN, F, K, M, assert_same_layer


def custom_layers(keras):
    class MySep(keras.layers.SeparableConv1D):
        pass

    @keras.saving.register_keras_serializable("mine")
    class SeparableConv1D(keras.layers.SeparableConv1D):
        pass

    return MySep, SeparableConv1D


@pytest.mark.parametrize("version", PEERS)
def test_custom_objects_are_named(version):
    keras = PEERS[version]()
    plain, registered = custom_layers(keras)
    saved = keras.saving.serialize_keras_object
    with pytest.raises(ValueError, match=r"layer 'MySep' of module .* custom .*'MySep'"):
        arguments_of(saved(plain(F, K)))
    with pytest.raises(ValueError, match=r"layer .*registered as 'mine>SeparableConv1D'"):
        arguments_of(saved(registered(F, K)))

    @keras.saving.register_keras_serializable("mine")
    def swash(x):
        return x

    class Half(keras.constraints.Constraint):
        def __call__(self, w):
            return w / 2

    @keras.saving.register_keras_serializable("mine")
    class L2(keras.regularizers.Regularizer):
        def __call__(self, w):
            return 0.0

        def get_config(self):
            return {}

    wrong = {
        "activation": (swash, "swash"),
        "depthwise_constraint": (Half(), "Half"),
        "bias_regularizer": (L2(), "mine>L2"),
    }
    for argument, (found, name) in wrong.items():
        config = keras.layers.SeparableConv1D(F, K, **{argument: found}).get_config()
        for form in (config, json.loads(json.dumps(config))):
            with pytest.raises(ValueError, match=rf"^{argument}: .*{name}"):
                arguments_of(form)


@pytest.mark.parametrize("version", PEERS)
def test_other_layers_are_named(version):
    keras = PEERS[version]()
    inner = keras.layers.SeparableConv1D(F, K)
    for layer in (keras.layers.Conv1D(F, K), keras.layers.TimeDistributed(inner)):
        form = keras.saving.serialize_keras_object(layer)
        with pytest.raises(ValueError, match=rf"a layer SeparableConv1D.*{type(layer).__name__}"):
            arguments_of(form)
    learned = keras.layers.SeparableConv1D(F, K, activation=keras.layers.PReLU())
    with pytest.raises(ValueError, match=r"activation: unknown activation 'PReLU'"):
        arguments_of(learned.get_config())


def test_what_keras_3_allows_and_this_layer_does_not():
    keras = peers.keras()
    both = keras.layers.SeparableConv1D(F, K, strides=2, dilation_rate=3).get_config()
    with pytest.raises(ValueError, match=r"strides and dilation_rate .* strides=2 and dil.*=3"):
        arguments_of(both)
    quantized = keras.layers.SeparableConv1D(F, K).get_config()
    quantized["dtype"]["class_name"] = "QuantizedDTypePolicy"
    quantized["dtype"]["config"] = {"mode": "int8", "source_name": "float32"}
    with pytest.raises(ValueError, match=r"dtype must be one of float16.*QuantizedDTypePolicy"):
        arguments_of(quantized)


MALFORMED = [
    (None, TypeError, r"config must be the dict of a Keras layer, got None"),
    ([], TypeError, r"config must be the dict of a Keras layer, got \[\]"),
    ({}, ValueError, r"must have 'filters', got \{\}"),
    ({"filters": F}, ValueError, r"must have 'kernel_size'"),
    (PLAIN | {"colour": 1}, ValueError, r"config has 'colour', which is no argument of"),
    (PLAIN | {1: 1, "a": 1}, ValueError, r"config has 1, which"),
    (PLAIN | {"groups": 2}, ValueError, r"groups must be 1, got 2"),
    (PLAIN | {"name": 3}, TypeError, r"name must be a string, got 3"),
    (PLAIN | {"filters": 1.5}, ValueError, r"filters must .*got 1.5"),
    (PLAIN | {"kernel_size": [3, 3]}, ValueError, r"kernel_size must .*got \[3, 3\]"),
    (PLAIN | {"padding": "full"}, ValueError, r"padding must .*got 'full'"),
    (PLAIN | {"padding": "circular"}, ValueError, r"padding must .*got 'circular'"),
    (PLAIN | {"padding": [1, 1]}, ValueError, r"padding must .*got \[1, 1\]"),
    (PLAIN | {"dtype": "int8"}, ValueError, r"dtype must be one of .*got 'int8'"),
    (PLAIN | {"dtype": "mixed_float32"}, ValueError, r"dtype must be one of"),
    (PLAIN | {"dtype": ["float32"]}, ValueError, r"dtype must be one of .*\['float32'\]"),
    (PLAIN | {"dtype": {"class_name": "Policy", "config": None}}, ValueError, r"dtype must be"),
    (PLAIN | {"dtype": {"class_name": "Policy", "module": 3}}, ValueError, r"dtype 'Policy'.* 3"),
    (PLAIN | {"activation": "rellu"}, ValueError, r"activation: unknown .*'rellu'"),
    (PLAIN | {"activation": 3}, TypeError, r"activation: .*got 3"),
    (
        PLAIN | {"activation": {"class_name": "Activation", "config": {"name": "a"}}},
        ValueError,
        r"activation: config of activation Activation must have 'activation'",
    ),
    (
        PLAIN | {"activation": {"class_name": "relu", "config": {"threshold": None}}},
        TypeError,
        r"activation: threshold of relu must be a number, got None",
    ),
    (
        PLAIN | {"activation": {"class_name": "gelu", "config": {"approximate": 1}}},
        TypeError,
        r"activation: approximate of gelu must be True or False, got 1",
    ),
    (
        PLAIN | {"bias_initializer": {"class_name": "Zeros", "config": {}, "module": ["os"]}},
        ValueError,
        r"bias_initializer: initializer 'Zeros' of module \['os'\] is a custom object",
    ),
    (
        PLAIN | {"bias_regularizer": {"class_name": "L2", "config": {"l3": 1}}},
        ValueError,
        r"bias_regularizer: .*L2 has no argument 'l3'",
    ),
    (
        PLAIN | {"bias_constraint": {"class_name": "NonNeg", "registered_name": "mine>NonNeg"}},
        ValueError,
        r"bias_constraint: .*'NonNeg' of module 'keras' is a custom .*as 'mine>NonNeg'",
    ),
    ({"class_name": "SeparableConv1D"}, ValueError, r"must have 'filters'"),
    ({"class_name": "SeparableConv1D", "config": 3}, TypeError, r"config must be .*got 3"),
    ({"class_name": 3, "config": PLAIN}, ValueError, r"layer as a dict must have a 'class_name'"),
    (
        {"class_name": "SeparableConv2D", "config": PLAIN},
        ValueError,
        r"got one of 'SeparableConv2D'",
    ),
    (
        {"class_name": "SeparableConv1D", "config": {"class_name": "SeparableConv1D"}},
        ValueError,
        r"must have 'filters'",
    ),
]


@pytest.mark.parametrize(("config", "error", "message"), MALFORMED)
def test_malformed_configs(config, error, message):
    with pytest.raises(error, match=message):
        arguments_of(config)


def test_depth_is_bounded():
    activation: Any = "relu"
    constraint: Any = "non_neg"
    for _ in range(2000):
        activation = {"class_name": "Activation", "config": {"activation": activation}}
        constraint = {"class_name": "Stacked", "config": {"constraint": constraint}}
    for deep in ({"activation": activation}, {"bias_constraint": constraint}):
        with pytest.raises(ValueError, match=r"config has too many dicts inside each other"):
            arguments_of(PLAIN | deep)
        with pytest.raises(ValueError, match=r"config has too many dicts inside each other"):
            arguments_of(deep)  # the message that it lacks "filters" would show it


@pytest.mark.parametrize(
    ("given", "version", "error", "message"),
    [
        ({"padding": "reflect"}, 2, ValueError, r"padding must .*for Keras, got 'reflect'"),
        ({"padding": 1}, 3, ValueError, r"padding must .*for Keras, got \(1, 1\): pad the input"),
        ({"padding": "causal"}, 3, ValueError, r"padding 'causal' .* D\*\(K-1\) = 6 zeros"),
        ({}, 4, ValueError, r"version must be 2 or 3, got 4"),
        ({"name": "a/b"}, 3, ValueError, r"name must have no '/' for Keras 3, got 'a/b'"),
        ({"activation": ("gelu", {"approximate": True})}, 2, ValueError, r"^activation: Keras 2"),
        ({"activation": ("gelu", {"approximate": True})}, 3, ValueError, r"no layer for gelu with"),
        ({"activation": ("glu", {"axis": 1})}, 3, ValueError, r"^activation: .*glu with .*axis"),
        ({"activation": ("celu", {"alpha": 1.0})}, 2, ValueError, r"Keras 2 has no .*'celu'"),
        ({"activation": "hard_sigmoid"}, 2, ValueError, r"activation: 'hard_sigmoid' of Keras 2"),
        ({"activation": jnp.sin}, 2, TypeError, r"activation: .*cannot be serialized"),
        (
            {"activation": ("leaky_relu", {"negative_slope": -0.5})},
            3,
            ValueError,
            r"activation: negative_slope of Keras' LeakyReLU must be .*>= 0, got -0.5",
        ),
        ({"activation": ("relu", {"max_value": -1})}, 2, ValueError, r"max_value of Keras' ReLU"),
        (
            {"depthwise_initializer": fsc.initializers.HeNormal(input_axes=0, output_axes=1)},
            2,
            ValueError,
            r"depthwise_initializer: HeNormal of Keras 2 has no input_axes, got \[0\]",
        ),
        (
            {"pointwise_initializer": fsc.initializers.STFT()},
            2,
            ValueError,
            r"pointwise_initializer: Keras 2 has no STFT",
        ),
        (
            {"bias_constraint": fsc.constraints.Stacked("non_neg")},
            3,
            ValueError,
            r"bias_constraint: Keras 3 has no Stacked",
        ),
        ({"bias_initializer": nn.initializers.ones}, 3, TypeError, r"^bias_initializer: "),
        ({"activity_regularizer": jnp.sum}, 3, TypeError, r"^activity_regularizer: "),
        ({"dtype": "float16", "param_dtype": "bfloat16"}, 3, ValueError, r"float16.*bfloat16"),
    ],
)
def test_what_keras_cannot_have(given, version, error, message):
    if isinstance(given.get("activation"), tuple):
        name, config = given["activation"]
        given = given | {"activation": {"class_name": name, "config": config}}
    layer = fsc.SeparableConv1D(F, K, dilation_rate=2, **given)
    with pytest.raises(error, match=message):
        layer.to_keras_config(version)


@pytest.mark.parametrize("name", [n for n in settings.ACTIVATIONS if n != "threshold"])
def test_keras_2_is_only_told_of_activations_that_it_has(name):
    layer = fsc.SeparableConv1D(F, K, activation=name)
    keras = peers.tf_keras()
    if name in settings.KERAS_2_ACTIVATIONS:
        keras.layers.SeparableConv1D.from_config(layer.to_keras_config(2))
        return
    with pytest.raises(ValueError, match=r"activation: .*Keras 2"):
        layer.to_keras_config(2)
    if name != "hard_sigmoid":
        with pytest.raises(ValueError, match=r"Unknown activation|Could not"):
            keras.activations.get(name)


def test_negative_slopes_are_written_where_keras_takes_them():
    ours = fsc.SeparableConv1D(
        F,
        K,
        depth_multiplier=M,
        activation={"class_name": "leaky_relu", "config": {"negative_slope": -0.5}},
    )
    theirs = peers.tf_keras().layers.SeparableConv1D.from_config(ours.to_keras_config(2))
    assert_same_layer(ours, theirs, 2)
