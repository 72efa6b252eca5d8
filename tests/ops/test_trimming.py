"""Taps that lie outside of a sequence at every step: they cost nothing, and change nothing."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_sepconv import ops
from flax_sepconv.ops import geometry
from tests import oracle
from tests.cases import LOWERINGS, Case

FAR = 10**7
every_lowering = pytest.mark.parametrize("lowering", LOWERINGS)


@given(
    st.integers(1, 12),
    st.integers(1, 40),
    st.sampled_from([1, 2, 3, 17, 1000]),
    st.sampled_from([1, 2, 7, 50, FAR]),
    st.sampled_from(geometry.PADDINGS),
)
@settings(derandomize=True, deadline=None, max_examples=500)
def test_taps_met_by_the_definition(L, K, S, D, padding):
    low, steps = oracle.window(L, K, S, D, padding)
    if steps <= 0:
        return
    found = geometry.resolve(L, K, S, D, padding)
    met = [tap for tap in range(K) for step in range(steps) if 0 <= step * S + tap * D - low < L]
    taps = found.taps_met
    assert set(met) <= set(taps)
    if S == 1:  # With strides a tap between two that meet steps may meet none.
        assert list(taps) == sorted(set(met))
    cut = found.of_taps(taps)
    # The rows, and no more than about as many zeros as they are long.
    assert max(cut.pad_low, cut.pad_high) <= max(L, (steps - 1) * S + 1)
    reads = {
        (taps.start + tap, step * cut.stride + tap * cut.dilation - cut.pad_low)
        for tap in range(cut.kernel_size)
        for step in range(steps)
    }
    inside = {(tap, position) for tap, position in reads if 0 <= position < L}
    assert inside == {
        (tap, step * S + tap * D - low)
        for tap in range(K)
        for step in range(steps)
        if 0 <= step * S + tap * D - low < L
    }


# No tap meets a step, one does, some do; kernels longer than twice the rows; strides beyond them.
ABSURD = (
    Case(2, 10, 2, 2, D=FAR),
    Case(2, 10, 2, 3, M=2, D=FAR),
    Case(2, 10, 2, 3, D=FAR, padding="causal"),
    Case(2, 7, 2, 40, M=2, padding="causal"),
    Case(2, 5, 2, 31, D=3),
    Case(2, 9, 2, 24, S=4, D=2),
    Case(2, 10, 2, 3, S=400_000),
    Case(2, 10, 2, 4, M=2, S=400_000, D=FAR),
    Case(2, 9, 2, 5, S=7),
    Case(2, 6, 2, 1, S=2, D=FAR, padding="valid"),
)
every_case = pytest.mark.parametrize("case", ABSURD, ids=lambda case: case.id)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=2e-5)


def check(case, f, expected_of):
    """Compare the output and both gradients, in one program, with what is expected of x, k, y."""
    x, k = case.arrays(np.float32)
    shape = jax.eval_shape(f, x, k).shape
    y = np.random.default_rng(1).standard_normal(shape).astype(np.float32)

    def step(x, k, y):
        out, vjp = jax.vjp(f, x, k)
        return (out, *vjp(y))

    program = jax.jit(step).lower(x, k, y).compile()
    for actual, expected in zip(program(x, k, y), expected_of(x, k, y), strict=True):
        close(actual, expected)
    return program


def by_oracle(case, x, k, y):
    return (oracle.depthwise(x, k, **case.oracle), *oracle.depthwise_vjp(x, k, y, **case.oracle))


@every_lowering
@every_case
def test_output_and_gradients(case, lowering):
    f = functools.partial(ops.depthwise_conv1d, implementation=lowering, **case.settings)
    program = check(case, f, functools.partial(by_oracle, case))
    memory = program.memory_analysis()
    assert memory is None or memory.temp_size_in_bytes < 2**20


# Strides that would take gigabytes, and that 32 bits do not hold.
FAR_STRIDES = tuple(
    Case(2, 9, 2, 3, M=2, S=S, D=D, padding=padding)
    for S, D, padding in [
        (10, 1, "same"),
        (2**31 - 1, 1, "same"),
        (2**31 - 1, 4, "valid"),
        (2**40, 2, "causal"),
        (2**40, FAR, "same"),
    ]
)


@pytest.mark.parametrize("lowering", [None, "shifted_sum"])
@pytest.mark.parametrize("case", ABSURD + FAR_STRIDES, ids=lambda case: case.id)
def test_lengths(case, lowering):
    lengths = np.array([case.L, case.L // 2])

    def expected_of(x, k, y):
        out, dx, dk = np.zeros(y.shape), np.zeros(x.shape), np.zeros(k.shape)
        for row, length in enumerate(lengths):
            own = x[row : row + 1, :length]
            steps = oracle.window(length, case.K, case.S, case.D, case.padding)[1]
            if steps <= 0:
                continue
            part = by_oracle(case, own, k, y[row : row + 1, :steps])
            out[row, :steps], dx[row, :length] = part[0][0], part[1][0]
            dk += part[2]
        return out, dx, dk

    f = functools.partial(
        ops.depthwise_conv1d, implementation=lowering, lengths=lengths, **case.settings
    )
    check(case, f, expected_of)


@pytest.mark.parametrize("lowering", [None, "shifted_sum"])
@pytest.mark.parametrize("case", ABSURD[:5], ids=lambda case: case.id)
def test_segments(case, lowering):
    borders = [0, case.L // 3, case.L]
    ids = np.repeat([1, 2], np.diff(borders))[None].repeat(case.B, 0)

    def expected_of(x, k, y):
        parts = [
            by_oracle(case, x[:, begin:end], k, y[:, begin:end])
            for begin, end in itertools.pairwise(borders)
        ]
        outs, dxs, dks = zip(*parts, strict=True)
        return np.concatenate(outs, 1), np.concatenate(dxs, 1), sum(dks)

    f = functools.partial(
        ops.depthwise_conv1d, implementation=lowering, segment_ids=ids, **case.settings
    )
    check(case, f, expected_of)


@pytest.mark.parametrize("case", [ABSURD[0], ABSURD[1], ABSURD[3]], ids=lambda case: case.id)
def test_both_stages(case):
    x, k = case.arrays(np.float32)
    w = np.random.default_rng(2).standard_normal((1, case.C * case.M, 3)).astype(np.float32)
    b = np.arange(3, dtype=np.float32)
    out, vjp = jax.vjp(functools.partial(ops.separable_conv1d, **case.settings), x, k, w, b)
    close(out, oracle.separable(x, k, w, b, **case.oracle))
    y = np.ones(out.shape, np.float32)
    for actual, expected in zip(
        vjp(y), oracle.separable_vjp(x, k, w, y, **case.oracle), strict=True
    ):
        close(actual, expected)


@every_lowering
def test_programs_do_not_grow_with_strides(lowering):
    def operations(S):
        f = functools.partial(
            ops.depthwise_conv1d, strides=S, padding="same", implementation=lowering
        )
        x, k = jnp.ones((1, 2 * S, 2)), jnp.ones((3, 2, 1))
        text = jax.jit(lambda x, k, y: jax.vjp(f, x, k)[1](y)).lower(x, k, f(x, k)).as_text()
        return text.count(" = ")

    assert operations(8000) <= operations(800)


def test_rows_that_begin_at_many_steps_are_read_as_those_at_few():
    """With strides over 16, "same" puts rows of other lengths at over 16 other steps."""
    case = Case(6, 90, 2, 50, S=40)
    x, k = case.arrays(np.float32)
    lengths = np.array([90, 71, 50, 41, 40, 1])
    f = functools.partial(
        ops.depthwise_conv1d, implementation="grouped_conv", lengths=lengths, **case.settings
    )
    out, vjp = jax.vjp(f, x, k)
    y = np.random.default_rng(1).standard_normal(out.shape).astype(np.float32)
    dx, dk = vjp(y)
    summed = np.zeros(k.shape)
    for row, length in enumerate(lengths):
        own, steps = x[row : row + 1, :length], -(-length // case.S)
        expected = by_oracle(case, own, k, y[row : row + 1, :steps])
        close(out[row, :steps], expected[0][0])
        close(dx[row, :length], expected[1][0])
        assert not np.any(out[row, steps:])
        assert not np.any(dx[row, length:])
        summed += expected[2]
    close(dk, summed)
