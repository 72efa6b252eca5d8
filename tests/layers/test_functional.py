import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_sepconv as fsc
from tests import peers

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 11, 3)), jnp.float32)


def model(function, **attributes):
    """Make a module of a function of x that is run in a compact method."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return function(x)

    return Model(**attributes)


def test_signature_is_that_of_tf1():
    # From the page of tf.compat.v1.layers.separable_conv1d; TensorFlow itself says *args here.
    documented = (
        "inputs filters kernel_size strides padding data_format dilation_rate depth_multiplier "
        "activation use_bias depthwise_initializer pointwise_initializer bias_initializer "
        "depthwise_regularizer pointwise_regularizer bias_regularizer activity_regularizer "
        "depthwise_constraint pointwise_constraint bias_constraint trainable name reuse"
    ).split(" ")
    ours = inspect.signature(fsc.separable_conv1d).parameters
    positional = [n for n, p in ours.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == documented
    peers.tf()
    from tf_keras.src.legacy_tf_layers import convolutional

    theirs = inspect.signature(convolutional.separable_conv1d).parameters
    assert [name for name in theirs if name in documented] == documented
    for name in documented:
        default = theirs[name].default
        if name != "bias_initializer":  # an object there, its name here
            assert ours[name].default == default, name


def test_equals_the_module():
    def call(x):
        return fsc.separable_conv1d(x, 5, 4, 2, "same", activation="relu", name="conv")

    y, variables = model(call).init_with_output(KEY, X)
    layer = fsc.SeparableConv1D(5, 4, 2, "same", activation="relu")
    np.testing.assert_array_equal(y, layer.apply({"params": variables["params"]["conv"]}, X))


def test_unnamed_layers_are_numbered():
    def call(x):
        return fsc.separable_conv1d(x, 5, 4) + fsc.separable_conv1d(x, 5, 4)

    params = model(call).init(KEY, X)["params"]
    assert set(params) == {"SeparableConv1D_0", "SeparableConv1D_1"}
    assert (
        params["SeparableConv1D_0"]["depthwise_kernel"]
        != params["SeparableConv1D_1"]["depthwise_kernel"]
    ).any()


@pytest.mark.parametrize("reuse", [True, "auto"])
def test_shared_weights_under_other_settings(reuse):
    def call(x):
        first = fsc.separable_conv1d(
            x,
            3,
            4,
            padding="same",
            name="conv",
            depthwise_regularizer="l2",
            activity_regularizer="l1",
        )
        second = fsc.separable_conv1d(
            x,
            3,
            4,
            padding="causal",
            dilation_rate=2,
            activation="relu",
            name="conv",
            reuse=reuse,
            depthwise_regularizer=lambda w: 100.0,
            depthwise_constraint="unit_norm",
            activity_regularizer="l1",
        )
        return first, second

    shared = model(call)
    variables = shared.init(KEY, X)
    assert set(variables["params"]) == {"conv"}
    (a, b), recorded = shared.apply(variables, X, mutable=["losses"])
    weights = {"params": variables["params"]["conv"]}
    np.testing.assert_array_equal(a, fsc.SeparableConv1D(3, 4, padding="same").apply(weights, X))
    second = fsc.SeparableConv1D(3, 4, padding="causal", dilation_rate=2, activation="relu")
    np.testing.assert_array_equal(b, second.apply(weights, X))
    # The weight's regularizer and constraint are those of the call that made it; activities add up.
    kernel = weights["params"]["depthwise_kernel"]
    losses = recorded["losses"]["conv"]
    np.testing.assert_allclose(losses["depthwise_kernel_loss"], 0.01 * (kernel**2).sum(), rtol=1e-5)
    activity = 0.01 * (jnp.abs(a).sum() + jnp.abs(b).sum()) / 2
    np.testing.assert_allclose(losses["activity"], activity, rtol=1e-5)
    assert fsc.constraints_of(shared, KEY, X)["conv"]["depthwise_kernel"] is None
    # Both calls contribute to the gradient.
    gradient = jax.grad(lambda p: sum(y.sum() for y in shared.apply({"params": p}, X)))(
        variables["params"]
    )
    alone = [
        jax.grad(lambda p, layer=layer: layer.apply({"params": p}, X).sum())(weights["params"])
        for layer in (fsc.SeparableConv1D(3, 4, padding="same"), second)
    ]
    np.testing.assert_allclose(
        gradient["conv"]["depthwise_kernel"],
        alone[0]["depthwise_kernel"] + alone[1]["depthwise_kernel"],
        rtol=1e-4,
        atol=1e-5,
    )


def test_auto_creates_what_does_not_exist():
    def call(x):
        y = fsc.separable_conv1d(x, 3, 4, use_bias=False, name="conv", reuse="auto")
        return y + fsc.separable_conv1d(
            x, 3, 4, name="conv", reuse="auto", bias_constraint="non_neg"
        )

    assert set(model(call).init(KEY, X)["params"]["conv"]) == {
        "depthwise_kernel",
        "pointwise_kernel",
        "bias",
    }
    assert fsc.constraints_of(model(call), KEY, X)["conv"]["bias"] is not None


def test_trainable_is_settled_by_the_first_call():
    def call(x):
        y = fsc.separable_conv1d(x, 3, 4, name="conv", trainable=False)
        return y + fsc.separable_conv1d(x, 3, 4, name="conv", reuse=True)

    assert set(model(call).init(KEY, X)) == {"non_trainable"}


def test_parent_called_twice_shares_its_layers():
    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            inner = model(lambda x: fsc.separable_conv1d(x, 3, 4, padding="same", name="conv"))
            return inner(inner(x))

    params = Outer().init(KEY, X)["params"]
    assert list(params.values()) == [{"conv": params["Model_0"]["conv"]}]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"name": "conv"}, "name 'conv' is taken.*got None"),
        ({"name": "conv", "reuse": False}, "name 'conv' is taken.*got False"),
        ({"name": "new", "reuse": True}, "no earlier call made a layer 'new'"),
        ({"name": "dense", "reuse": True}, "no earlier call made a layer 'dense'"),
        ({"name": "dense", "reuse": "auto"}, "name 'dense' is taken"),
        ({"reuse": True}, "needs the name"),
        ({"name": "conv", "reuse": "yes"}, "reuse must be .* got 'yes'"),
        ({"name": "conv", "reuse": 1}, "reuse must be .* got 1"),
        (
            {"name": "conv", "reuse": True, "filters": 6},
            r"pointwise_kernel .*\(1, 3, 3\).*\(1, 3, 6\)",
        ),
        ({"name": "conv", "reuse": "auto", "kernel_size": 5}, r"depthwise_kernel .*\(4, 3, 1\)"),
        ({"name": "no_bias", "reuse": True}, "'no_bias' has no bias to share"),
    ],
)
def test_what_cannot_be_shared(second, message):
    def call(x):
        fsc.separable_conv1d(x, 3, 4, name="conv")
        fsc.separable_conv1d(x, 3, 4, name="no_bias", use_bias=False)
        nn.Dense(3, name="dense")(x)
        return fsc.separable_conv1d(x, **({"filters": 3, "kernel_size": 4} | second))

    with pytest.raises(ValueError, match=message):
        model(call).init(KEY, X)


def test_outside_of_a_compact_method():
    with pytest.raises(RuntimeError, match=r"nn\.compact"):
        fsc.separable_conv1d(X, 3, 4)
