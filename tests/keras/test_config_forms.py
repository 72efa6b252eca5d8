"""The forms that configs have: whole models, policies, old files, JSON, nnx."""

import copy
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_sepconv as fsc
from flax_sepconv.keras.config import arguments_of
from flax_sepconv.spec import SeparableArguments
from tests import peers
from tests.keras_layers import (
    DTYPES,
    PEERS,
    UNDRAWN,
    B,
    C,
    F,
    K,
    L,
    M,
    assert_close,
    assert_said_by,
    made,
    numbers,
    objects,
    written,
)


@pytest.mark.parametrize("version", PEERS)
def test_layers_are_read_out_of_a_models_json(version):
    keras = PEERS[version]()
    given = {"padding": "same", "depth_multiplier": M, "activation": "relu"}
    expected = fsc.SeparableConv1D(F, K, **given, name="conv").arguments()
    inputs = keras.layers.Input((L, C))
    models = [
        keras.Sequential([inputs, keras.layers.SeparableConv1D(F, K, **given, name="conv")]),
        keras.Model(inputs, keras.layers.SeparableConv1D(F, K, **given, name="conv")(inputs)),
    ]
    if version == 2:
        first = keras.layers.SeparableConv1D(F, K, **given, name="conv", input_shape=(L, C))
        models.append(keras.Sequential([first]))
    keys = set()
    for model in models:
        for described in (model.get_config(), json.loads(model.to_json())["config"]):
            layer = described["layers"][-1]
            keys |= {*layer, *layer["config"]}
            ours = fsc.SeparableConv1D.from_keras_config(layer)
            assert ours.arguments() == expected
            assert ours.name == "conv"
    assert keys >= {"build_config", "inbound_nodes", "registered_name", "module"}
    assert ("batch_input_shape" in keys) is (version == 2)


@pytest.mark.parametrize("version", PEERS)
@pytest.mark.parametrize(("policy", "dtypes"), DTYPES.items())
def test_dtype_policies(version, policy, dtypes):
    keras = PEERS[version]()
    theirs = keras.layers.SeparableConv1D(F, K, depth_multiplier=M, dtype=policy, **UNDRAWN)
    weights, x = numbers()
    with jax.enable_x64(policy == "float64"):
        theirs.build(x.shape)
        theirs.set_weights(list(weights.values()))
        desired = theirs(x)
        for form in written(theirs, keras):
            ours = fsc.SeparableConv1D.from_keras_config(form)
            assert (ours.dtype, ours.param_dtype) == dtypes
        stored = {name: jnp.asarray(weight, dtypes[1]) for name, weight in weights.items()}
        actual = jax.jit(ours.apply)({"params": stored}, x)
        assert actual.dtype == dtypes[0]
        assert desired.dtype == dtypes[0]
        eps = float(jnp.finfo(dtypes[0]).eps)
        desired = np.asarray(desired).astype(np.float64)
        assert_close(np.asarray(actual).astype(np.float64), desired, "output", max(8 * eps, 1e-12))
        config = ours.to_keras_config(version)
        assert config["dtype"] == policy
        back = keras.layers.SeparableConv1D.from_config(config)
        assert back.get_config()["dtype"] == theirs.get_config()["dtype"]


def test_what_tensorflow_1_and_the_first_keras_2_wrote():
    config = {
        "name": "separable_conv1d",
        "trainable": True,
        "batch_input_shape": [None, L, C],
        "dtype": {"class_name": "PolicyV1", "config": {"name": "mixed_float16", "loss_scale": 2}},
        "filters": F,
        "kernel_size": [K],
        "activation": "relu",
        "kernel_initializer": {
            "class_name": "VarianceScaling",
            "config": {"scale": 1, "mode": "fan_avg", "distribution": "uniform", "seed": None},
        },
        "depthwise_initializer": {
            "class_name": "GlorotUniform",
            "config": {"seed": 3, "dtype": "float32"},
        },
        "bias_initializer": {"class_name": "Zeros", "config": {"dtype": "float32"}},
        "pointwise_initializer": "he_normal",
        "depthwise_regularizer": {"class_name": "L1L2", "config": {"l1": 0.0, "l2": 0.25}},
        "pointwise_regularizer": "l1_l2",
        "depthwise_constraint": "maxnorm",
    }
    expected = SeparableArguments(
        filters=F,
        kernel_size=K,
        activation="relu",
        depthwise_initializer=fsc.initializers.GlorotUniform(seed=3),
        pointwise_initializer="he_normal",
        depthwise_regularizer=fsc.regularizers.L1L2(0.0, 0.25),
        pointwise_regularizer=fsc.regularizers.L1L2(0.01, 0.01),
        depthwise_constraint=fsc.constraints.MaxNorm(),
    )
    ours = fsc.SeparableConv1D.from_keras_config(config)
    assert ours.arguments() == expected
    assert (ours.dtype, ours.param_dtype) == ("float16", "float32")
    # The real Keras 2 reads the same things from it.
    keras = peers.tf_keras()
    theirs = keras.layers.SeparableConv1D.from_config(config | {"dtype": "float32"})
    again = fsc.SeparableConv1D.from_keras_config(theirs.get_config()).arguments()
    close = fsc.regularizers.L1L2(*[float(np.float32(0.01))] * 2)
    assert again == dataclasses.replace(expected, pointwise_regularizer=close)


@pytest.mark.parametrize("version", PEERS)
def test_objects_that_the_layer_cannot_use_are_written(version):
    """A rank-2 regularizer and an STFT fail when they are called, in Keras as here."""
    keras = PEERS[version]()
    for argument, name, given in objects(version):
        ours = fsc.SeparableConv1D(F, K, **{argument: made(fsc, argument, name, given)})
        config = json.loads(json.dumps(ours.to_keras_config(version)))
        theirs = keras.layers.SeparableConv1D.from_config(copy.deepcopy(config))
        assert_said_by(config, theirs.get_config())


def test_numbers_of_numpy_and_tuples_become_json():
    ours = fsc.SeparableConv1D(
        np.int64(F),
        (K,),
        activation={"class_name": "softmax", "config": {"axis": (1, 2)}},
        depthwise_initializer=fsc.initializers.Constant(np.float32(0.5)),
        bias_regularizer=fsc.regularizers.L2(np.float64(0.25)),
        depthwise_constraint=fsc.constraints.MaxNorm(np.float16(2), axis=(np.int32(0), 1)),
        dtype=jnp.bfloat16,
    )
    for version in PEERS:
        config = ours.to_keras_config(version)
        read = fsc.SeparableConv1D.from_keras_config(json.loads(json.dumps(config)))
        assert read.arguments() == ours.arguments()
        assert read.to_keras_config(version) == config


def test_layers_from_configs_can_be_static_arguments():
    config = fsc.SeparableConv1D(
        F, K, depthwise_constraint=fsc.constraints.MaxNorm(axis=(0, 1))
    ).to_keras_config()
    one, other = map(fsc.SeparableConv1D.from_keras_config, (config, copy.deepcopy(config)))
    assert one == other
    assert hash(one) == hash(other)
    run = jax.jit(lambda layer, x: layer.init(jax.random.key(0), x), static_argnums=0)
    run(one, jnp.ones((B, L, C)))
    run(other, jnp.ones((B, L, C)))
    assert run._cache_size() == 1


def test_nnx_reads_and_writes_the_same():
    weights, x = numbers()
    linen = fsc.SeparableConv1D(
        F, K, depth_multiplier=M, activation="gelu", bias_constraint="non_neg", trainable=False
    )
    for version in PEERS:
        config = linen.to_keras_config(version)
        layer = fsc.nnx.SeparableConv1D.from_keras_config(config, C, rngs=nnx.Rngs(0))
        assert layer.to_keras_config(version) == config
        for name, weight in weights.items():
            getattr(layer, name)[...] = weight
        expected = linen.apply({"non_trainable": weights}, x)
        np.testing.assert_array_equal(layer(x), expected)


def test_an_object_of_ones_own_may_stand_in_its_place():
    keras = peers.keras()
    theirs = keras.layers.SeparableConv1D(F, K, activation=lambda x: 2 * x)
    with pytest.warns(UserWarning, match="lambda"):
        config = theirs.get_config()
    with pytest.raises(ValueError, match=r"activation: activation is the bytecode of a lambda"):
        arguments_of(config)
    twice = fsc.SeparableConv1D.from_keras_config(config | {"activation": jnp.sin})
    assert twice.activation is jnp.sin
    with pytest.raises(TypeError, match=r"activation: activation .*sin.* cannot be serialized"):
        twice.to_keras_config()
