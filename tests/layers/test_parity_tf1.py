"""The functional layer against `tf.compat.v1.layers.separable_conv1d` itself, in a `tf.Graph`."""

import warnings
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

import flax_sepconv as fsc
from tests import peers, settings
from tests.settings import Answer, Setting

X = np.random.default_rng(0).standard_normal((2, 17, 3)).astype(np.float32)


class Compact(nn.Module):
    """A module that runs a function in its compact method."""

    body: Callable[[Any], Any]

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return self.body(x)


def ours(setting: Setting) -> Answer:
    arguments = setting.arguments(fsc)
    model = Compact(lambda x: fsc.separable_conv1d(x, name="layer", **arguments))

    def apply(weights: dict[str, Any], x: Any) -> tuple[Any, Any]:
        return model.apply({"params": {"layer": weights}}, x, mutable=["losses"])

    return settings.answer_of_jax(apply, setting)


def layer_of_tensorflow(*args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        return peers.tf().compat.v1.layers.separable_conv1d(*args, **kwargs)


def tensorflow_1(setting: Setting) -> Answer:
    tf, keras = peers.tf(), peers.tf_keras()
    v1 = tf.compat.v1
    weights, x = setting.numbers()
    initializers = {
        f"{name.removesuffix('_kernel')}_initializer": v1.constant_initializer(weight)
        for name, weight in weights.items()
    }
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        inputs = v1.placeholder(x.dtype, x.shape)
        y = layer_of_tensorflow(inputs, **setting.arguments(keras), **initializers, name="layer")
        variables = v1.get_collection(v1.GraphKeys.TRAINABLE_VARIABLES)
        assert [v.op.name for v in variables] == [f"layer/{name}" for name in weights]
        losses = v1.get_collection(v1.GraphKeys.REGULARIZATION_LOSSES)
        total = tf.reduce_sum(y * setting.cotangent(y.shape)) + sum(losses)
        gradients = tf.gradients(total, [inputs, *variables])
        session.run(v1.global_variables_initializer())
        y, losses, gradients = session.run([y, losses, gradients], {inputs: x})
    return Answer.of(y, losses, dict(zip(["inputs", *weights], gradients, strict=True)))


@pytest.mark.parametrize("steps", settings.STEPS)
@pytest.mark.parametrize("padding", settings.PADDINGS)
@settings.examples(4)
@hypothesis.given(data=st.data())
def test_random_layers(padding: str, steps: str, data: st.DataObject) -> None:
    layers = settings.layers(
        paddings=[padding],
        data_formats=["channels_last"],  # in a graph, the CPU has no other
        steps=[settings.STEPS[steps]],
        activations=[None, *settings.KERAS_2_ACTIVATIONS],
        dtypes=["float32", "float64"],
    )
    setting = data.draw(layers)
    settings.assert_same_answer(ours(setting), tensorflow_1(setting), setting)


# What a graph and a Flax model have in common: the weights by path, which of them are trainable,
# the outputs and the losses. Both are described by calls of one function.
Call = dict[str, Any]


def tensorflow_says(*calls: Call) -> dict[str, Any]:
    """Build the calls in a graph, and run it."""
    tf = peers.tf()
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        v1.set_random_seed(0)
        outputs = []
        for call in calls:
            reuse = v1.AUTO_REUSE if call.get("reuse") == "auto" else call.get("reuse")
            outputs.append(layer_of_tensorflow(tf.constant(X), **{**call, "reuse": reuse}))
        variables = {v.op.name: v for v in v1.global_variables()}
        session.run([v.initializer for v in variables.values()])
        losses: dict[str, Any] = {}
        for loss in v1.get_collection(v1.GraphKeys.REGULARIZATION_LOSSES):
            # "conv/bias/Regularizer/mul", "conv/ActivityRegularizer/truediv", "conv_1/Activity..."
            layer, what = loss.op.name.split("/")[:2]
            what = "activity" if what == "ActivityRegularizer" else f"{what}_loss"
            name = f"{layer.removesuffix('_1').removesuffix('_2')}/{what}"
            assert name not in losses or what == "activity"
            losses[name] = losses.get(name, 0) + loss
        ys, weights, losses = session.run([outputs, variables, losses])
        return {
            "outputs": ys,
            "weights": weights,
            "trainable": {v.op.name for v in v1.trainable_variables()},
            "losses": losses,
        }


def flax_says(weights: dict[str, np.ndarray], *calls: Call) -> dict[str, Any]:
    """Make the same calls in a compact method, initialise, and apply with the weights given."""
    model = Compact(lambda x: [fsc.separable_conv1d(x, **call) for call in calls])
    variables = model.init(jax.random.key(0), X)
    assert "losses" not in variables
    given = jax.tree.map_with_path(
        lambda path, _: weights["/".join(key.key for key in path[1:])], variables
    )
    ys, recorded = model.apply(given, X, mutable=["losses"])
    losses = by_path(recorded.get("losses", {}))
    total = float(fsc.regularization_loss(recorded))
    np.testing.assert_allclose(total, sum(losses.values()), rtol=1e-6)
    return {
        "outputs": ys,
        "weights": {name for collection in given.values() for name in by_path(collection)},
        "trainable": set(by_path(variables.get("params", {}))),
        "losses": losses,
    }


def by_path(tree: Any) -> dict[str, Any]:
    return {"/".join(key.key for key in path): x for path, x in jax.tree.leaves_with_path(tree)}


FIRST = {
    "filters": 5,
    "kernel_size": 4,
    "name": "conv",
    "padding": "same",
    "bias_initializer": "ones",
    "depthwise_regularizer": "l2",
    "pointwise_regularizer": "l1",
    "bias_regularizer": "l2",
    "activity_regularizer": "l2",
}
SECOND = FIRST | {"name": "other", "dilation_rate": 2, "activation": "tanh"}
AGAIN = SECOND | {"name": "conv", "reuse": True}
NO_BIAS = {"use_bias": False, "bias_regularizer": None}


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param([FIRST], id="one"),
        pytest.param([FIRST | {"trainable": False}], id="not trainable"),
        pytest.param([FIRST, SECOND], id="two names"),
        pytest.param([FIRST, SECOND | {"trainable": False}], id="one of two trainable"),
        pytest.param([FIRST, AGAIN], id="reuse"),
        pytest.param([FIRST, AGAIN, AGAIN | {"strides": 3, "dilation_rate": 1}], id="reuse twice"),
        pytest.param([FIRST, AGAIN | {"reuse": "auto"}], id="auto shares"),
        pytest.param([FIRST | {"reuse": "auto"}], id="auto creates"),
        pytest.param([FIRST | {"reuse": "auto"}, AGAIN | {"reuse": "auto"}], id="auto auto"),
        pytest.param([FIRST | {"reuse": False}, AGAIN], id="false, then true"),
        pytest.param([FIRST | {"trainable": False}, AGAIN], id="the first decides trainable"),
        pytest.param([FIRST, AGAIN | {"trainable": False}], id="the second does not"),
        pytest.param([FIRST, AGAIN | NO_BIAS], id="reuse without the bias"),
        pytest.param(
            [FIRST | {"depthwise_regularizer": None}, AGAIN], id="the first decides regularizers"
        ),
        pytest.param([FIRST | NO_BIAS, AGAIN | {"reuse": "auto"}], id="auto adds the bias"),
        pytest.param([FIRST, SECOND, AGAIN], id="reuse the first of two"),
        pytest.param([FIRST, SECOND, AGAIN | {"name": "other"}], id="reuse the second of two"),
    ],
)
def test_graph_and_flax_model_are_alike(calls: list[Call]) -> None:
    graph = tensorflow_says(*calls)
    model = flax_says(graph["weights"], *calls)
    assert model["weights"] == set(graph["weights"])
    assert model["trainable"] == graph["trainable"]
    for actual, desired in zip(model["outputs"], graph["outputs"], strict=True):
        settings.assert_close(actual, desired, terms=20, dtype="float32", what="output")
    assert model["losses"].keys() == graph["losses"].keys()
    for name, loss in graph["losses"].items():
        assert loss > 0
        np.testing.assert_allclose(model["losses"][name], loss, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param([FIRST, AGAIN | {"reuse": None}], id="the name is taken"),
        pytest.param([FIRST, AGAIN | {"reuse": False}], id="the name is taken, reuse=False"),
        pytest.param([FIRST | {"reuse": True}], id="nothing to reuse"),
        pytest.param([FIRST, AGAIN | {"name": "other"}], id="nothing of this name to reuse"),
        pytest.param([FIRST, AGAIN | {"name": None}], id="reuse without a name"),
        pytest.param([FIRST, AGAIN | {"filters": 6}], id="other filters"),
        pytest.param([FIRST, AGAIN | {"kernel_size": 3}], id="other kernel_size"),
        pytest.param([FIRST, AGAIN | {"depth_multiplier": 2}], id="other depth_multiplier"),
        pytest.param([FIRST, AGAIN | {"filters": 6, "reuse": "auto"}], id="auto, other filters"),
        pytest.param([FIRST | NO_BIAS, AGAIN], id="no bias to reuse"),
        pytest.param([FIRST | {"reuse": "sometimes"}], id="unknown reuse"),
    ],
)
def test_both_refuse(calls: list[Call]) -> None:
    with pytest.raises(ValueError, match=r"."):
        tensorflow_says(*calls)
    model = Compact(lambda x: [fsc.separable_conv1d(x, **call) for call in calls])
    with pytest.raises(ValueError, match=r"name|reuse"):
        model.init(jax.random.key(0), X)


def test_weights_of_unnamed_layers_do_not_mix() -> None:
    call = {"filters": 5, "kernel_size": 4}
    graph = tensorflow_says(call, call)
    model = Compact(lambda x: [fsc.separable_conv1d(x, **call) for _ in range(2)])
    variables = model.init(jax.random.key(0), X)
    assert len(jax.tree.leaves(variables["params"])) == len(graph["weights"]) == 6
