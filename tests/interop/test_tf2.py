"""Checkpoints of objects and SavedModels: what is read computes what TensorFlow computed."""

import os
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest

import flax_sepconv as fsc
from flax_sepconv.interop import InteropError, saved_model, tf_checkpoint
from flax_sepconv.keras import config as keras_config
from flax_sepconv.spec import DepthwiseArguments, SeparableArguments
from tests import peers

B, L, C = 2, 19, 3
X = np.random.default_rng(0).standard_normal((B, L, C)).astype("float32")
SECOND = {"depth_multiplier": 2, "padding": "same", "activation": "gelu"}


def assert_same_output(layer, x, y, **given):
    """Compare our layer, with what was read and what the source does not tell, to TensorFlow."""
    module = getattr(fsc, layer.class_name)(**layer.arguments() | given)
    ours = module.apply({"params": dict(layer.weights)}, np.asarray(x))
    assert np.abs(y).max() > 0.01
    np.testing.assert_allclose(ours, y, rtol=1e-5, atol=1e-5 * np.abs(y).max())


def by_path(layers):
    found = {layer.path: layer for layer in layers}
    assert len(found) == len(layers)
    return found


def sep(filters, kernel_size, **given):
    random = {f"{name}_initializer": "random_normal" for name in ("depthwise", "pointwise", "bias")}
    return peers.tf_keras().layers.SeparableConv1D(filters, kernel_size, **random | given)


@pytest.fixture(scope="module")
def model():
    """A trained model with models in it, one twice, and layers that are not to be found."""
    keras = peers.tf_keras()

    class Subclass(keras.layers.SeparableConv1D):
        pass

    inner = keras.Sequential([sep(4, 3, name="conv", use_bias=False)], name="inner")
    outer = keras.Sequential([keras.layers.Dense(6), inner], name="outer")
    x = keras.Input((L, C))
    h = keras.layers.Concatenate()([outer(x), inner(keras.layers.Dense(6)(x))])
    h = sep(7, 5, name="conv", dilation_rate=2, **SECOND)(h)
    h = keras.layers.TimeDistributed(sep(5, 2, name="inside", strides=3), name="each")(h[:, None])
    h = keras.layers.SeparableConv2D(6, (1, 2))(keras.layers.Conv2D(4, (1, 2))(h))
    alone = keras.layers.DepthwiseConv1D(2, padding="same", name="alone", depth_multiplier=2)
    h = alone(Subclass(3, 2, name="special")(h[:, 0]))
    model = keras.Model(x, h)
    model.compile("adam", "mse")
    model.fit(X, np.zeros((B, *model.output_shape[1:])), verbose=0)
    return model


def layers_of(model):
    """Return the layers to be found, by the names on the way to each."""
    return {
        "conv": model.get_layer("conv"),
        "special": model.get_layer("special"),
        "alone": model.get_layer("alone"),
        "inner/conv": model.get_layer("inner").layers[0],
        "each/inside": model.get_layer("each").layer,
    }


# The same by the attributes that hold them; those without weights are not counted.
ATTRIBUTES = {
    "layer_with_weights-3": "conv",
    "layer_with_weights-7": "special",
    "layer_with_weights-8": "alone",
    "layer_with_weights-2/layer_with_weights-0": "inner/conv",
    "layer_with_weights-4/layer": "each/inside",
}


def assert_same_as(layer, keras_layer, told=()):
    """Compare to the layer of Keras; what the source does not tell is taken from its config."""
    x = np.random.default_rng(1).standard_normal((B, L, layer.sizes["C"])).astype("float32")
    given = {name: keras_layer.get_config()[name] for name in told}
    assert_same_output(layer, x, keras_layer(x).numpy(), **given)


UNTOLD = ("strides", "dilation_rate", "padding", "activation")


def test_keras_2_saved_model(model, tmp_path):
    model.save(tmp_path, save_format="tf")
    layers, expected = by_path(saved_model.read(tmp_path)), layers_of(model)
    assert layers.keys() == expected.keys()
    assert layers["special"].config is None  # what its class does is not known
    assert_same_as(layers.pop("special"), expected["special"])
    for path, layer in layers.items():
        config = expected[path].get_config()
        assert layer.arguments() == keras_config.arguments_of(config, layer=layer.spec)
        assert_same_as(layer, expected[path])


@pytest.mark.parametrize("how", ["checkpoint", "save_weights", "saved_model"])
def test_objects_without_metadata(model, tmp_path, how):
    tf = peers.tf()
    if how == "checkpoint":
        tf.train.Checkpoint(net=model, optimizer=model.optimizer).save(str(tmp_path / "ckpt"))
        layers = tf_checkpoint.read(tmp_path)
    elif how == "save_weights":
        model.save_weights(str(tmp_path / "ckpt"), save_format="tf")
        layers = tf_checkpoint.read(tmp_path / "ckpt")
    else:
        tf.saved_model.save(model, str(tmp_path))
        layers = saved_model.read(tmp_path)
    expected = layers_of(model)
    prefix = "net/" if how == "checkpoint" else ""
    layers = by_path(layers)
    assert layers.keys() == {prefix + way for way in ATTRIBUTES}
    for way, name in ATTRIBUTES.items():
        assert layers[prefix + way].config is None
        assert_same_as(layers[prefix + way], expected[name], UNTOLD)


def test_module(tmp_path):
    """Attributes, lists and dicts; a name with a dot and a slash; one layer in two places."""
    tf = peers.tf()
    module = tf.Module()
    module.first = sep(4, 3, name="same_name")
    module.blocks = [tf.Module(), {"a.b/c": sep(5, 2, name="same_name", strides=2)}]
    module.blocks[0].again = module.first
    for layer in (module.first, module.blocks[1]["a.b/c"]):
        layer(X)
    tf.saved_model.save(module, str(tmp_path))
    layers = by_path(saved_model.read(tmp_path))
    assert layers.keys() == {"first", "blocks/1/a.b/c"}
    assert_same_as(layers["first"], module.first)
    assert_same_as(layers["blocks/1/a.b/c"], module.blocks[1]["a.b/c"], UNTOLD)


def test_subclassed_model_with_names_of_keras(tmp_path):
    """Names come from Keras where it has any, and from attributes where not."""
    keras = peers.tf_keras()

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = {"v1.0": sep(4, 3, name="low", padding="same"), "v2": sep(5, 2)}

        def call(self, x):
            return self.parts["v2"](self.parts["v1.0"](x))

    net = Net()
    net.predict(X, verbose=0)
    net.save(tmp_path, save_format="tf")
    layers = by_path(saved_model.read(tmp_path))
    assert layers.keys() == {"parts/low", f"parts/{net.parts['v2'].name}"}
    assert layers["parts/low"].arguments()["padding"] == "same"
    assert_same_as(layers["parts/low"], net.parts["v1.0"])


def test_single_layer(tmp_path):
    """The root itself is the layer, and has no name."""
    layer = sep(4, 3)
    layer(X)
    peers.tf().train.Checkpoint(layer).write(str(tmp_path / "one"))
    (found,) = tf_checkpoint.read(tmp_path / "one")
    assert found.path == ""
    assert_same_as(found, layer)


def test_export_of_keras_2(model, tmp_path):
    """There are variables' names only; those in Keras 2 do not tell of models in models."""
    net = peers.tf_keras().Sequential([sep(5, 3, name="low"), sep(4, 2, name="high")])
    net(X)
    net.export(str(tmp_path))
    layers = by_path(saved_model.read(tmp_path))
    assert layers.keys() == {"low", "high"}
    assert_same_as(layers["low"], net.layers[0])
    model.export(str(tmp_path / "model"))
    with pytest.raises(InteropError, match="two variables of the name 'conv/depthwise_kernel'"):
        saved_model.read(tmp_path / "model")


def test_saved_model_of_tf1(tmp_path):
    tf = peers.tf()
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder("float32", X.shape)
        with v1.variable_scope("in/scope"):
            y = sep(4, 3, name="conv")(x)
        session.run(v1.global_variables_initializer())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is deprecated
            v1.saved_model.simple_save(session, str(tmp_path / "saved"), {"x": x}, {"y": y})
        y = session.run(y, {x: X})
    (layer,) = saved_model.read(tmp_path / "saved")
    assert layer.path == "in/scope/conv"
    assert_same_output(layer, X, y)


KERAS_3 = """
    import sys
    import numpy as np
    import keras
    import tensorflow as tf
    folder, x = sys.argv[1], np.load(sys.argv[1] + "/x.npy")
    conv = keras.layers.SeparableConv1D
    inner = keras.Sequential([conv(4, 3, name="low", bias_initializer="normal")], name="inner")
    high = conv(5, 2, name="high", strides=3, activation="relu")
    plain = keras.layers.DepthwiseConv1D(2, padding="same", bias_initializer="normal")
    double = keras.layers.DepthwiseConv1D(3, padding="same", depth_multiplier=2, name="double")
    others = keras.layers.Conv1D(3, 1), keras.layers.Conv1DTranspose(4, 2), keras.layers.GRU(5)
    model = keras.Sequential(
        [keras.Input(x.shape[1:]), inner, high, plain, double, *others], name="net"
    )
    model.compile("adam", "mse")
    model.fit(x, np.zeros((len(x), *model.output_shape[1:])), verbose=0)
    outputs = {"low": inner(x)}
    for before, layer in (("low", high), ("high", plain), (plain.name, double)):
        outputs[layer.name] = layer(outputs[before])
    np.savez(folder + "/outputs.npz", **outputs)
    model.export(folder + "/export", verbose=False)
    tf.saved_model.save(model, folder + "/saved")
    tf.train.Checkpoint(model=model).write(folder + "/written")
"""


def test_keras_3_on_tensorflow(tmp_path):
    peers.tf()
    peers.keras()
    np.save(tmp_path / "x.npy", X)
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""}
    program = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(KERAS_3), str(tmp_path)]
    subprocess.run(program, check=True, env=environment, capture_output=True)
    with np.load(tmp_path / "outputs.npz") as file:
        outputs = dict(file)
    for found in (
        saved_model.read(tmp_path / "export"),
        saved_model.read(tmp_path / "saved"),
        tf_checkpoint.read(tmp_path / "written"),
    ):
        (plain, double), (low, high) = (
            sorted((one for one in found if one.spec is spec), key=lambda layer: layer.sizes["F"])
            for spec in (DepthwiseArguments, SeparableArguments)
        )
        assert len(found) == 4
        assert_same_output(plain, outputs["high"], outputs["depthwise_conv1d"], padding="same")
        assert_same_output(double, outputs["depthwise_conv1d"], outputs["double"], padding="same")
        assert_same_output(low, X, outputs["low"])
        assert_same_output(high, outputs["low"], outputs["high"], strides=3, activation="relu")
    exported = [layer.path for layer in saved_model.read(tmp_path / "export")]
    assert exported == ["net/inner/low", "net/high", "net/depthwise_conv1d", "net/double"]
