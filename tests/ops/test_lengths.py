"""Ragged batches: every row as the sequence alone, whatever stands behind its end."""

import dataclasses
import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flax_sepconv import ops
from flax_sepconv.ops.lowerings import LOWERINGS as KNOWN
from tests import oracle
from tests.cases import LOWERINGS
from tests.settings import examples

GARBAGE = (np.nan, np.inf, -np.inf, 1e30)
every_lowering = pytest.mark.parametrize("lowering", [None, *LOWERINGS])


@pytest.fixture(params=["native", "composed"])
def either_way(request, monkeypatch):
    """Let the native kernels stop at the ends, or compose what they compute."""
    if request.param == "composed":
        monkeypatch.setattr(KNOWN["native"], "supports", lambda *_: False)
        monkeypatch.setattr(KNOWN["native"], "limits", frozenset({"whole"}))


@dataclasses.dataclass(frozen=True)
class Ragged:
    """A ragged batch, the settings of the operation, and the seed of all numbers."""

    lengths: tuple[int, ...]
    L: int
    C: int
    K: int
    M: int
    F: int
    S: int
    D: int
    padding: str | tuple[int, int]
    has_bias: bool
    seed: int

    @property
    def settings(self):
        return {"strides": self.S, "dilation_rate": self.D, "padding": self.padding}

    @property
    def oracle(self):
        return {"S": self.S, "D": self.D, "padding": self.padding}

    @property
    def weights(self):
        rng = np.random.default_rng(self.seed)
        k = rng.standard_normal((self.K, self.C, self.M))
        p = rng.standard_normal((1, self.C * self.M, self.F))
        return (k, p, rng.standard_normal(self.F)) if self.has_bias else (k, p)

    def x(self, garbage):
        x = np.random.default_rng(self.seed + 1).standard_normal(
            (len(self.lengths), self.L, self.C)
        )
        return spoil(x, self.lengths, garbage)

    @property
    def ends(self):
        """What the oracle makes of each length."""
        steps = [
            oracle.window(length, self.K, self.S, self.D, self.padding)[1]
            for length in self.lengths
        ]
        return [max(count, 0) for count in steps]

    def alone(self, cotangent):
        """Return the outputs and all gradients, of each sequence by itself, zeros behind."""
        k, p, *bias = self.weights
        x = self.x(0)
        y = np.zeros_like(cotangent)
        dx, dk, dp, db = np.zeros_like(x), np.zeros_like(k), np.zeros_like(p), np.zeros(self.F)
        for b, (length, end) in enumerate(zip(self.lengths, self.ends, strict=True)):
            if not end:
                continue
            row, dy = x[b : b + 1, :length], cotangent[b : b + 1, :end]
            y[b, :end] = oracle.separable(row, k, p, *bias, **self.oracle)
            gradients = oracle.separable_vjp(row, k, p, dy, **self.oracle)
            dx[b, :length] = gradients[0]
            dk += gradients[1]
            dp += gradients[2]
            db += gradients[3]
        return y, (dx, dk, dp, db)[: 3 + len(bias)]


def spoil(array, lengths, garbage):
    """Put garbage behind the ends."""
    array = array.copy()
    for row, length in zip(array, lengths, strict=True):
        row[length:] = garbage
    return array


def draw(number, **fixed):
    """Make a problem of a number; the sizes all differ, so that no swapped axis can pass."""
    rng = random.Random(number)
    pair = rng.randrange(9), rng.randrange(9)
    padding = rng.choice(("valid", "same", "same", "causal", pair, pair, "circular", "reflect"))
    S, D = rng.choice(((1, 1), (1, 1), (2, 1), (3, 1), (5, 1), (1, 2), (1, 3), (2, 3), (4, 2)))
    M = rng.choice((1, 1, 2))
    B, C, K, F = rng.sample([n for n in range(1, 9) if n != M], 4)
    least = 1 if isinstance(padding, str) else max(1, D * (K - 1) + 1 - sum(padding))
    least = D * (K - 1) + 1 if padding == "valid" else least
    L = least + rng.randrange(20)
    lengths = [rng.randint(0, L) for _ in range(B)]
    lengths[rng.randrange(B)] = rng.choice((0, 1, L))
    drawn = {
        "lengths": tuple(lengths),
        "has_bias": rng.random() < 0.7,
        "seed": rng.getrandbits(32),
    }
    sizes = {"L": L, "C": C, "K": K, "M": M, "F": F, "S": S, "D": D, "padding": padding}
    return Ragged(**{**drawn, **sizes, **fixed})


problems = st.integers(0, 2**64 - 1).map(draw)


def layer_of(problem, lowering=None):
    def layer(x, weights, lengths):
        k, p, *bias = weights
        return ops.separable_conv1d(
            x, k, p, *bias, **problem.settings, lengths=lengths, implementation=lowering
        )

    return layer


def close(actual, desired):
    np.testing.assert_allclose(actual, desired, rtol=1e-9, atol=1e-9)


@given(problem=problems, garbage=st.sampled_from(GARBAGE))
@examples(12)
def test_rows_are_sequences_alone_and_garbage_changes_nothing(either_way, problem, garbage):
    check_rows(None, problem, garbage)


@every_lowering
@given(problem=problems, garbage=st.sampled_from(GARBAGE))
@examples(6)
def test_rows_by_every_lowering(lowering, problem, garbage):
    check_rows(lowering, problem, garbage)


def check_rows(lowering, problem, garbage):
    steps = max(oracle.window(problem.L, problem.K, problem.S, problem.D, problem.padding)[1], 0)
    shape = (len(problem.lengths), steps, problem.F)
    cotangent = np.random.default_rng(problem.seed + 2).standard_normal(shape)
    expected, gradients = problem.alone(cotangent)

    @jax.jit
    def evaluate(x, weights, lengths, cotangent):
        layer = functools.partial(layer_of(problem, lowering), lengths=lengths)
        y, pullback = jax.vjp(layer, x, weights)
        settings = {"lengths": lengths, "implementation": lowering, **problem.settings}
        return ops.depthwise_conv1d(x, weights[0], **settings), y, pullback(cotangent)

    with jax.enable_x64(True):
        lengths = np.asarray(problem.lengths, np.int32)
        spoiled = spoil(cotangent, problem.ends, garbage)
        found = evaluate(problem.x(garbage), problem.weights, lengths, spoiled)
        clean = evaluate(problem.x(0), problem.weights, lengths, cotangent)
    # In NumPy: there no cut is a program.
    h, y, (dx, weights) = jax.tree.map(np.asarray, found)
    close(y, expected)
    for actual, desired in zip((dx, *weights), gradients, strict=True):
        close(actual, desired)
    for b, (length, end) in enumerate(zip(problem.lengths, problem.ends, strict=True)):
        assert not h[b, end:].any()
        assert not y[b, end:].any()
        if end:
            alone = problem.x(0)[b : b + 1, :length], problem.weights[0]
            close(h[b, :end], oracle.depthwise(*alone, **problem.oracle)[0])
    for row, length in zip(dx, problem.lengths, strict=True):
        assert not row[length:].any()
    assert jax.tree.all(jax.tree.map(np.array_equal, (h, y, (dx, weights)), clean))


FIXED = {
    "valid": draw(1, S=2, D=2, padding="valid", L=17, K=3, lengths=(17, 0, 9, 4, 16)),
    "same": draw(2, S=1, D=3, padding="same", L=17, K=4, lengths=(17, 0, 9, 4, 16)),
    "same, strided": draw(3, S=3, D=1, padding="same", L=17, K=4, lengths=(17, 0, 9, 4, 16)),
    "causal": draw(4, S=2, D=1, padding="causal", L=17, K=4, lengths=(17, 0, 9, 4, 16)),
}
every_padding = pytest.mark.parametrize("problem", FIXED.values(), ids=FIXED)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@every_padding
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (1, 1)])
def test_vmap_over_inputs_lengths_and_both(x64, problem, axes):
    layer, weights = jax.jit(layer_of(problem)), problem.weights
    x = np.stack([problem.x(np.nan), problem.x(np.inf) * 2], axis=axes[0] or 0)
    n = np.stack([problem.lengths, problem.lengths[::-1]], axis=axes[1] or 0)
    x = x if axes[0] is not None else problem.x(0)
    n = n if axes[1] is not None else np.asarray(problem.lengths)
    mapped = jax.jit(jax.vmap(layer, in_axes=(axes[0], None, axes[1])))(x, weights, n)
    mapped = np.asarray(mapped)
    for i in range(2):
        one = x if axes[0] is None else x.take(i, axes[0])
        own = n if axes[1] is None else n.take(i, axes[1])
        close(mapped[i], layer(one, weights, own))


@every_padding
@pytest.mark.usefixtures("either_way")
def test_scan_over_batches(x64, problem):
    layer, weights = layer_of(problem), problem.weights
    x = np.stack([problem.x(np.nan), problem.x(0) * 2])
    n = np.stack([problem.lengths, [max(length - 1, 0) for length in problem.lengths]])

    def total(weights, x, n):
        def step(carry, batch):
            return carry + (layer(batch[0], weights, batch[1]) ** 2).sum(), None

        return jax.lax.scan(step, 0.0, (x, n))[0]

    def unrolled(weights, x, n):
        return sum((layer(x[i], weights, n[i]) ** 2).sum() for i in range(2))

    scanned, expected = (
        jax.jit(jax.value_and_grad(loss, (0, 1)))(weights, x, n) for loss in (total, unrolled)
    )
    jax.tree.map(close, scanned, expected)


@every_padding
@pytest.mark.usefixtures("either_way")
def test_both_modes_of_differentiation_to_second_order(x64, problem):
    layer, weights = layer_of(problem), problem.weights
    n = np.asarray(problem.lengths)

    def loss(x, weights):
        return (layer(jnp.asarray(x), weights, n) ** 3).sum()

    def by_loops(x, weights):
        rows = [
            layer(x[b : b + 1, :length], weights, None)
            for b, (length, end) in enumerate(zip(n, problem.ends, strict=True))
            if end
        ]
        return sum((row**3).sum() for row in rows)

    x, v = problem.x(0), problem.x(0)[:, ::-1]
    grad = lambda f: lambda x: jax.grad(f)(x, weights)  # noqa: E731

    def both(loss):
        forward = lambda x, v: jax.jvp(grad(loss), (x,), (v,))  # noqa: E731
        return jax.jit(lambda x, v: (forward(x, v), jax.vjp(grad(loss), x)[1](v)))

    ours = both(loss)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-7),
        ours(x, v),
        both(by_loops)(x, v),
    )
    jax.tree.map(
        np.testing.assert_array_equal,
        ours(problem.x(np.nan), spoil(v, problem.lengths, np.nan))[0],
        ours(x, spoil(v, problem.lengths, 0))[0],
    )


@every_padding
@pytest.mark.usefixtures("either_way")
def test_remat_and_linear_transpose(x64, problem):
    layer, n = layer_of(problem), np.asarray(problem.lengths)

    @jax.jit
    def pairs(x, weights):
        loss = lambda x: (layer(x, weights, n) ** 2).sum()  # noqa: E731
        remat = jax.grad(jax.checkpoint(loss))(x), jax.grad(loss)(x)
        linear = lambda x: layer(x, weights[:2], n)  # noqa: E731
        y = linear(x)
        of_x = jax.linear_transpose(linear, x)(y), jax.vjp(linear, x)[1](y)
        jointly = lambda *pointwise: layer(x, (weights[0], *pointwise), n)  # noqa: E731
        of_pointwise = (
            jax.linear_transpose(jointly, *weights[1:])(y),
            jax.vjp(jointly, *weights[1:])[1](y),
        )
        return remat, of_x, of_pointwise

    for ours, theirs in pairs(problem.x(np.nan), problem.weights):
        jax.tree.map(close, ours, theirs)


def test_channels_first_extra_batch_dimensions_and_a_single_sequence(x64):
    problem = draw(5, S=2, D=1, padding="same", L=12, K=3, lengths=(12, 0, 7, 3, 5, 1))
    layer, weights = layer_of(problem), problem.weights
    x, n = problem.x(np.nan), np.asarray(problem.lengths)
    y = layer(x, weights, n)
    shaped = layer(x.reshape(2, 3, *x.shape[1:]), weights, n.reshape(2, 3))
    np.testing.assert_array_equal(shaped.reshape(y.shape), y)
    np.testing.assert_array_equal(layer(x[2], weights, 7), y[2])
    first = functools.partial(ops.separable_conv1d, data_format="channels_first")
    k, p, *bias = weights
    swapped = first(x.swapaxes(1, 2), k, p, *bias, **problem.settings, lengths=n)
    close(swapped.swapaxes(1, 2), y)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint32", "int64"])
def test_lengths_of_any_integer_type(dtype):
    x = np.ones((3, 100, 2), np.float32)
    n = np.asarray([100, 0, 57], dtype)
    layer = functools.partial(ops.depthwise_conv1d, x, np.ones((130, 2, 1), np.float32))
    expected = layer(padding="same", lengths=[100, 0, 57])
    np.testing.assert_array_equal(layer(padding="same", lengths=n), expected)
    jitted = jax.jit(lambda n: layer(padding="same", lengths=n))
    np.testing.assert_array_equal(jitted(jnp.asarray(n)), expected)


@given(number=st.integers(0, 2**64 - 1))
@examples(8)
def test_output_length(number):
    rng = random.Random(number)
    K, S, D = rng.randint(1, 9), rng.randint(1, 6), rng.randint(1, 4)
    padding = rng.choice(("valid", "same", "causal", "SAME"))
    lengths = [rng.randint(0, 100) for _ in range(5)]
    expected = [max(oracle.window(n, K, S, D, padding.lower())[1], 0) for n in lengths]
    count = functools.partial(
        ops.output_length, kernel_size=K, strides=S, padding=padding, dilation_rate=D
    )
    assert [count(n) for n in lengths] == expected
    assert all(type(count(n)) is int for n in lengths)
    for dtype in ("int32", "uint8", "int8"):
        for array in (np.asarray(lengths, dtype), jnp.asarray(lengths, dtype)):
            for counted in (count(array), jax.jit(count)(array), jax.vmap(count)(array)):
                assert counted.dtype == dtype
                np.testing.assert_array_equal(counted, expected)
