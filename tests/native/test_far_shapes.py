"""Native kernels of both stages where they take ways of their own, against NumPy float64.

Every choice of gradients under lengths; wide weights for few rows; one long example, of whose
blocks each needs cotangents of earlier ones; results that are written past the caches.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sepconv import ops
from flax_sepconv.ops import native
from tests import oracle
from tests.cases import Case
from tests.native.test_kernels import close, draw, shapes

pytestmark = pytest.mark.skipif(native.ABSENCE is not None, reason=str(native.ABSENCE))

# "w" and the bias are one result of the kernels.
CHOICES = ("x", "k", "w", "b", "xk", "xw", "kb", "xkwb")
case_ids = {"ids": lambda value: value.id if isinstance(value, Case) else str(value)}


def arrays_of(case, F, dtype):
    """Return x, k, w, b and a cotangent, and the same numbers in float64."""
    x, k, y = shapes(case, F)
    lanes = case.C * case.M
    operands, exact = draw(np.random.default_rng(5), dtype, x, k, (1, lanes, F), (F,), y)
    return operands, exact


def results(case, chosen, operands, lengths):
    """Return the output and the chosen gradients, by name."""
    *primals, y = operands
    arrays = dict(zip("xkwb", primals, strict=True))

    @jax.jit
    def step(some, arrays, y):
        def f(some):
            settings = case.settings | {"implementation": "native", "lengths": lengths}
            full = arrays | some
            return ops.separable_conv1d(*(full[name] for name in "xkwb"), **settings)

        out, vjp = jax.vjp(f, some)
        return {"y": out} | vjp(y)[0]

    return step({name: arrays[name] for name in chosen}, arrays, y)


def by_hand(case, exact, lengths):
    """Return the output and all gradients, of each sequence alone, by name."""
    x, k, w, b, y = exact
    found = dict(zip("yxkwb", map(np.zeros_like, (y, x, k, w, b)), strict=True))
    for row, length in enumerate(lengths):
        steps = oracle.window(length, case.K, case.S, case.D, case.padding)[1]
        if length == 0 or steps <= 0:
            continue
        own, cotangent = x[row : row + 1, :length], y[row : row + 1, :steps]
        found["y"][row, :steps] = oracle.separable(own, k, w, b, **case.oracle)[0]
        dx, *others = oracle.separable_vjp(own, k, w, cotangent, **case.oracle)
        found["x"][row, :length] = dx[0]
        for name, gradient in zip("kwb", others, strict=True):
            found[name] += gradient
    return found


def with_nan_behind(rows, counts):
    behind = np.arange(rows.shape[1]) >= np.asarray(counts)[:, None]
    return jnp.where(behind[:, :, None], jnp.nan, rows).astype(rows.dtype)


def check(case, F, dtype, choices, lengths=None):
    """Compare with what is exact; 16-bit floats may round h once, as well as each result."""
    operands, exact = arrays_of(case, F, dtype)
    ends = [case.L] * case.B if lengths is None else lengths
    expected = by_hand(case, exact, ends)
    magnitudes = by_hand(case, [np.abs(a) for a in exact], ends)
    if lengths is not None:
        steps = [oracle.window(n, case.K, case.S, case.D, case.padding)[1] * (n > 0) for n in ends]
        operands[0] = with_nan_behind(operands[0], ends)
        operands[4] = with_nan_behind(operands[4], np.maximum(steps, 0))
        lengths = jnp.asarray(lengths, jnp.int32)
    rounding = 0.5 * float(jnp.finfo(dtype).eps) if jnp.dtype(dtype).itemsize == 2 else 0.0
    for chosen in choices:
        found = results(case, chosen, operands, lengths)
        assert set(found) == {"y", *chosen}
        for name, actual in found.items():
            error = np.abs(np.asarray(actual).astype(np.float64) - expected[name])
            assert actual.dtype == dtype
            if rounding:
                own = 0.5 * float(jnp.finfo(dtype).eps) * np.abs(expected[name])
                assert (error <= own + rounding * magnitudes[name]).all(), (chosen, name)
            else:
                close(actual, expected[name], magnitudes[name], dtype)


@pytest.mark.parametrize(
    ("case", "F", "lengths"),
    [
        # Lanes and filters of whole pairs, and not; a sequence without a step, and a whole one.
        (Case(3, 21, 5, 4, M=3), 17, [0, 21, 8]),
        (Case(4, 30, 16, 3, S=2, D=3, padding="causal"), 32, [30, 1, 0, 13]),
        (Case(3, 140, 33, 5, padding="valid"), 33, [140, 3, 70]),
    ],
    **case_ids,
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_choice_of_gradients_under_lengths(case, F, lengths, dtype):
    check(case, F, dtype, CHOICES, lengths)


@pytest.mark.parametrize(
    ("case", "F", "lengths"),
    [
        (Case(1, 20, 601, 3), 515, None),
        (Case(3, 33, 520, 3, padding="causal"), 333, [33, 0, 10]),
        (Case(1, 5, 700, 4), 250, None),
        (Case(1, 1300, 9, 40, D=8), 17, None),
        (Case(1, 1400, 3, 31, M=2, S=3, D=4, padding="causal"), 33, [1100]),
    ],
    **case_ids,
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_wide_weights_and_long_examples(case, F, lengths, dtype):
    check(case, F, dtype, ["xkwb"], lengths)


@pytest.mark.parametrize("F", [64, 72, 80])
@pytest.mark.parametrize("has_lengths", [False, True])
def test_results_beyond_the_caches(F, has_lengths):
    case = Case(64, 1600, 4, 3)
    operands, exact = arrays_of(case, F, "float32")
    lengths = jnp.arange(case.B, dtype=jnp.int32) * 25 + 25 if has_lengths else None
    run = jax.jit(functools.partial(ops.separable_conv1d, **case.settings))
    y = np.asarray(run(*operands[:4], lengths=lengths))
    assert y.nbytes >= 2**24
    ends = [case.L] * case.B if lengths is None else np.asarray(lengths).tolist()
    for row in (0, 17, 40, case.B - 1):
        own = slice(row, row + 1)
        part = [exact[0][own], *exact[1:4], exact[4][own]]
        expected = by_hand(case, part, ends[own])["y"][0]
        np.testing.assert_allclose(y[row], expected, rtol=2e-6, atol=2e-5)
