"""Names whose meaning depends on who wrote them: Keras 2, TF1 or Keras 3."""

import inspect
import json
import math
import warnings
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_sepconv as fsc
from flax_sepconv import activations, constraints, initializers, regularizers
from flax_sepconv.keras.config import arguments_of
from flax_sepconv.keras.versions import activation_of, version_of
from tests import peers, settings
from tests.keras_layers import (
    PEERS,
    PLAIN,
    UNDRAWN,
    F,
    K,
    M,
    assert_close,
    assert_same_layer,
    legacy,
)

X = np.random.default_rng(0).normal(0, 3, (6, 8)).astype(np.float32)
OBJECTS = {"initializers": initializers, "regularizers": regularizers, "constraints": constraints}
# Fewer than both have: no weight of the layer has the rank for them.
OF_OTHER_RANKS = {"Identity", "RadialConstraint"}


def called(library: Any, name: str) -> Any:
    array = peers.tf().constant if library is peers.tf_keras() else jnp.asarray
    return np.asarray(library.activations.get(name)(array(X)))


def test_every_activation_means_what_it_means_in_its_keras():
    """Two differ: hard_sigmoid by its definition, sparsemax by Keras 3's fault."""
    functions = inspect.getmembers(peers.tf_keras().activations, inspect.isfunction)
    names = {name for name, _ in functions} - {"get", "serialize", "deserialize"}
    names |= set(settings.KERAS_2_ACTIVATIONS)
    pairs = [(version, name) for version in PEERS for name in sorted(names)] + [(3, "sparsemax")]
    differ, wrong = set(), set()
    for version, name in pairs:
        theirs = called(PEERS[version](), name)
        for found, identifier in ((wrong, activation_of(name, version)), (differ, name)):
            ours = activations.get(identifier)(jnp.asarray(X))
            if not np.allclose(ours, theirs, rtol=1e-5, atol=1e-5):
                found.add((version, name))
    assert wrong == {(3, "sparsemax")}
    assert differ == wrong | {(2, "hard_sigmoid")}


@pytest.mark.parametrize("module", OBJECTS)
def test_every_name_of_an_object_means_one_thing(module):
    """By what both Keras write of it, and for constraints by what they do."""
    names = {name for peer in PEERS.values() for name in dir(getattr(peer(), module))}
    names |= {"normal", "uniform", "one", "zero", "maxnorm", "nonneg", "unitnorm", "l1l2"}
    compared = 0
    for name in names:
        for peer in PEERS.values():
            try:
                theirs = getattr(peer(), module).get(name)
                described = theirs.get_config()
            except (AttributeError, LookupError, TypeError, ValueError, NotImplementedError):
                continue  # This Keras has no such name, or not without arguments.
            if type(theirs).__name__ in OF_OTHER_RANKS | {module[:-1].title()}:
                continue
            ours = OBJECTS[module].serialize(OBJECTS[module].get(name))
            assert ours["class_name"] == type(theirs).__name__.removesuffix("Initializer")
            assert ours["config"] == pytest.approx(
                {key: described[key] for key in ours["config"]}
            ), name
            compared += 1
    assert compared >= 2 * len(OBJECTS[module]._KNOWN) // 3


@pytest.mark.parametrize("version", PEERS)
def test_configs_tell_their_keras(version):
    """What both write, and what we write, whatever the policy; and files, which are JSON."""
    keras = PEERS[version]()
    for given in ({}, {"dtype": "mixed_bfloat16"}, {"bias_initializer": "ones", "use_bias": False}):
        theirs = keras.layers.SeparableConv1D(F, K, activation="hard_sigmoid", **given)
        config = theirs.get_config()
        forms = [config, json.loads(json.dumps(config, default=float))]
        forms += [legacy(theirs, config, keras)] if version == 2 else []
        for form in forms:
            assert version_of(form) == version
        ours = fsc.SeparableConv1D.from_keras_config(config)
        assert version_of(ours.to_keras_config(version)) == version
        assert ours.to_keras_config(version)["activation"] == "hard_sigmoid"
        with pytest.raises(ValueError, match=r"^activation: .*Keras [23] (has no clip|is another)"):
            ours.to_keras_config(5 - version)


def test_hard_sigmoid_of_each_keras():
    for version, peer in PEERS.items():
        keras = peer()
        for activation in ("hard_sigmoid", keras.layers.Activation("hard_sigmoid")):
            theirs = keras.layers.SeparableConv1D(
                F, K, depth_multiplier=M, activation=activation, **UNDRAWN
            )
            ours = fsc.SeparableConv1D.from_keras_config(theirs.get_config())
            assert_same_layer(ours, theirs, version)
        # What keras-team's own Keras 2 wrote: nothing of the general convolution.
        bare = PLAIN | {"activation": "hard_sigmoid"}
        told = bare | {"bias_initializer": {"class_name": "Zeros", "config": {}}}
        if version == 2:
            assert arguments_of(told)["activation"] == "hard_sigmoid_keras2"
        assert (
            arguments_of(bare, version)["activation"]
            == arguments_of(theirs.get_config() | {"activation": "hard_sigmoid"})["activation"]
        )
    for unsure in (bare, told | {"dtype": {"class_name": "DTypePolicy", "config": {}}}):
        with pytest.raises(ValueError, match=r"^activation: .*give version=2 or version=3"):
            arguments_of(unsure)
    with pytest.raises(ValueError, match="version must be 2 or 3, got 1"):
        arguments_of(bare, 1)
    layer = fsc.nnx.SeparableConv1D.from_keras_config(bare, 3, rngs=fsc.nnx.nnx.Rngs(0), version=2)
    assert layer.arguments.activation is activations.hard_sigmoid_keras2


def test_hard_sigmoid_of_tf1():
    tf = peers.tf()
    v1 = tf.compat.v1
    x = np.random.default_rng(0).normal(0, 4, (2, 9, 3)).astype(np.float32)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return fsc.separable_conv1d(x, F, K, activation="hard_sigmoid", name="conv")

    variables = Model().init(jax.random.key(0), x)
    given = {
        f"{name.removesuffix('_kernel')}_initializer": v1.constant_initializer(np.asarray(weight))
        for name, weight in variables["params"]["conv"].items()
    }
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is deprecated
            y = v1.layers.separable_conv1d(tf.constant(x), F, K, activation="hard_sigmoid", **given)
        session.run(v1.global_variables_initializer())
        expected = session.run(y)
    assert_close(Model().apply(variables, x), expected, "output")


def test_sparsemax_of_keras_3_is_told_to_be_another():
    keras = peers.keras()
    config = keras.layers.SeparableConv1D(F, K, activation="sparsemax").get_config()
    with pytest.warns(UserWarning, match="computes sparsemax wrongly"):
        layer = fsc.SeparableConv1D.from_keras_config(config)
    with pytest.warns(UserWarning, match="computes sparsemax wrongly"):
        assert layer.to_keras_config()["activation"] == "sparsemax"


VALUES = {"list": [0.5, -1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.25], "array": np.arange(8) / 4}


@pytest.mark.parametrize("version", PEERS)
@pytest.mark.parametrize("kind", VALUES)
def test_constants_of_several_values(version, kind):
    keras = PEERS[version]()
    theirs = keras.layers.SeparableConv1D(
        F, K, bias_initializer=keras.initializers.Constant(VALUES[kind])
    )
    theirs.build((2, 9, 3))
    config = theirs.get_config()
    forms = [config] if version == 2 else [config, json.loads(json.dumps(config))]
    for form in forms:
        ours = fsc.SeparableConv1D.from_keras_config(form).arguments().bias_initializer
        assert_close(ours(None, (F,)), theirs.bias, "bias")
        assert ours == initializers.Constant(VALUES[kind])
        assert hash(ours) == hash(initializers.get(np.array(VALUES[kind])))
        assert ours != initializers.Constant(0.5)
    back = fsc.SeparableConv1D(F, K, bias_initializer=ours).to_keras_config(version)
    again = keras.layers.SeparableConv1D.from_config(json.loads(json.dumps(back)))
    again.build((2, 9, 3))
    assert_close(again.bias, theirs.bias, "bias")


def test_constants_are_broadcast_as_in_keras_3_or_reshaped_as_in_keras_2():
    value = np.arange(8.0)
    theirs = peers.keras().initializers.Constant(value)((1, 6, 8))
    np.testing.assert_array_equal(initializers.Constant(value)(None, (1, 6, 8)), theirs)
    theirs = peers.tf_keras().initializers.Constant(value)((2, 4, 1))
    np.testing.assert_array_equal(initializers.Constant(value)(None, (2, 4, 1)), theirs)
    with pytest.raises(ValueError, match=r"of shape \(8,\), does not fit shape \(3, 2\)"):
        initializers.Constant(value)(None, (3, 2))


def test_a_seed_generator_stands_for_what_it_draws_first():
    keras = peers.keras()
    drawn = keras.initializers.HeNormal(seed=keras.random.SeedGenerator(3))
    config = keras.layers.SeparableConv1D(F, K, bias_initializer=drawn).get_config()
    ours = fsc.SeparableConv1D.from_keras_config(config).arguments().bias_initializer
    assert ours == initializers.HeNormal(seed=3)
    assert_close(ours(None, (F,)), drawn((F,)), "bias")


def test_policies_by_path():
    keras = peers.keras()
    policies = keras.dtype_policies.DTypePolicyMap(default_policy="mixed_bfloat16")
    for named, expected in ((None, "bfloat16"), ("mixed_bfloat16", "bfloat16"), ("float16", None)):
        if named:
            policies[f"model/{named}"] = named
        config = keras.layers.SeparableConv1D(F, K, dtype=policies).get_config()
        if expected:
            assert arguments_of(config)["dtype"] == expected
        else:
            with pytest.raises(ValueError, match="DTypePolicyMap, which goes by the layer's path"):
                arguments_of(config)


def test_uniform_unit_scaling_of_tf1():
    tf = peers.tf()
    v1 = tf.compat.v1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        theirs = v1.uniform_unit_scaling_initializer(factor=2.0, seed=1)
    described = {"class_name": "UniformUnitScaling", "config": theirs.get_config()}
    ours = initializers.get(described | {"config": described["config"] | {"seed": None}})
    for shape in ((11, 50, 7), (4000,)):
        with tf.Graph().as_default(), v1.Session() as session:
            expected = session.run(theirs(shape))
        actual = ours(jax.random.key(0), shape)
        limit = 2 * math.sqrt(3 / max(1, math.prod(shape[:-1])))
        for drawn in (np.asarray(actual), expected):
            assert 0.99 * limit < np.abs(drawn).max() <= limit * (1 + 1e-6)
            assert abs(drawn.std() / limit * math.sqrt(3) - 1) < 0.03
    layer = fsc.SeparableConv1D(F, K, bias_initializer=ours)
    for version in PEERS:
        with pytest.raises(ValueError, match=rf"Keras {version} has no UniformUnitScaling"):
            layer.to_keras_config(version)


@pytest.mark.parametrize(
    ("argument", "described", "message"),
    [
        ("bias_constraint", {"class_name": "RadialConstraint", "config": {}}, "weights of rank 4"),
        (
            "bias_initializer",
            {"class_name": "Constant", "config": {"value": [1.0, 2.0], "dtype": "float32"}},
            "repeats the last of several",
        ),
        ("bias_initializer", {"class_name": "function", "config": "initialize_fn"}, "or an array"),
        (
            "bias_initializer",
            {"class_name": "Constant", "config": {"value": [[1.0], [2.0, 3.0]]}},
            "lists of different lengths",
        ),
        (
            "bias_initializer",
            {"class_name": "Constant", "config": {"value": [1.0, math.inf]}},
            "got one that is not finite",
        ),
    ],
)
def test_what_has_no_meaning_here(argument, described, message):
    with pytest.raises(ValueError, match=rf"^{argument}: .*{message}"):
        arguments_of(PLAIN | {argument: described})
