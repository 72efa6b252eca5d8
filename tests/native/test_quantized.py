"""The native kernels for integers against NumPy's integers: the very same numbers."""

import functools
import itertools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sepconv.ops import native
from flax_sepconv.ops.native import library

pytestmark = pytest.mark.skipif(native.ABSENCE is not None, reason=str(native.ABSENCE))

INFINITY = np.float32(np.inf)


def rounded(v, low, high):
    """Return float32 numbers rounded to even and bounded; NaN is the least."""
    whole = np.where(np.isnan(v), np.float32(low), np.rint(v))
    return np.clip(whole, np.float32(low), np.float32(high)).astype(np.int64)


class Problem:
    """Random operands of both calls, and what these are by definition."""

    def __init__(
        self, seed, B=None, L=None, C=None, K=None, M=1, F=None, N=1, stride=1, dilation=1
    ):
        rng = self.rng = np.random.default_rng(seed)
        draw = rng.integers
        self.B, self.L, self.C = B or draw(1, 4), L or draw(1, 90), C or draw(1, 80)
        self.K, self.M, self.F = K or draw(1, 12), M, F or draw(1, 80)
        self.stride, self.dilation = stride, dilation
        reach = (self.K - 1) * dilation
        self.pad_low = int(draw(0, reach + 1))
        self.steps = (self.L - 1) // stride + 1
        J = self.C * M
        self.zeros = draw(-128, 128, 3).astype(np.int32) * np.int32(seed % 3 > 0)
        self.x = draw(-128, 128, (self.B, self.L, self.C)).astype(np.int8)
        self.k = draw(-128, 128, (self.K, self.C, M)).astype(np.int8)
        self.w = draw(-128, 128, (J, self.F)).astype(np.int8)
        self.bias = draw(-9000, 9000, max(J, self.F)).astype(np.int32)
        rows = (self.B if N > 1 else 1, self.B if seed % 2 and N > 1 else 1)
        self.m1 = rng.uniform(1e-4, 2e-3, (rows[0], J)).astype(np.float32)
        self.m2 = rng.uniform(1e-5, 1e-3, (rows[1], self.F)).astype(np.float32)
        self.m1[0, 0], self.m2[0, 0] = np.nan, 0.5
        self.bounds = np.float32([-INFINITY, INFINITY] if seed % 2 else [0, 30])

    @functools.cached_property
    def depthwise_sums(self):
        """The sums of the depthwise stage in int64."""
        zero, J = int(self.zeros[0]), self.C * self.M
        x = np.repeat(self.x.astype(np.int64) - zero, self.M, -1)
        sums = np.zeros((self.B, self.steps, J), np.int64)
        for i in range(self.K):
            for step in range(self.steps):
                row = step * self.stride + i * self.dilation - self.pad_low
                if 0 <= row < self.L:
                    sums[:, step] += x[:, row] * self.k[i].reshape(J).astype(np.int64)
        return sums

    def ended(self, sums, multipliers, zero, dtype):
        """Return results: float32, or int8."""
        with np.errstate(invalid="ignore"):
            v = sums.astype(np.float32) * multipliers[:, None]
        low, high = self.bounds
        if dtype == np.float32:
            return np.clip(v, low, high)
        low, high = max(low, np.float32(-128 - zero)), min(high, np.float32(127 - zero))
        return (rounded(v, low, high) + zero).astype(np.int8)

    def separable(self, dtype):
        """Return both stages' result."""
        zero = int(self.zeros[1])
        with np.errstate(invalid="ignore"):
            v = self.depthwise_sums.astype(np.float32) * self.m1[:, None]
        h = rounded(v, -128 - zero, 127 - zero)
        sums = h @ self.w.astype(np.int64) + self.bias[: self.F]
        return self.ended(sums, self.m2, int(self.zeros[2]), dtype)

    def depthwise(self, dtype):
        """Return the depthwise stage's."""
        sums = self.depthwise_sums + self.bias[: self.C * self.M]
        return self.ended(sums, self.m1, int(self.zeros[2]), dtype)

    def operands(self, target):
        """Return what a call takes."""
        if target == "quantized_separable":
            bias = self.bias[: self.F]
            return self.x, self.k, self.w, bias, self.m1, self.m2, self.zeros, self.bounds
        bias = self.bias[: self.C * self.M]
        return self.x, self.k, bias, self.m1, self.zeros[[0, 2]], self.bounds

    def call(self, target, dtype, operands=None):
        """Return what the kernel gives."""
        columns = self.F if target == "quantized_separable" else self.C * self.M
        out = jax.ShapeDtypeStruct((self.B, self.steps, columns), dtype)
        return jax.ffi.ffi_call(f"flax_sepconv_{target}", out)(
            *(self.operands(target) if operands is None else operands),
            stride=np.int64(self.stride),
            dilation=np.int64(self.dilation),
            pad_low=np.int64(self.pad_low),
        )


PROBLEMS = (
    *(Problem(seed) for seed in range(6)),
    # A panel and one lane more of each width; blocks of many positions; taps by groups.
    Problem(6, B=2, L=300, C=65, K=9, F=65, N=2),
    Problem(7, B=3, L=140, C=64, K=31, F=64, N=2),
    Problem(8, B=1, L=7, C=130, K=5, F=200),
    Problem(9, C=20, M=3, K=6),
    Problem(10, C=1, M=1, F=1, K=4, L=200),
    Problem(11, C=33, M=2, K=9, stride=2),
    Problem(12, K=9, stride=3, dilation=2, N=2),
    Problem(13, K=7, L=60, dilation=25),
    Problem(14, K=3, L=9, dilation=10**7),
    Problem(15, B=70, L=1, C=16, K=4, F=17, N=2),
    Problem(16, K=40, L=5),
    Problem(17, B=1, L=1, C=300, K=4, F=130),
)


def disagreements():
    """Return the problems, calls and types of which a result is another one."""
    found = []
    cases = list(itertools.product(("separable", "depthwise"), (np.int8, np.float32)))
    for i, problem in enumerate(PROBLEMS):
        given = {target: problem.operands(f"quantized_{target}") for target, _ in cases}

        @jax.jit
        def actual(given, problem=problem):
            return [problem.call(f"quantized_{t}", dtype, given[t]) for t, dtype in cases]

        for (target, dtype), result in zip(cases, actual(given), strict=True):
            expected = getattr(problem, target)(dtype)
            if not np.array_equal(result, expected, equal_nan=dtype == np.float32):
                found.append(f"{i} {target} {np.dtype(dtype).name}")
    return found


def test_all_results_are_those_of_integers():
    assert disagreements() == []


def test_every_instruction_set_has_the_same():
    """Each in a process of its own: the choice is made once."""
    program = """
from flax_sepconv.ops.native import library
from tests.native import test_quantized
print(library.quantized_instruction_set(), test_quantized.disagreements())
"""
    names = library.quantized_instruction_sets()
    assert library.quantized_instruction_set() in names
    for name in names[1:]:
        result = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {library.VARIABLE: name, "JAX_PLATFORMS": "cpu"},
            cwd=pathlib.Path(__file__).parents[2],
            text=True,
            capture_output=True,
            check=False,
        )
        assert result.stdout == f"{name} []\n", result.stderr


SMALL = Problem(1, B=2, L=5, C=3, K=2, F=4)


@pytest.mark.parametrize(
    ("target", "at", "shape", "message"),
    [
        ("quantized_separable", 0, (2, 5), "3 axes: x (2, 5), k (2, 3, 1)"),
        ("quantized_separable", 1, (2, 2, 1), "channels of x"),
        ("quantized_separable", 1, (0, 3, 1), "taps"),
        ("quantized_separable", 2, (3,), "w must have 2 axes"),
        ("quantized_separable", 2, (4, 4), "a row for each channel of h"),
        ("quantized_separable", 2, (3, 5), "result must be (2, steps, 5)"),
        ("quantized_separable", 3, (3,), "bias must have 4 numbers"),
        ("quantized_separable", 4, (3, 3), "(3, 3) must have 1 row or one for each example, of 3"),
        ("quantized_separable", 5, (1, 3), "pointwise stage (1, 3)"),
        ("quantized_separable", 6, (2,), "zero points must be 3"),
        ("quantized_separable", 7, (3,), "bounds must be 2"),
        ("quantized_depthwise", 0, (1, 5, 3), "result must be (1, steps, 3)"),
        ("quantized_depthwise", 2, (4,), "bias must have 3 numbers"),
        ("quantized_depthwise", 4, (3,), "zero points must be 2"),
    ],
)
def test_shapes_that_do_not_belong_together(target, at, shape, message):
    operands = list(SMALL.operands(target))
    operands[at] = np.zeros(shape, operands[at].dtype)
    with pytest.raises(jax.errors.JaxRuntimeError) as raised:
        jax.block_until_ready(SMALL.call(target, np.int8, operands))
    assert "INVALID_ARGUMENT" in str(raised.value)
    assert message in str(raised.value)


@pytest.mark.parametrize(("at", "dtype"), [(0, np.int16), (1, np.float32), (3, np.float32)])
def test_types_that_are_not_taken(at, dtype):
    operands = list(SMALL.operands("quantized_separable"))
    operands[at] = operands[at].astype(dtype)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Wrong buffer dtype"):
        jax.block_until_ready(SMALL.call("quantized_separable", np.int8, operands))


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bfloat16])
def test_results_that_are_not_given(dtype):
    with pytest.raises(jax.errors.JaxRuntimeError, match="result must be int8 or float32"):
        jax.block_until_ready(SMALL.call("quantized_depthwise", dtype))


def test_zero_points_are_those_of_int8():
    operands = list(SMALL.operands("quantized_separable"))
    operands[6] = np.int32([0, 200, 0])
    with pytest.raises(jax.errors.JaxRuntimeError, match="zero points must be int8: one is 200"):
        jax.block_until_ready(SMALL.call("quantized_separable", np.int8, operands))


@pytest.mark.parametrize("target", ["quantized_separable", "quantized_depthwise"])
def test_nothing_is_computed_of_nothing(target):
    for shape in ({"B": 0}, {"L": 0}):
        problem = Problem(1, C=3, K=2, F=4)
        for name, value in shape.items():
            setattr(problem, name, value)
        problem.x = np.zeros((problem.B, problem.L, 3), np.int8)
        problem.steps = 2  # Of padding alone.
        assert problem.call(target, np.int8).shape[0] == problem.B
    # Without channels the sums are the bias.
    problem = Problem(2, B=2, C=3, K=2, F=4)
    problem.C = 0
    problem.x, problem.k, problem.w = problem.x[..., :0], problem.k[:, :0], problem.w[:0]
    problem.m1 = problem.m1[:, :0]
    actual = problem.call("quantized_separable", np.float32)
    np.testing.assert_array_equal(actual, problem.separable(np.float32))
