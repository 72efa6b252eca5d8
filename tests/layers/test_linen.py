import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

import flax_sepconv as fsc
from flax_sepconv.constraints import MaxNorm, NonNeg, Stacked
from tests import oracle

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 11, 3)), jnp.float32)


def test_parameters_and_their_defaults():
    layer = fsc.SeparableConv1D(7, 4, depth_multiplier=5)
    variables = layer.init(KEY, X)
    assert set(variables) == {"params"}
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes == {
        "depthwise_kernel": (4, 3, 5),
        "pointwise_kernel": (1, 15, 7),
        "bias": (7,),
    }
    assert not variables["params"]["bias"].any()
    # Keras' fans: depthwise K*C and K*M, pointwise C*M and F.
    limits = {"depthwise_kernel": (6 / (4 * 3 + 4 * 5)) ** 0.5, "pointwise_kernel": (6 / 22) ** 0.5}
    for name, limit in limits.items():
        largest = float(jnp.abs(variables["params"][name]).max())
        assert 0.9 * limit < largest <= limit
    assert "bias" not in fsc.SeparableConv1D(7, 4, use_bias=False).init(KEY, X)["params"]
    alone = fsc.DepthwiseConv1D(4, depth_multiplier=5).init(KEY, X)["params"]
    assert jax.tree.map(jnp.shape, alone) == {"depthwise_kernel": (4, 3, 5), "bias": (15,)}
    np.testing.assert_array_equal(
        alone["depthwise_kernel"], variables["params"]["depthwise_kernel"]
    )


def test_equals_the_definition():
    layer = fsc.SeparableConv1D(
        5, (4,), padding="SAME", dilation_rate=[2], depth_multiplier=2, activation="relu"
    )
    variables = layer.init(KEY, X)
    weights = dict(variables["params"]) | {"bias": jnp.arange(5.0)}
    y = jax.jit(layer.apply)({"params": weights}, X)
    expected = oracle.separable(
        X,
        weights["depthwise_kernel"],
        weights["pointwise_kernel"],
        weights["bias"],
        D=2,
        padding="same",
    )
    np.testing.assert_allclose(y, np.maximum(expected, 0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spelling", ["Causal", "causal", "CAUSAL"])
def test_causal_output_does_not_see_the_future(spelling):
    layer = fsc.SeparableConv1D(5, 4, padding=spelling, dilation_rate=2)
    variables = layer.init(KEY, X)
    changed = layer.apply(variables, X.at[:, 7:].add(1.0))
    np.testing.assert_array_equal(changed[:, :7], layer.apply(variables, X)[:, :7])
    assert (changed[:, 7] != layer.apply(variables, X)[:, 7]).all()


def test_arguments_by_name_dict_and_object_are_the_same():
    by_name = {"depthwise_constraint": "max_norm", "bias_initializer": "ones", "activation": "gelu"}
    by_dict = {
        "depthwise_constraint": {"class_name": "MaxNorm", "config": {"max_value": 2, "axis": 0}},
        "bias_initializer": {"class_name": "Ones", "config": {}},
        "activation": {"class_name": "gelu", "config": {"approximate": False}},
    }
    by_object = {
        "depthwise_constraint": MaxNorm(2, 0),
        "bias_initializer": fsc.initializers.Ones(),
        "activation": fsc.activations.gelu,
    }
    results = []
    for options in (by_name, by_dict, by_object):
        layer = fsc.SeparableConv1D(5, 4, **options)
        y, variables = layer.init_with_output(KEY, X)
        assert fsc.constraints_of(layer, KEY, X)["depthwise_kernel"] == MaxNorm(2, 0)
        assert (variables["params"]["bias"] == 1).all()
        results.append(y)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_dtypes():
    layer = fsc.SeparableConv1D(5, 4, dtype=jnp.bfloat16, activity_regularizer="l2")
    y, variables = layer.init_with_output(KEY, X)
    assert y.dtype == jnp.bfloat16
    assert variables["params"]["bias"].dtype == jnp.float32
    _, recorded = layer.apply(variables, X, mutable=["losses"])
    assert fsc.regularization_loss(recorded).dtype == jnp.float32
    half = fsc.SeparableConv1D(5, 4, param_dtype=jnp.float16)
    y, variables = half.init_with_output(KEY, X)
    assert variables["params"]["depthwise_kernel"].dtype == jnp.float16
    assert y.dtype == jnp.float32  # promoted with the inputs
    assert half.apply(variables, X.astype(jnp.float16)).dtype == jnp.float16


def test_losses_are_recorded_at_each_call_and_not_in_init():
    layer = fsc.SeparableConv1D(
        5,
        4,
        depthwise_regularizer="l2",
        pointwise_regularizer=lambda w: jnp.abs(w).max(),
        bias_regularizer={"class_name": "L1", "config": {"l1": 0.5}},
        activity_regularizer=fsc.regularizers.L1(0.1),
        bias_initializer="ones",
    )
    variables = layer.init(KEY, X)
    assert set(variables) == {"params"}
    y, recorded = layer.apply(variables, X, mutable=["losses"])
    w = variables["params"]
    expected = {
        "depthwise_kernel_loss": 0.01 * (w["depthwise_kernel"] ** 2).sum(),
        "pointwise_kernel_loss": jnp.abs(w["pointwise_kernel"]).max(),
        "bias_loss": 2.5,
        "activity": 0.1 * jnp.abs(y).sum() / 2,
    }
    assert set(recorded["losses"]) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(recorded["losses"][name], value, rtol=1e-5)
    total = fsc.regularization_loss(recorded)
    np.testing.assert_allclose(total, sum(float(v) for v in expected.values()), rtol=1e-5)
    assert (total.shape, total.dtype) == ((), np.float32)
    assert fsc.regularization_loss(variables) == 0


def test_a_layer_called_twice_records_its_weights_once():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = fsc.SeparableConv1D(
                3, 4, padding="same", pointwise_regularizer="l2", activity_regularizer="l2"
            )
            return layer(x), layer(2 * x)

    model = Twice()
    variables = model.init(KEY, X)
    (a, b), recorded = model.apply(variables, X, mutable=["losses"])
    losses = recorded["losses"]["SeparableConv1D_0"]
    kernel = variables["params"]["SeparableConv1D_0"]["pointwise_kernel"]
    np.testing.assert_allclose(losses["pointwise_kernel_loss"], 0.01 * (kernel**2).sum(), rtol=1e-5)
    activity = 0.01 * ((a**2).sum() + (b**2).sum()) / 2
    np.testing.assert_allclose(losses["activity"], activity, rtol=1e-5)


def test_activity_is_divided_by_all_batch_dimensions():
    layer = fsc.SeparableConv1D(5, 4, activity_regularizer="l1")
    variables = layer.init(KEY, X)
    stacked = jnp.stack([X, 2 * X, 3 * X])
    y, recorded = layer.apply(variables, stacked, mutable=["losses"])
    np.testing.assert_allclose(
        recorded["losses"]["activity"], 0.01 * jnp.abs(y).sum() / 6, rtol=1e-5
    )
    _, recorded = layer.apply(variables, X[:0], mutable=["losses"])
    assert recorded["losses"]["activity"] == 0


def test_not_trainable():
    layer = fsc.SeparableConv1D(
        5, 4, trainable=False, depthwise_regularizer="l2", depthwise_constraint="non_neg"
    )
    variables = layer.init(KEY, X)
    assert set(variables) == {"non_trainable"}
    trainable = fsc.SeparableConv1D(5, 4)
    y = trainable.apply({"params": variables["non_trainable"]}, X)
    np.testing.assert_array_equal(layer.apply(variables, X), y)
    # TF1 regularizes what it does not train; nothing is left to constrain.
    _, recorded = layer.apply(variables, X, mutable=["losses"])
    assert set(recorded["losses"]) == {"depthwise_kernel_loss"}
    assert fsc.constraints_of(layer, KEY, X) == {}


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        options = {"padding": "same", "pointwise_constraint": "non_neg"}
        x = nn.jit(fsc.SeparableConv1D)(4, 3, name="jitted", **options)(x)
        x = nn.remat(fsc.SeparableConv1D)(4, 3, name="rematerialized", **options)(x)
        shared = fsc.SeparableConv1D(4, 3, name="shared", **options)
        x = shared(shared(x))
        return nn.Dense(2, name="head")(x)


def test_constraints_are_found_under_lifted_transformations():
    model = Model()
    constraints = fsc.constraints_of(model, KEY, X)
    for name in ("jitted", "rematerialized", "shared"):
        assert constraints[name] == {
            "depthwise_kernel": None,
            "pointwise_kernel": NonNeg(),
            "bias": None,
        }
    assert constraints["head"] == {"kernel": None, "bias": None}
    # Looking for constraints leaves no trace in what `nn.jit` has cached.
    params = model.init(KEY, X)["params"]
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    chex.assert_trees_all_equal_structs(
        params, jax.tree.map(lambda c: 0, constraints, is_leaf=lambda c: c is None)
    )
    assert fsc.constraints_of(model, {"params": KEY}, X) == constraints


def test_constraints_of_takes_what_init_takes():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, scale, *, train):
            x = nn.BatchNorm(use_running_average=not train)(scale * x if scale else x)
            x = fsc.SeparableConv1D(4, 3, bias_constraint="non_neg", name="conv")(x)
            return nn.Dropout(0.5, deterministic=not train)(x)

    for train in (True, False):
        for x in (X, np.asarray(X), jax.ShapeDtypeStruct(X.shape, X.dtype)):
            rngs = {"params": KEY, "dropout": KEY}
            constraints = fsc.constraints_of(Net(), rngs, x, None, train=train)
            assert constraints["conv"]["bias"] == NonNeg()
            assert set(constraints) == {"BatchNorm_0", "conv"}


def test_constraints_of_partitioned_weights():
    layer = fsc.SeparableConv1D(
        5,
        4,
        pointwise_initializer=nn.with_partitioning(
            nn.initializers.lecun_normal(), (None, None, "model")
        ),
        pointwise_constraint="non_neg",
    )
    params = layer.init(KEY, X)["params"]
    assert isinstance(params["pointwise_kernel"], nn.Partitioned)
    constraints = fsc.constraints_of(layer, KEY, X)
    assert constraints["pointwise_kernel"] == NonNeg()
    updates = jax.tree.map(jnp.negative, params)
    tx = fsc.keep_params_constrained(constraints)
    updates, _ = tx.update(jax.tree.map(lambda u: 2 * u, updates), tx.init(params), params)
    after = jax.tree.map(jnp.add, params, updates)
    assert (meta.unbox(after)["pointwise_kernel"] >= 0).all()


def test_scan_over_layers_runs_and_records():
    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            def body(layer, x, _):
                return layer(x), None

            layer = fsc.SeparableConv1D(
                3, 4, padding="same", depthwise_regularizer="l2", bias_constraint=MaxNorm(1.0)
            )
            scan = nn.scan(
                body,
                variable_axes={"params": 0, "losses": 0},
                split_rngs={"params": True},
                length=6,
            )
            return scan(layer, x, None)[0]

    model = Stack()
    variables = model.init(KEY, X)
    (name,) = variables["params"]
    kernels = variables["params"][name]["depthwise_kernel"]
    assert kernels.shape == (6, 4, 3, 1)
    y, recorded = model.apply(variables, X, mutable=["losses"])
    assert recorded["losses"][name]["depthwise_kernel_loss"].shape == (6,)
    np.testing.assert_allclose(
        fsc.regularization_loss(recorded), 0.01 * (kernels**2).sum(), rtol=1e-5
    )
    expected = X
    for n in range(6):
        weights = jax.tree.map(lambda w, n=n: w[n], variables["params"][name])
        expected = fsc.SeparableConv1D(3, 4, padding="same").apply({"params": weights}, expected)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    assert fsc.constraints_of(model, KEY, X)[name]["bias"] == Stacked(MaxNorm(1.0), 0)


def test_no_second_compilation():
    layer = fsc.SeparableConv1D(5, 4, padding="same", activation="relu", depthwise_regularizer="l2")
    params = layer.init(KEY, X)["params"]

    @jax.jit
    @chex.assert_max_traces(n=1)
    def gradient(params, x):
        def loss(params):
            y, recorded = layer.apply({"params": params}, x, mutable=["losses"])
            return y.sum() + fsc.regularization_loss(recorded)

        return jax.grad(loss)(params)

    gradient(gradient(params, X), X + 1)


def test_layers_compare_by_value():
    """Equal arguments make equal modules: no recompilation where they are static."""

    def make():
        return fsc.SeparableConv1D(5, 4, depthwise_constraint=MaxNorm(1, axis=[0, 1]))

    assert make() == make()
    assert hash(make()) == hash(make())


def test_tabulate_shows_the_layer():
    table = fsc.SeparableConv1D(5, 4, name="conv").tabulate(KEY, X)
    assert "SeparableConv1D" in table
    assert f"Total Parameters: {4 * 3 + 3 * 5 + 5}" in table


def test_intermediates_are_outputs_of_layers():
    layer = fsc.SeparableConv1D(5, 4, trainable=False)
    y, recorded = layer.apply(layer.init(KEY, X), X, capture_intermediates=True)
    assert list(recorded["intermediates"]) == ["__call__"]
    np.testing.assert_array_equal(recorded["intermediates"]["__call__"][0], y)


def test_the_package_lists_its_public_names():
    assert dir(fsc) == sorted(fsc.__all__)
    assert fsc.linen.SeparableConv1D is fsc.SeparableConv1D  # The modules are there all the same.
