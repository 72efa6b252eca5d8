"""The depthwise stage with a bias: every lowering and transformation against NumPy float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import flax_sepconv as fsc
from flax_sepconv import ops
from tests import oracle
from tests.cases import CASES, LOWERINGS, Case

BOTH_KINDS = (Case(2, 11, 3, 4, M=2), Case(3, 13, 5, 3, S=2, padding="causal"))
every_lowering = pytest.mark.parametrize("lowering", [None, *LOWERINGS])
some_cases = pytest.mark.parametrize("case", BOTH_KINDS, ids=lambda case: case.id)
HAS_NATIVE = "native" in LOWERINGS


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def setup(case, lowering=None, **more):
    """Return the operation, its operands, and the oracle's output."""
    x, k = case.arrays()
    bias = np.random.default_rng(5).standard_normal(case.C * case.M)
    f = functools.partial(ops.depthwise_conv1d, implementation=lowering, **case.settings, **more)
    return f, x, k, bias, oracle.depthwise(x, k, **case.oracle) + bias


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-11)


@every_lowering
@pytest.mark.parametrize("case", CASES[::2], ids=lambda case: case.id)
def test_output_and_all_gradients(case, lowering):
    f, x, k, bias, expected = setup(case, lowering)
    y = np.random.default_rng(1).standard_normal(expected.shape)
    actual, vjp = jax.vjp(jax.jit(f), x, k, bias)
    close(actual, expected)
    by_hand = (*oracle.depthwise_vjp(x, k, y, **case.oracle), y.sum((0, 1)))
    for gradient, wanted in zip(vjp(y), by_hand, strict=True):
        close(gradient, wanted)


@some_cases
@pytest.mark.parametrize("lengths", [None, "ragged"])
def test_derivatives_of_both_modes_to_second_order(case, lengths):
    n = None if lengths is None else jnp.array([case.L, 0, 5][: case.B])
    f, x, k, bias, _ = setup(case, lengths=n)
    check_grads(f, (x, k, bias), order=2, modes=("fwd", "rev"))


@some_cases
def test_ragged_rows(case):
    """No bias stands behind the ends, and what stands there in x is not read."""
    n = np.array([case.L, 0, 5][: case.B])
    f, x, k, bias, _ = setup(case, lengths=n)
    x[np.arange(case.L) >= n[:, None]] = np.nan
    y, vjp = jax.vjp(f, x, k, bias)
    db = np.zeros_like(bias)
    for row, length in enumerate(n):
        alone = 0
        if length:
            whole = oracle.depthwise(x[row : row + 1, :length], k, **case.oracle)[0] + bias
            alone = len(whole)
            close(y[row, :alone], whole)
            db += alone
        assert not y[row, alone:].any()
    close(vjp(jnp.ones_like(y))[2], db)


@some_cases
def test_vmap(case):
    f, x, k, bias, _ = setup(case)
    xs, ks, biases = (np.stack([each, -2 * each, each + 1]) for each in (x, k, bias))
    for axes in ((0, None, None), (0, 0, None), (None, None, 0), (0, 0, 0)):
        given = [
            many if axis == 0 else one
            for many, one, axis in zip((xs, ks, biases), (x, k, bias), axes, strict=True)
        ]
        y = jax.vmap(f, in_axes=axes)(*given)
        for i in range(3):
            own = [each[i] if axis == 0 else each for each, axis in zip(given, axes, strict=True)]
            close(y[i], oracle.depthwise(*own[:2], **case.oracle) + own[2])


@some_cases
def test_linear_transpose(case):
    f, x, k, bias, expected = setup(case)
    y = np.random.default_rng(1).standard_normal(expected.shape)
    zeros = np.zeros_like(bias)
    dx, _ = oracle.depthwise_vjp(x, k, y, **case.oracle)
    close(jax.linear_transpose(lambda x: f(x, k, zeros), x)(y)[0], dx)
    close(jax.linear_transpose(lambda b: f(np.zeros_like(x), k, b), bias)(y)[0], y.sum((0, 1)))


def test_scan_remat_and_hessian():
    case = Case(2, 9, 3, 4, padding="causal")
    f, x, k, bias, _ = setup(case)

    def loop(bias):
        return jax.lax.scan(lambda x, _: (jax.checkpoint(f)(x, k, bias), None), x, length=2)[0]

    def composed(bias):
        first = ops.depthwise_conv1d(x, k, **case.settings) + bias
        return ops.depthwise_conv1d(first, k, **case.settings) + bias

    close(jax.jit(loop)(bias), composed(bias))
    ours, theirs = (
        jax.jit(jax.hessian(lambda b, g=g: (g(b) ** 3).sum()))(bias) for g in (loop, composed)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sums_of_16_bits_are_made_in_32_and_rounded_once(dtype):
    case = Case(2, 300, 3, 4)
    f, x, k, bias, _ = setup(case)
    x, k, bias = (jnp.asarray(each, dtype) for each in (x, k, bias + 3))
    exact = oracle.depthwise(*(np.asarray(each, np.float64) for each in (x, k)), **case.oracle)
    exact += np.asarray(bias, np.float64)
    y, vjp = jax.vjp(f, x, k, bias)
    eps = float(jnp.finfo(dtype).eps)
    assert y.dtype == dtype
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, rtol=0.51 * eps, atol=1e-5)
    # 600 ones: in bfloat16 the sum would stop at 256.
    np.testing.assert_array_equal(np.asarray(vjp(jnp.ones_like(y))[2], np.float64), 600)


@pytest.mark.skipif(not HAS_NATIVE, reason="needs the native library")
def test_the_native_kernel_adds_the_bias():
    f, x, k, bias, _ = setup(BOTH_KINDS[0])
    text = jax.jit(f).lower(x, k, bias).as_text()
    assert text.count("@flax_sepconv_") == text.count("@flax_sepconv_output_with_bias") == 1
    gradients = jax.jit(jax.grad(lambda *given: (f(*given) ** 2).sum(), (0, 1, 2)))
    text = gradients.lower(x, k, bias).as_text()
    assert text.count("@flax_sepconv_") == 3
    layer = fsc.DepthwiseConv1D(4, padding="same", depth_multiplier=2)
    variables = layer.init(jax.random.key(0), jnp.ones((2, 11, 3), jnp.float32))
    text = jax.jit(layer.apply).lower(variables, jnp.ones((2, 11, 3), jnp.float32)).as_text()
    assert text.count("@flax_sepconv_output_with_bias") == 1
