"""Packed rows: every sequence as if it were alone."""

import functools
import random

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import flax_sepconv as fsc
from flax_sepconv import ops
from tests import oracle
from tests.settings import examples

X, K, P = jnp.ones((2, 11, 3)), jnp.ones((4, 3, 2)), jnp.ones((1, 6, 5))
IDS = jnp.zeros((2, 11), jnp.int32)


def packed(rng, B, L):
    """Cut each row into sequences; return ids, some of which come again, and (row, begin, end)."""
    ids, spans = np.zeros((B, L), np.int32), []
    for b in range(B):
        borders = sorted(rng.sample(range(1, L), rng.randint(0, min(6, L - 1))))
        names = rng.sample(range(-3, 9), 3)
        for i, (begin, end) in enumerate(zip([0, *borders], [*borders, L], strict=True)):
            ids[b, begin:end] = names[i % 3]
            spans.append((b, begin, end))
    return ids, spans


def close(actual, desired):
    np.testing.assert_allclose(actual, desired, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lowering", [None, "shifted_sum"])
@given(number=st.integers(0, 2**64 - 1))
@examples(10)
def test_sequences_are_as_alone(lowering, number):
    rng = random.Random(number)
    padding, D, M = rng.choice(("same", "causal")), rng.choice((1, 1, 2, 3)), rng.choice((1, 2))
    B, C, K, F = rng.sample([n for n in range(1, 9) if n != M], 4)
    L = rng.choice((rng.randint(1, 30), rng.randint(120, 300)))
    ids, spans = packed(rng, B, L)
    numbers = np.random.default_rng(rng.getrandbits(32))
    x = numbers.standard_normal((B, L, C))
    k, p = numbers.standard_normal((K, C, M)), numbers.standard_normal((1, C * M, F))
    bias, dy = numbers.standard_normal(F), numbers.standard_normal((B, L, F))
    y, dx = np.zeros((B, L, F)), np.zeros_like(x)
    dk, dp = np.zeros_like(k), np.zeros_like(p)
    for b, begin, end in spans:
        row = np.s_[b : b + 1, begin:end]
        y[row] = oracle.separable(x[row], k, p, bias, D=D, padding=padding)
        dx[row], *rest = oracle.separable_vjp(x[row], k, p, dy[row], D=D, padding=padding)
        dk, dp = dk + rest[0], dp + rest[1]

    @jax.jit
    def evaluate(x, k, p, bias, ids):
        settings = {"padding": padding, "dilation_rate": D, "segment_ids": ids}
        settings["implementation"] = lowering
        layer = functools.partial(ops.separable_conv1d, **settings)
        y, pullback = jax.vjp(layer, x, k, p, bias)
        return ops.depthwise_conv1d(x, k, **settings), y, *pullback(dy)

    with jax.enable_x64(True):
        h, *results = map(np.asarray, evaluate(x, k, p, bias, ids))
        for ours, theirs in zip(results, (y, dx, dk, dp, dy.sum((0, 1))), strict=True):
            close(ours, theirs)
        for b, begin, end in spans:
            row = np.s_[b : b + 1, begin:end]
            close(h[row], oracle.depthwise(x[row], k, D=D, padding=padding))
        # What is not finite stays in its own sequence, in outputs and in input gradients.
        b, begin, end = rng.choice(spans)
        x[b, begin:end] = np.nan
        _, *spoiled = evaluate(x, k, p, bias, ids)
    own = np.zeros((B, L), bool)
    own[b, begin:end] = True
    close(np.asarray(spoiled[0])[~own], y[~own])
    close(spoiled[1], dx)


@pytest.mark.parametrize("padding", ["same", "causal"])
def test_transformations(padding):
    rng = np.random.default_rng(0)
    x, k = rng.standard_normal((2, 3, 12, 2)), rng.standard_normal((5, 2, 2))
    ids = np.sort(rng.integers(0, 4, (2, 3, 12)))
    layer = functools.partial(ops.depthwise_conv1d, padding=padding)
    layer = jax.jit(layer, static_argnames="data_format")
    with jax.enable_x64(True):
        each = jnp.stack([layer(x[i], k, segment_ids=ids[i]) for i in range(2)])
        close(layer(x, k, segment_ids=ids), each)
        close(jax.vmap(lambda x, n: layer(x, k, segment_ids=n))(x, ids), each)
        first = layer(x.swapaxes(-1, -2), k, segment_ids=ids, data_format="channels_first")
        close(first.swapaxes(-1, -2), each)
        scanned = jax.lax.scan(lambda c, n: (c, layer(n[0], k, segment_ids=n[1])), 0, (x, ids))
        close(scanned[1], each)
        loss = jax.jit(lambda x, k: (layer(x, k, segment_ids=ids) ** 3).sum())
        jax.test_util.check_grads(loss, (x, k), order=2, modes=("fwd", "rev"))


def test_together_with_lengths():
    """Packed rows may have a tail."""
    rng = np.random.default_rng(0)
    x, k = rng.standard_normal((1, 12, 2)), rng.standard_normal((4, 2, 1))
    ids = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0, 0]])
    x[:, 9:] = np.nan
    with jax.enable_x64(True):
        h = ops.depthwise_conv1d(x, k, padding="same", segment_ids=ids, lengths=[9])
    close(h[:, :4], oracle.depthwise(x[:, :4], k, padding="same"))
    close(h[:, 4:9], oracle.depthwise(x[:, 4:9], k, padding="same"))
    assert not np.asarray(h[:, 9:]).any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sums_of_16_bits_are_made_in_32(dtype):
    rng = np.random.default_rng(0)
    x, k = (jnp.asarray(rng.standard_normal(shape), dtype) for shape in ((2, 40, 3), (31, 3, 1)))
    ids = np.sort(rng.integers(0, 3, (2, 40)))
    layer = functools.partial(ops.depthwise_conv1d, padding="same", segment_ids=ids)
    exact = layer(x.astype("float32"), k.astype("float32"))
    assert layer(x, k).dtype == dtype
    np.testing.assert_array_equal(layer(x, k), exact.astype(dtype))


def test_layers():
    linen = fsc.SeparableConv1D(5, 4, padding="causal", activation="sigmoid")
    x = np.random.default_rng(0).standard_normal((2, 11, 3)).astype(np.float32)
    variables = linen.init(jax.random.key(0), x)
    ids = np.array([[0] * 4 + [1] * 7, [3] * 10 + [2]])
    y = linen.apply(variables, x, segment_ids=ids)
    np.testing.assert_allclose(y[:1, 4:], linen.apply(variables, x[:1, 4:]), rtol=1e-5)
    layer = fsc.nnx.SeparableConv1D(
        3, 5, 4, padding="causal", activation="sigmoid", rngs=nnx.Rngs(0)
    )
    for name, weight in variables["params"].items():
        getattr(layer, name)[...] = weight
    np.testing.assert_allclose(layer(x, segment_ids=ids), y, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"padding": "valid"}, ValueError, r"segment_ids need padding 'same'.*padding='valid'"),
        ({"strides": 2}, ValueError, r"segment_ids need .*strides 1, got .*strides=2"),
        ({"segment_ids": IDS[0]}, ValueError, r"segment_ids must have shape \(2, 11\).*\(11,\)"),
        ({"segment_ids": IDS[:, :5]}, ValueError, r"segment_ids must have shape .*\(2, 5\)"),
        ({"segment_ids": X[..., 0]}, TypeError, r"segment_ids must be integers, got .*float32"),
        ({"segment_ids": IDS > 0}, TypeError, r"segment_ids must be integers, got dtype bool"),
        (
            {"implementation": "grouped_conv"},
            NotImplementedError,
            r"'grouped_conv' knows no segments: .* None or one of 'shifted_sum', 'native'",
        ),
    ],
)
def test_refusals(arguments, error, message):
    arguments = {"padding": "same", "segment_ids": IDS, **arguments}
    with pytest.raises(error, match=message):
        ops.depthwise_conv1d(X, K, **arguments)
    with pytest.raises(error, match=message):
        ops.separable_conv1d(X, K, P, **arguments)
