"""Constraints and losses through `nnx.bridge`, from linen to nnx and back."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import flax_sepconv as fsc
from flax_sepconv.constraints import NonNeg, Stacked

X = np.random.default_rng(0).standard_normal((2, 9, 3)).astype(np.float32)
KEY = jax.random.key(0)
SAID = {"depthwise_constraint": "non_neg", "depthwise_regularizer": "l2"}
ARGUMENTS = {"filters": 3, "kernel_size": 4, "padding": "same", **SAID}
LAYER = fsc.SeparableConv1D(**ARGUMENTS)
LIFTED = {"variable_axes": {"params": 1, "losses": 0}, "split_rngs": {"params": True}}


class Loop(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return fsc.SeparableConv1D(**ARGUMENTS, name="conv")(x), None


class Stack(nnx.Module):
    """A stack of two layers, and a list of one."""

    def __init__(self, *, rngs):
        @nnx.split_rngs(splits=2)
        @nnx.vmap
        def make(rngs):
            return fsc.nnx.SeparableConv1D(3, **ARGUMENTS, rngs=rngs)

        self.stack = make(rngs)
        self.one = nnx.List([fsc.nnx.SeparableConv1D(3, **ARGUMENTS, rngs=rngs)])

    def __call__(self, x):
        return self.one[0](nnx.vmap(lambda layer: layer(x))(self.stack).sum(0))


class Bridged(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nnx.bridge.to_linen(fsc.nnx.SeparableConv1D, 3, **ARGUMENTS)(x), None


def kernels(tree):
    """Return all depthwise kernels of a tree by path, and what L2 gives for them by hand."""
    found = {
        jax.tree_util.keystr(path): np.asarray(leaf, np.float64)
        for path, leaf in jax.tree.leaves_with_path(tree)
        if "depthwise_kernel" in jax.tree_util.keystr(path)
    }
    return found, 0.01 * sum((kernel**2).sum() for kernel in found.values())


def constraints(tree):
    """Return the constraints that there are, by path."""
    return {
        jax.tree_util.keystr(path).replace("'", "").replace("][", "/"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree, is_leaf=callable)
    }


@pytest.mark.parametrize(
    ("module", "inputs", "expected"),
    [
        (LAYER, (X,), {"[depthwise_kernel]": NonNeg()}),
        (nn.remat(fsc.SeparableConv1D)(**ARGUMENTS), (X,), {"[depthwise_kernel]": NonNeg()}),
        (fsc.SeparableConv1D(**ARGUMENTS, trainable=False), (X,), {}),
        (
            nn.Sequential([fsc.DepthwiseConv1D(4, **SAID), nn.LayerNorm(), nn.relu, nn.Dense(3)]),
            (X,),
            {"[layers_0/depthwise_kernel]": NonNeg()},
        ),
        (
            nn.Sequential([nn.Dense(3), LAYER.copy(), nn.relu]),
            (X,),
            {"[layers_1/depthwise_kernel]": NonNeg()},
        ),
        (
            nn.scan(Loop, **LIFTED, length=2)(),
            (X, None),
            {"[conv/depthwise_kernel]": Stacked(NonNeg(), 1)},
        ),
        (
            nnx.bridge.to_linen(Stack),
            (X,),
            {
                "[one/0/depthwise_kernel]": NonNeg(),
                "[stack/depthwise_kernel]": Stacked(NonNeg(), 0),
            },
        ),
        (
            nn.scan(Bridged, **LIFTED, length=2)(),
            (X, None),
            {"[ToLinen_0/depthwise_kernel]": Stacked(NonNeg(), 1)},
        ),
    ],
    ids=[
        "layer",
        "remat",
        "not trainable",
        "depthwise",
        "sequential",
        "scan",
        "to linen",
        "scan to linen",
    ],
)
def test_linen_models_and_what_the_bridge_makes_of_them_say_the_same(module, inputs, expected):
    assert constraints(fsc.constraints_of(module, KEY, *inputs)) == expected
    variables = module.init(KEY, *inputs)
    _, recorded = module.apply(variables, *inputs, mutable=["losses"])
    wanted = kernels(nn.meta.unbox({c: v for c, v in variables.items() if c != "losses"}))[1]
    np.testing.assert_allclose(fsc.regularization_loss(recorded), wanted, rtol=1e-5)

    model = fsc.nnx.from_linen(module, *inputs, rngs=nnx.Rngs(0))
    found = constraints(nnx.to_pure_dict(fsc.nnx.constraints_of(model)))
    assert found == expected
    before = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngState)))
    model(*inputs, mutable=["losses"])  # Records losses beside the weights.
    weights = kernels(before)
    np.testing.assert_allclose(fsc.nnx.regularization_loss(model), weights[1], rtol=1e-5)
    after = kernels(nnx.to_pure_dict(nnx.state(model)))[0]
    for path, kernel in weights[0].items():
        np.testing.assert_array_equal(after[path], kernel)


def test_one_layer_needs_no_more_than_the_bridge():
    layer = fsc.SeparableConv1D(**ARGUMENTS, activity_regularizer="l1")
    model = nnx.bridge.ToNNX(layer, rngs=nnx.Rngs(0)).lazy_init(X)
    assert fsc.nnx.constraints_of(model)["depthwise_kernel"] == NonNeg()
    with pytest.raises(ValueError, match=r"no call recorded the loss activity: .*mutable="):
        fsc.nnx.regularization_loss(model)
    for _ in range(2):
        y = model(X, mutable=["losses"])
        loss = kernels(nnx.to_pure_dict(nnx.state(model, nnx.Param)))[1]
        loss += 0.01 * np.abs(np.asarray(y, np.float64)).sum() / 2
        np.testing.assert_allclose(fsc.nnx.regularization_loss(model), loss, rtol=1e-5)


def test_the_bridge_alone_does_not_tell_what_is_inside():
    block = nn.Sequential([fsc.SeparableConv1D(3, 4, **SAID)])
    model = nnx.bridge.ToNNX(block, rngs=nnx.Rngs(0)).lazy_init(X)
    for ask in (fsc.nnx.constraints_of, fsc.nnx.regularization_loss):
        with pytest.raises(ValueError, match=r"layers_0/bias .* inside Sequential; .*from_linen"):
            ask(model)
    other = nnx.bridge.ToNNX(nn.Dense(3), rngs=nnx.Rngs(0)).lazy_init(X)
    assert constraints(nnx.to_pure_dict(fsc.nnx.constraints_of(other))) == {}
    assert fsc.nnx.regularization_loss(other) == 0


def test_training_across_the_bridge():
    class Model(nnx.Module):
        def __init__(self, rngs):
            block = nn.Sequential([fsc.SeparableConv1D(**ARGUMENTS), nn.Dense(3)])
            self.block = fsc.nnx.from_linen(block, X, rngs=rngs)
            self.head = fsc.nnx.SeparableConv1D(3, **ARGUMENTS, rngs=rngs)

        def __call__(self, x):
            return self.head(self.block(x))

    model = Model(nnx.Rngs(0))
    projection = fsc.keep_params_constrained(fsc.nnx.constraints_of(model))
    optimizer = nnx.Optimizer(model, optax.chain(optax.adam(0.2), projection), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            return jnp.mean((model(X) + 1) ** 2) + fsc.nnx.regularization_loss(model)

        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    losses = [float(step(model, optimizer)) for _ in range(5)]
    assert losses[-1] < losses[0]
    for kernel in kernels(nnx.to_pure_dict(nnx.state(model, nnx.Param)))[0].values():
        assert (kernel >= 0).all()
        assert (kernel == 0).any()
