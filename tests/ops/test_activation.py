"""The depthwise stage that ends with an activation: the sums, then JAX's own function of them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import flax_sepconv as fsc
from flax_sepconv import ops
from tests import oracle
from tests.cases import LOWERINGS, Case

FUNCTIONS = {"relu": jax.nn.relu, "relu6": jax.nn.relu6, "silu": jax.nn.silu}
CASE = Case(3, 13, 5, 3, S=2, padding="causal")
every_activation = pytest.mark.parametrize("name", FUNCTIONS)
PLACES = {
    "whole": {},
    "ragged": {"lengths": jnp.array([13, 0, 5])},
    "circular": {"padding": "circular"},
    "wide": {"padding": (9, 9)},
}


def arrays(dtype="float32", channels=24, length=40):
    x, k, b = (
        2 * jax.random.normal(jax.random.key(i), shape, dtype)
        for i, shape in enumerate([(3, length, channels), (5, channels, 2), (2 * channels,)])
    )
    return x, k, b


def both(name, **settings):
    """Return the operation with an activation, and the operation and then JAX's function."""
    plain = functools.partial(ops.depthwise_conv1d, **settings)
    return functools.partial(plain, activation=name), lambda *a: FUNCTIONS[name](plain(*a))


@every_activation
@pytest.mark.parametrize("lowering", [None, *LOWERINGS])
def test_output_against_numpy(name, lowering):
    x, k = (a.astype(np.float32) for a in CASE.arrays())
    sums = oracle.depthwise(x, k, **CASE.oracle)
    y = ops.depthwise_conv1d(x, k, activation=name, implementation=lowering, **CASE.settings)
    by_hand = {
        "relu": np.maximum(sums, 0),
        "relu6": np.clip(sums, 0, 6),
        "silu": sums / (1 + np.exp(-sums)),
    }
    np.testing.assert_allclose(y, by_hand[name], rtol=2e-5, atol=2e-5)


@every_activation
@pytest.mark.parametrize("place", PLACES)
def test_gradients_are_those_of_two_steps(name, place):
    case = Case(3, 13, 5, 3, M=2)
    settings = {**case.settings, **PLACES[place]}
    x, k = (jnp.asarray(a, jnp.float32) for a in case.arrays())
    b = jnp.linspace(-1, 1, 10)
    one, two = both(name, **settings)
    y, vjp = jax.vjp(jax.jit(one), x, k, b)
    wanted, of_two = jax.vjp(jax.jit(two), x, k, b)
    cotangent = jax.random.normal(jax.random.key(1), y.shape)
    for a, c in zip((y, *vjp(cotangent)), (wanted, *of_two(cotangent)), strict=True):
        np.testing.assert_allclose(a, c, rtol=2e-5, atol=2e-5)


@every_activation
def test_derivatives_of_both_modes_to_second_order(name):
    with jax.enable_x64(True):
        x, k = CASE.arrays()
        f = functools.partial(ops.depthwise_conv1d, activation=name, **CASE.settings)
        check_grads(f, (x, k, np.ones(CASE.C)), order=2, modes=("fwd", "rev"))


def test_where_it_is_zero_relu_does_not_move():
    """As JAX, TensorFlow and PyTorch have it, where the sums are exactly zero."""
    x, k = jnp.zeros((1, 8, 16)), jnp.ones((3, 16, 1))
    gradient = jax.grad(lambda x: ops.depthwise_conv1d(x, k, activation="relu").sum())(x)
    assert not gradient.any()


@every_activation
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits_are_rounded_once(name, dtype):
    x, k, b = arrays(dtype)
    one, two = both(name, preferred_element_type="float32")
    rounded, wide = both(name)[0](x, k, b), jax.jit(two)(x, k, b)
    assert rounded.dtype == dtype
    np.testing.assert_array_equal(
        rounded.astype(np.float32), one(x, k, b).astype(dtype).astype(np.float32)
    )
    np.testing.assert_allclose(one(x, k, b), wide, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif("native" not in LOWERINGS, reason="the native library is not there")
def test_silu_in_float32_is_as_exact_as_the_numbers():
    """Over the range of float32, and for what is none of its numbers, as JAX's function."""
    z = np.concatenate([np.linspace(-90, 90, 4072), [0, 1e-30, -1e-30, 3e38, -3e38, 1e-3] * 4])
    x = jnp.asarray(z, jnp.float32).reshape(1, -1, 16)
    y = np.asarray(ops.depthwise_conv1d(x, jnp.ones((1, 16, 1)), activation="silu")).ravel()
    wide = np.asarray(x, np.float64).ravel()
    with np.errstate(over="ignore"):
        exact = wide / (1 + np.exp(-wide))
    is_normal = np.abs(exact) > 1e-35
    np.testing.assert_allclose(y[is_normal], exact[is_normal], rtol=1e-6)
    assert np.abs(y[~is_normal]).max() < 2e-35
    odd = jnp.array([jnp.nan, jnp.inf, -jnp.inf] * 16).reshape(1, 3, 16)
    for name, function in FUNCTIONS.items():
        found = ops.depthwise_conv1d(odd, jnp.ones((1, 16, 1)), activation=name)
        np.testing.assert_array_equal(found, function(odd))


@every_activation
@pytest.mark.parametrize("axes", [(1, None, None), (None, 0, 0)], ids=["rows", "kernels"])
def test_vmap(name, axes):
    x, k, b = arrays(channels=6, length=11)
    operands = x, k, b
    if axes[1] == 0:
        operands = x, jnp.moveaxis(k, 2, 0)[..., None], b.reshape(2, 6)
    else:
        operands = jnp.stack([x, 2 * x], 1), k, b
    one, two = (jax.vmap(f, in_axes=axes) for f in both(name))
    np.testing.assert_allclose(one(*operands), two(*operands), rtol=2e-5, atol=2e-5)


@pytest.mark.skipif("native" not in LOWERINGS, reason="the native library is not there")
@pytest.mark.parametrize("activation", ["relu", "relu6", "swish", nn.relu, nn.silu])
def test_a_layer_is_one_call(activation):
    """On CPU nothing but the call of the kernel is left of a layer with one of these."""
    x = arrays()[0]
    layer = fsc.DepthwiseConv1D(kernel_size=3, activation=activation)
    variables = layer.init(jax.random.key(0), x)
    program = jax.jit(layer.apply).lower(variables, x)
    text = program.as_text()
    assert text.count("stablehlo.custom_call") == 1
    assert not any(word in text for word in ("maximum", "logistic", "minimum", "clamp"))


def test_what_it_may_be():
    x, k, _ = arrays()
    with pytest.raises(ValueError, match=r"activation must be .*'relu', 'relu6', 'silu'.*'tanh'"):
        ops.depthwise_conv1d(x, k, activation="tanh")
    with pytest.raises(TypeError, match="unknown argument 'activation'"):
        ops.separable_conv1d(x, k, jnp.ones((1, 48, 2)), activation="relu")
