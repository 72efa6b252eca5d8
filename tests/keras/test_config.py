"""Layers from Keras' configs and back, judged by both Keras: same output, losses, constraints."""

import copy
import json
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import pytest
from hypothesis import strategies as st

import flax_sepconv as fsc
from tests import peers, settings
from tests.keras_layers import (
    ACTIVATION_LAYERS,
    ACTIVATIONS,
    INITIALIZERS,
    OBJECTS,
    ORTHOGONAL,
    PEERS,
    PLAIN,
    UNDRAWN,
    WEIGHTS,
    B,
    C,
    F,
    K,
    L,
    M,
    assert_close,
    assert_said_by,
    assert_same_layer,
    made,
    needed,
    numbers,
    objects,
    weights_of,
    written,
)


@pytest.mark.parametrize(("version", "class_name", "argument", "name", "given"), OBJECTS)
def test_every_object_is_read(version, class_name, argument, name, given):
    keras, of = PEERS[version](), needed(class_name)
    ours, theirs = getattr(fsc, class_name), getattr(keras.layers, class_name)
    layer = theirs(**of, **{argument: made(keras, argument, name, given)})
    expected = ours(**of, **{argument: made(fsc, argument, name, given)}).arguments()
    for form in written(layer, keras):
        ours = getattr(fsc, class_name).from_keras_config(form)
        assert ours.arguments() == expected
        assert hash(ours) == hash(ours.clone())


@pytest.mark.parametrize("name", [name for name, given in INITIALIZERS.items() if given])
def test_seeded_initializers_draw_the_numbers_of_keras_3(name):
    keras = peers.keras()
    given = INITIALIZERS[name] | ({"seed": 3} if "seed" in INITIALIZERS[name] else {})
    objects = {f"{w}_initializer": made(keras, "_initializer", name, given) for w in WEIGHTS}
    theirs = keras.layers.SeparableConv1D(F, K, depth_multiplier=M, **objects)
    theirs.build((B, L, C))
    ours = fsc.SeparableConv1D.from_keras_config(theirs.get_config())
    params = ours.init(jax.random.key(0), jnp.zeros((B, L, C)))["params"]
    for weight, value in params.items():
        assert_close(value, getattr(theirs, weight), weight)


@pytest.mark.parametrize(
    ("version", "name"), [(version, name) for version in PEERS for name in ACTIVATIONS[version]]
)
def test_every_activation_is_read_and_written(version, name):
    keras = PEERS[version]()
    theirs = keras.layers.SeparableConv1D(F, K, depth_multiplier=M, activation=name, **UNDRAWN)
    forms = written(theirs, keras)
    ours = [fsc.SeparableConv1D.from_keras_config(form) for form in forms]
    assert all(layer.arguments() == ours[0].arguments() for layer in ours)
    assert_same_layer(ours[0], theirs, version)
    back = keras.layers.SeparableConv1D.from_config(ours[0].to_keras_config(version))
    assert back.get_config()["activation"] == theirs.get_config()["activation"]


@pytest.mark.parametrize("version", PEERS)
@pytest.mark.parametrize(("name", "given"), ACTIVATION_LAYERS)
def test_every_activation_layer_is_read_and_written(version, name, given):
    keras = PEERS[version]()
    inner = getattr(keras.layers, name)(*given)
    for activation in (inner, keras.layers.Activation(inner)):
        theirs = keras.layers.SeparableConv1D(
            F, K, depth_multiplier=M, activation=activation, **UNDRAWN
        )
        ours = [fsc.SeparableConv1D.from_keras_config(f) for f in written(theirs, keras)]
        assert all(layer.arguments() == ours[0].arguments() for layer in ours)
        assert_same_layer(ours[0], theirs, version)
    config = json.loads(json.dumps(ours[0].to_keras_config(version)))
    back = keras.layers.SeparableConv1D.from_config(config)
    assert_same_layer(ours[0], back, version)
    again = fsc.SeparableConv1D.from_keras_config(back.get_config())
    assert again.to_keras_config(version) == config


def test_thresholded_relu_is_read_and_written():
    keras = peers.tf_keras()
    for activation in (keras.layers.ThresholdedReLU(), keras.layers.ThresholdedReLU(0.25)):
        theirs = keras.layers.SeparableConv1D(
            F, K, depth_multiplier=M, activation=activation, **UNDRAWN
        )
        ours = fsc.SeparableConv1D.from_keras_config(theirs.get_config())
        assert_same_layer(ours, theirs, 2)
        for version, peer in PEERS.items():
            config = ours.to_keras_config(version)
            assert config["activation"]["class_name"] == "ReLU"
            assert_same_layer(ours, peer().layers.SeparableConv1D.from_config(config), version)


@pytest.mark.parametrize("version", PEERS)
@pytest.mark.parametrize("name", ["ReLU", "ThresholdedReLU", "LeakyReLU", "ELU", "Softmax"])
def test_activation_layers_without_arguments_have_their_defaults(version, name):
    keras = PEERS[version]()
    if not hasattr(keras.layers, name):
        assert (version, name) == (3, "ThresholdedReLU")
        return
    described = {"class_name": name, "config": {}}
    ours = fsc.SeparableConv1D.from_keras_config(PLAIN | {"activation": described})
    _, x = numbers()
    theirs = getattr(keras.layers, name)()(peers.tf().constant(x) if version == 2 else x)
    assert_close(ours.arguments().activation(x), theirs, name)


# Both ways, everything at once.


BOTH = pytest.mark.parametrize("class_name", settings.LAYERS)


def one_of(argument: str, version: int) -> st.SearchStrategy[tuple[str, dict[str, Any]] | None]:
    found = [
        (name, given)
        for other, name, given in objects(version)
        if other == argument and name not in (*ORTHOGONAL, "STFT")
    ]
    return st.sampled_from([None, *found])


@st.composite
def layers(draw: st.DrawFn, version: int, class_name: str) -> dict[str, Any]:
    """Draw arguments; an object is a pair of its class name and arguments."""
    causal = ["causal"] if (version, class_name) == (2, "SeparableConv1D") else []
    given: dict[str, Any] = {
        "depth_multiplier": M,
        "padding": draw(st.sampled_from(["valid", "same", "SAME", *causal])),
        "data_format": draw(st.sampled_from(settings.DATA_FORMATS)),
        "use_bias": draw(st.booleans()),
        "trainable": draw(st.booleans()),
        "name": draw(st.sampled_from(["conv", "separable_conv1d_3"])),
        "dtype": "float32",
    }
    strides, rate = draw(st.sampled_from([(1, 1), (3, 1), ((2,), (1,)), ([1], 2)]))
    given |= {"strides": strides, "dilation_rate": rate}
    for argument in ["activity_regularizer"] + [
        f"{weight}_{kind}"
        for weight in weights_of(class_name)
        for kind in ("initializer", "regularizer", "constraint")
    ]:
        found = draw(one_of(argument, version))
        if argument == "bias_constraint" and found is not None:
            found = (found[0], {k: 0 if k == "axis" else v for k, v in found[1].items()})
        given[argument] = found
    names = [None, *ACTIVATIONS[version]]
    if version == 2 and given["data_format"] == "channels_first":
        # It is judged by its twin along the last axis.
        names = [name for name in names if name not in settings.ALONG_LAST_AXIS]
    given["activation"] = draw(st.sampled_from(names))
    return given


def call(library: Any, class_name: str, given: dict[str, Any]) -> Any:
    kinds = ("initializer", "regularizer", "constraint")
    objects = {
        name: made(library, name, *value)
        for name, value in given.items()
        if name.endswith(kinds) and value is not None
    }
    layer = getattr(library if library is fsc else library.layers, class_name)
    plain = {name: value for name, value in given.items() if not name.endswith(kinds)}
    return layer(**needed(class_name), **plain, **objects)


@BOTH
@pytest.mark.parametrize("version", PEERS)
@settings.examples(5)
@hypothesis.given(data=st.data())
def test_random_layers_from_keras(version: int, class_name: str, data: st.DataObject) -> None:
    keras = PEERS[version]()
    given = data.draw(layers(version, class_name))
    theirs = call(keras, class_name, given)
    expected = call(fsc, class_name, given)
    for form in written(theirs, keras):
        ours = getattr(fsc, class_name).from_keras_config(form)
        assert ours.arguments() == expected.arguments()
        assert ours.name == given["name"]
        assert (ours.dtype, ours.param_dtype) == ("float32", "float32")
    assert_same_layer(ours, theirs, version)


@BOTH
@pytest.mark.parametrize("version", PEERS)
@settings.examples(5)
@hypothesis.given(data=st.data())
def test_random_layers_to_keras(version: int, class_name: str, data: st.DataObject) -> None:
    keras = PEERS[version]()
    ours = call(fsc, class_name, data.draw(layers(version, class_name)))
    config = json.loads(json.dumps(ours.to_keras_config(version)))
    theirs = getattr(keras.layers, class_name).from_config(copy.deepcopy(config))
    assert_said_by(config, theirs.get_config())
    assert getattr(fsc, class_name).from_keras_config(config).arguments() == ours.arguments()
    again = getattr(fsc, class_name).from_keras_config(theirs.get_config())
    assert again.arguments() == ours.arguments()
    assert_same_layer(ours, theirs, version)
