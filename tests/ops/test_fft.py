"""Transforms: in frames, some channels at a time, and where they are taken without a name."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sepconv import ops
from flax_sepconv.ops.lowerings import fft
from tests import oracle
from tests.cases import Case

LONG = (2, 4000, 3), (1025, 3, 1)


@pytest.fixture
def short_frames(monkeypatch):
    """Cut rows into frames, and compute two channels at a time."""
    monkeypatch.setattr(fft, "LONGEST_TRANSFORM", 0)
    monkeypatch.setattr(fft, "SHORTEST_FRAME", 8)
    monkeypatch.setattr(fft, "FRAME_REACHES", 2)
    monkeypatch.setattr(fft, "VALUES_AT_ONCE", 1)
    monkeypatch.setattr(fft, "FEWEST_CHANNELS", 2)
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.parametrize(
    "case",
    [
        Case(2, 61, 5, 4, M=2, padding="causal"),
        Case(1, 70, 3, 3, S=3, D=2),
        Case(2, 64, 2, 9, padding="valid"),
    ],
    ids=lambda case: case.id,
)
def test_frames_and_some_channels_at_a_time(case, short_frames):
    f = functools.partial(ops.depthwise_conv1d, implementation="fft", **case.settings)
    x, k = case.arrays(np.float32)
    steps = oracle.window(case.L, case.K, case.S, case.D, case.padding)[1]
    y = np.random.default_rng(1).standard_normal((case.B, steps, case.C * case.M))

    @jax.jit
    def step(x, k, y):
        out, vjp = jax.vjp(f, x, k)
        return (out, *vjp(y))

    program = step.lower(x, k, y.astype(np.float32))
    assert ("stablehlo.while" in program.as_text()) == (case.C > 2)
    frames = fft.Frames.of(case.L, case.D * (case.K - 1), 0, 0)
    assert frames.count > 1
    expected = (
        oracle.depthwise(x, k, **case.oracle),
        *oracle.depthwise_vjp(x, k, y, **case.oracle),
    )
    for actual, by_hand in zip(
        program.compile()(x, k, y.astype(np.float32)), expected, strict=True
    ):
        np.testing.assert_allclose(actual, by_hand, rtol=1e-4, atol=5e-5)


def test_fast_sizes_are_the_next_of_few_prime_factors():
    def is_fast(size):
        for prime in (2, 3, 5):
            while size % prime == 0:
                size //= prime
        return size == 1

    for least in (*range(1, 200), 8193, 65537):
        size = fft.fast_size(least)
        assert size >= least
        assert is_fast(size)
        assert not any(map(is_fast, range(least, size)))


@pytest.mark.parametrize("contraction", ["output", "input_gradient", "kernel_gradient"])
def test_very_long_kernels_take_them_on_one_cpu(contraction):
    select = functools.partial(
        ops.select_implementation,
        *LONG,
        platform="cpu",
        contraction=contraction,
        padding="same",
    )
    assert select().name == "fft"
    assert "transforms" in select().reason
    others = (
        select(dtype="bfloat16"),
        select(surroundings="exported"),
        select(strides=4),
        select(padding="causal"),
        ops.select_implementation(LONG[0], (513, 3, 1), platform="cpu", padding="same"),
        ops.select_implementation((2, 1200, 3), (1025, 3, 1), platform="cpu", padding="same"),
        ops.select_implementation(*LONG, platform="tpu", padding="same"),
    )
    assert "fft" not in [selection.name for selection in others]


def test_the_layer_takes_them_and_sequences_that_end_do_not():
    rng = np.random.default_rng(0)
    x, k, w = (rng.standard_normal(shape).astype(np.float32) for shape in (*LONG, (1, 3, 2)))
    layer = functools.partial(ops.separable_conv1d, padding="same")
    texts = [
        jax.jit(functools.partial(layer, **limits)).lower(x, k, w).as_text()
        for limits in ({}, {"lengths": np.array([4000, 3000])})
    ]
    assert ["stablehlo.fft" in text for text in texts] == [True, False]
    h = np.stack(
        [
            np.stack(
                [
                    np.correlate(np.pad(row[:, c].astype(float), 512), k[:, c, 0].astype(float))
                    for c in range(3)
                ],
                1,
            )
            for row in x
        ]
    )
    expected = h @ w[0]
    scale = np.abs(expected).max()
    assert np.abs(layer(x, k, w) - expected).max() < 1e-6 * scale

    # A step of a stream reads a thousand steps for one: products are fewer.
    last = jnp.asarray(x[:, :1025])
    program = jax.jit(ops.separable_conv1d).lower(last, k, w)
    assert "stablehlo.fft" not in program.as_text()


def test_errors_go_by_the_sequence_and_not_by_the_kernel():
    """What docs/design.md says of float32, for the output and both gradients."""
    L, K, low = 4096, 1025, 512
    rng = np.random.default_rng(0)
    x, k, y = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((1, L, 1), (K, 1, 1), (1, L, 1))
    )
    f = functools.partial(ops.depthwise_conv1d, padding="same", implementation="fft")
    out, vjp = jax.vjp(f, x, k)
    wide = [a.ravel().astype(np.float64) for a in (x, k, y)]
    expected = (
        np.correlate(np.pad(wide[0], low), wide[1]),
        np.convolve(wide[2], wide[1])[low : low + L],
        np.correlate(np.pad(wide[0], low), wide[2]),
    )
    for actual, by_hand in zip((out, *vjp(y)), expected, strict=True):
        assert np.abs(actual.ravel() - by_hand).max() < 5e-7 * np.abs(by_hand).max()
