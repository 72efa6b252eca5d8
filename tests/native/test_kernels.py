"""The native kernels at the edges of their own blocks, against NumPy float64, and their bits."""

import functools
import hashlib
import os
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sepconv import ops
from flax_sepconv.ops import native
from tests import oracle
from tests.cases import Case

pytestmark = pytest.mark.skipif(native.ABSENCE is not None, reason=str(native.ABSENCE))

# What is said of lanes (C*M) and vectors holds for AVX-512; narrower ones meet such edges earlier.
CASES = (
    # Up to 8 taps, read where the rows lie: three blocks of positions, lanes of no whole vector.
    Case(1, 300, 40, 5),
    Case(2, 257, 17, 8, padding="causal"),
    Case(1, 256, 16, 1, S=2),
    # More taps, by panels: one position more than a block, one lane more than a strip.
    Case(2, 137, 33, 9, padding="valid"),
    Case(1, 129, 65, 64),
    # Few lanes: several examples in one strip, and a last group that is not full.
    Case(35, 140, 1, 4),
    Case(11, 129, 3, 12, M=2, padding="causal"),
    Case(3, 50, 15, 31),
    # Strips of whole channels with M lanes each, also more of these than a strip has.
    Case(2, 70, 5, 10, M=3),
    Case(2, 40, 3, 5, M=33),
    # Classes of positions: S and D that share a factor or none, D > L, S > L, D of many classes.
    Case(1, 256, 18, 7, S=3, D=2, padding="valid"),
    Case(2, 200, 20, 6, S=4, D=6),
    Case(2, 90, 6, 11, M=2, S=6, D=4, padding="causal"),
    Case(1, 150, 18, 3, D=170),
    Case(1, 300, 8, 3, D=130, padding="valid"),
    Case(2, 5, 20, 4, S=7),
    # Kernel gradients in chunks of positions, then in groups of lanes: directly, and by panels.
    Case(8, 300, 128, 8),
    Case(8, 300, 16, 31, padding="valid"),
    Case(1, 40, 5000, 8),
    Case(4, 300, 128, 9),
)
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


def draw(rng, dtype, *shapes):
    """Return arrays of a dtype, and the very same numbers in float64."""
    arrays = [jnp.asarray(rng.standard_normal(shape)).astype(dtype) for shape in shapes]
    return arrays, [np.asarray(array).astype(np.float64) for array in arrays]


def shapes(case, lanes):
    """Return the shapes of x, of k, and of a result with so many lanes."""
    steps = oracle.window(case.L, case.K, case.S, case.D, case.padding)[1]
    return (case.B, case.L, case.C), (case.K, case.C, case.M), (case.B, steps, lanes)


def close(actual, exact, magnitudes, accumulator):
    """Within what sums in the accumulator's dtype, rounded once to the result's, are off."""
    error = np.abs(np.asarray(actual).astype(np.float64) - exact)
    rounding = 0.5 * float(jnp.finfo(actual.dtype).eps) * np.abs(exact)
    assert (error <= rounding + 4 * float(jnp.finfo(accumulator).eps) * magnitudes).all()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_depthwise_output_and_gradients(case, dtype):
    def by_hand(x, k, y):
        gradients = oracle.depthwise_vjp(x, k, y, **case.oracle)
        return (oracle.depthwise(x, k, **case.oracle), *gradients)

    f = functools.partial(ops.depthwise_conv1d, implementation="native", **case.settings)

    @jax.jit
    def step(x, k, y):
        out, vjp = jax.vjp(f, x, k)
        return (out, *vjp(y))

    accumulator = "float64" if dtype == "float64" else "float32"
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(1)
        operands, exact = draw(rng, dtype, *shapes(case, case.C * case.M))
        magnitudes = by_hand(*map(np.abs, exact))
        for actual, *rest in zip(step(*operands), by_hand(*exact), magnitudes, strict=True):
            assert actual.dtype == dtype
            close(actual, *rest, accumulator)


@pytest.mark.parametrize("case", CASES[3:9], ids=lambda case: case.id)
def test_bfloat16_to_float32_is_not_rounded(case):
    f = functools.partial(
        ops.depthwise_conv1d,
        implementation="native",
        preferred_element_type=jnp.float32,
        **case.settings,
    )
    operands, exact = draw(np.random.default_rng(2), jnp.bfloat16, *shapes(case, 1)[:2])
    actual = jax.jit(f)(*operands)
    assert actual.dtype == np.float32
    magnitudes = oracle.depthwise(*map(np.abs, exact), **case.oracle)
    close(actual, oracle.depthwise(*exact, **case.oracle), magnitudes, "float32")


@pytest.mark.parametrize(
    ("case", "F"),
    [
        (Case(1, 300, 40, 5), 64),
        (Case(3, 137, 33, 9, padding="valid"), 33),
        (Case(35, 60, 1, 4), 5),
        (Case(11, 129, 3, 12, M=2, padding="causal"), 33),
        (Case(2, 40, 3, 5, M=33), 16),
        (Case(2, 90, 6, 11, M=2, S=6, D=4, padding="causal"), 1),
        (Case(1, 150, 18, 3, D=170), 17),
        # Blocks of fewer positions, because h takes more of the cache.
        (Case(1, 200, 530, 3), 5),
        # Sums in chunks of positions, and in splits of columns.
        (Case(8, 200, 5, 7), 33),
        (Case(1, 40, 4, 1), 200),
    ],
    ids=lambda value: value.id if isinstance(value, Case) else f"F{value}",
)
@pytest.mark.parametrize(("dtype", "bias"), [("float64", True), ("float32", False)])
def test_both_stages_together(case, F, bias, dtype):
    def by_hand(x, k, y, w, b=0.0):
        gradients = oracle.separable_vjp(x, k, w, y, **case.oracle)
        return oracle.separable(x, k, w, b, **case.oracle), *gradients[: 4 if bias else 3]

    @jax.jit
    def step(x, k, y, *weights):
        f = functools.partial(ops.separable_conv1d, implementation="native", **case.settings)
        out, vjp = jax.vjp(f, x, k, *weights)
        return (out, *vjp(y))

    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(3)
        weights = ((1, case.C * case.M, F), (F,))[: 2 if bias else 1]
        operands, exact = draw(rng, dtype, *shapes(case, F), *weights)
        text = step.lower(*operands).as_text()
        for target in ("separable_output", "separable_gradients"):
            assert text.count(f"@flax_sepconv_{target}(") == 1
        magnitudes = by_hand(*map(np.abs, exact))
        for actual, *rest in zip(step(*operands), by_hand(*exact), magnitudes, strict=True):
            assert actual.dtype == dtype
            close(actual, *rest, dtype)


@pytest.mark.parametrize(
    "case",
    [Case(2, 140, 40, 5), Case(2, 140, 33, 9), Case(35, 20, 1, 4), Case(5, 20, 3, 4, M=2, S=2)],
    ids=lambda case: case.id,
)
def test_nan_reaches_only_what_reads_it(case):
    """Not the examples, lanes and steps that are computed beside it."""
    x, k = case.arrays(np.float32)
    x[1, case.L // 2, 0] = np.nan
    expected = np.isnan(oracle.depthwise(x, k, **case.oracle))
    h = ops.depthwise_conv1d(x, k, implementation="native", **case.settings)
    np.testing.assert_array_equal(np.isnan(h), expected)
    w = np.ones((1, case.C * case.M, 5), np.float32)
    y = ops.separable_conv1d(x, k, w, implementation="native", **case.settings)
    np.testing.assert_array_equal(np.isnan(y), expected.any(-1, keepdims=True).repeat(5, -1))


# Sums over chunks of the work, in the kernel gradient and in the pointwise one.
SHARED = [
    (Case(8, 300, 128, 8), 64, "float32"),
    (Case(70, 129, 3, 12, M=2), 5, "float32"),
    (Case(8, 300, 16, 31), 33, "bfloat16"),
]


@jax.jit(static_argnums=0)
def step(case, x, k, cotangent, *weights):
    f = functools.partial(ops.separable_conv1d, implementation="native", **case.settings)
    y, vjp = jax.vjp(f, x, k, *weights)
    return (y, *vjp(cotangent))


def operands_of(case, F, dtype):
    weights = (1, case.C * case.M, F), (F,)
    return draw(np.random.default_rng(4), dtype, *shapes(case, F), *weights)[0]


def digest():
    """Return the bits of output and all gradients of the shared cases, in short."""
    results = [np.asarray(a) for case in SHARED for a in step(case[0], *operands_of(*case))]
    return [hashlib.sha256(result.tobytes()).hexdigest() for result in results]


def test_threads_of_the_caller_give_the_same_bits():
    """Sixteen at once, more than XLA has threads to compute with."""
    operands = {case: operands_of(*case) for case in SHARED}
    alone = {case: [np.asarray(a) for a in step(case[0], *operands[case])] for case in SHARED}

    def compare(i):
        case = SHARED[i % len(SHARED)]
        for actual, expected in zip(step(case[0], *operands[case]), alone[case], strict=True):
            np.testing.assert_array_equal(np.asarray(actual), expected)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(compare, range(48)))


ONE_CPU = """
import os
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
from tests.native import test_kernels
print(*test_kernels.digest())
"""
SEVEN_THREADS = """
import os
os.environ["PJRT_NPROC"] = "7"
from tests.native import test_kernels
print(*test_kernels.digest())
"""
# JAX itself does not survive a fork once it has computed: its threads are missing in the child.
FORK = """
import os
from tests.native import test_kernels
child = os.fork()
print(*test_kernels.digest(), flush=True)
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize(
    ("program", "processes", "needs"),
    [(ONE_CPU, 1, "sched_setaffinity"), (SEVEN_THREADS, 1, "environ"), (FORK, 2, "fork")],
    ids=["one CPU", "seven threads", "fork"],
)
def test_other_processes_give_the_same_bits(program, processes, needs):
    if not hasattr(os, needs):
        pytest.skip(f"os.{needs} is not on this platform")
    printed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=pathlib.Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert printed.split() == processes * digest()
