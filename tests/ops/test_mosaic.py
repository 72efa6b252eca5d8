"""The fused Mosaic kernels, interpreted on CPU, against NumPy float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sepconv.ops.geometry import resolve
from flax_sepconv.ops.mosaic import plan as plans
from flax_sepconv.ops.mosaic.forward import separable
from flax_sepconv.ops.mosaic.gradients import gradients
from tests import oracle

PADDINGS = ("same", "causal", "valid")
# B, L, C, F, K, D. Lengths below a strip, of several strips, and of several programs; none of them
# whole tiles, but for one that programs fill exactly.
SHAPES = {
    "short": (3, 29, 128, 10, 4, 1),
    "wide": (2, 70, 384, 130, 3, 2),
    "strips": (1, 491, 128, 7, 5, 1),
    "programs": (2, 1531, 128, 12, 2, 3),
    "exact": (2, 1024, 128, 6, 3, 1),
    "many taps": (1, 603, 128, 9, 17, 3),
    "one tap": (2, 37, 128, 5, 1, 1),
    "long reach": (1, 1111, 128, 6, 2, 200),
}

# bfloat16 differs in where it is rounded, not in which steps meet.
every_case = pytest.mark.parametrize(
    ("shape", "padding", "dtype"),
    [
        pytest.param(shape, padding, dtype, id=f"{name}-{padding}-{dtype}")
        for name, shape in SHAPES.items()
        for padding in (*PADDINGS, *([(1, 2), (0, 2)] if name == "short" else []))
        for dtype in ("float32", "bfloat16")
        if dtype == "float32" or (name in ("wide", "programs") and padding == "same")
    ],
)


@pytest.fixture(autouse=True)
def small_programs(monkeypatch):
    """Let two strips fill a program, so that short arrays need several."""
    monkeypatch.setattr(plans, "BLOCK", 2**18)


def operands(shape, padding, dtype):
    """Return x, kernel, weights, bias, dy, rounded to the dtype, and the geometry."""
    B, L, C, F, K, D = shape
    geometry = resolve(L, K, 1, D, padding)
    rng = np.random.default_rng(7)
    sizes = [(B, L, C), (K, C, 1), (C, F), (F,), (B, geometry.output_length, F)]
    scales = [1, K**-0.5, C**-0.5, 1, 1]
    arrays = [s * rng.standard_normal(size) for s, size in zip(scales, sizes, strict=True)]
    return [jnp.asarray(a, dtype) for a in arrays], geometry


def wide(array):
    return np.asarray(array, np.float64)


def close(actual, expected, terms, dtype):
    """Compare at the scale of the array: each sum's terms, and h and dh, are rounded once."""
    assert actual.shape == expected.shape
    assert actual.dtype == dtype
    bound = 4 * (float(jnp.finfo(dtype).eps) + terms * float(jnp.finfo(jnp.float32).eps))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(wide(actual), expected, rtol=0, atol=bound * scale)


@every_case
def test_output(shape, padding, dtype):
    (x, k, w, b, _), geometry = operands(shape, padding, dtype)
    y = separable(x, k, w, b, geometry, dtype, precision="highest", interpret=True)
    expected = oracle.separable(*map(wide, (x, k, w[None], b)), D=shape[-1], padding=padding)
    close(y, expected, terms=shape[2], dtype=dtype)


@every_case
def test_gradients(shape, padding, dtype):
    (x, k, w, _, dy), geometry = operands(shape, padding, dtype)
    actual = gradients(x, k, w, dy, geometry, bias=True, precision="highest", interpret=True)
    dx, dk, dw, db = oracle.separable_vjp(
        *map(wide, (x, k, w[None], dy)), D=shape[-1], padding=padding
    )
    steps = shape[0] * shape[1]
    for gradient, expected in zip(actual, (dx, dk, dw[0], db), strict=True):
        close(gradient, expected, terms=steps, dtype=dtype)


@pytest.mark.parametrize(
    ("shape", "chip", "grid"),
    [
        ("programs", plans.Chip(2, 2**26), (2, 1, 3)),
        ("long reach", plans.Chip(2, 2**26), (2, 1, 2)),  # Of three: one finds nothing left.
        ("wide", plans.Chip(1, 850_000), (1, 3, 2)),
        ("wide", plans.Chip(2, 850_000), (2, 3, 1)),
        ("short", plans.Chip(8, 2**26), (3, 1, 1)),
    ],
)
def test_cores_and_groups_of_channels(shape, chip, grid):
    (x, k, w, b, dy), geometry = operands(SHAPES[shape], "same", "float32")
    settings = {"chip": chip, "precision": "highest", "interpret": True}
    differentiate = functools.partial(gradients, geometry=geometry, bias=True, **settings)
    assert grids(differentiate, x, k, w, dy) == [grid]
    filtered = oracle.separable(*map(wide, (x, k, w[None], b)), D=SHAPES[shape][-1], padding="same")
    y = separable(x, k, w, b, geometry, "float32", **settings)
    close(y, filtered, terms=x.shape[2], dtype="float32")
    arrays = map(wide, (x, k, w[None], dy))
    dx, dk, dw, db = oracle.separable_vjp(*arrays, D=SHAPES[shape][-1], padding="same")
    steps = x.shape[0] * x.shape[1]
    for gradient, expected in zip(differentiate(x, k, w, dy), (dx, dk, dw[0], db), strict=True):
        close(gradient, expected, terms=steps, dtype="float32")


def grids(function, *operands):
    """Return the grids of a function's kernels."""
    equations = jax.make_jaxpr(function)(*operands).eqns
    return [
        each.params["grid_mapping"].grid
        for each in equations
        if each.primitive.name == "pallas_call"
    ]


@pytest.mark.parametrize(
    ("kind", "cores"),
    [("TPU v4", 2), ("TPU v5p", 2), ("TPU v5", 2), ("TPU v5 lite", 1), ("TPU v6 lite", 1)],
)
def test_largest_programs_fit_the_kind_of_device(kind, cores):
    """4096 channels: the weights alone, and their gradients, take more than a v4 has."""
    chip = plans.CHIPS[kind]
    assert chip.cores == cores
    geometry = resolve(4096, 4, 1, 1, "causal")
    cut = plans.plan_gradients(geometry, 4096, 4096, 2, chip)
    assert plans.gradients_memory(cut, geometry, 4096, 4096, 2) <= chip.memory
    whole = dataclasses.replace(cut, groups=1)
    assert plans.gradients_memory(whole, geometry, 4096, 4096, 2) > chip.memory
    if kind == "TPU v4":
        with pytest.raises(NotImplementedError, match="MiB on chip for 4096 channels"):
            plans.plan_output(geometry, 4096, 4096, 2, chip)
    else:
        plans.plan_output(geometry, 4096, 4096, 2, chip)


def test_wider_result():
    (x, k, w, b, _), geometry = operands(SHAPES["short"], "same", "bfloat16")
    y = separable(x, k, w, b, geometry, jnp.float32, interpret=True)
    expected = oracle.separable(*map(wide, (x, k, w[None], b)), padding="same")
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, expected, rtol=0, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("shape", ["short", "programs"])
def test_values_outside_are_never_used(shape):
    """Interpreted, what lies beside an array's last step reads NaN."""
    (x, k, w, b, dy), geometry = operands(SHAPES[shape], "valid", "float32")
    y = separable(x, k, w, b, geometry, "float32", interpret=True)
    for result in (y, *gradients(x, k, w, dy, geometry, bias=True, interpret=True)):
        assert np.isfinite(result).all()


def test_under_float64_default():
    (x, k, w, b, dy), geometry = operands(SHAPES["programs"], "same", "float32")
    expected = separable(x, k, w, b, geometry, "float32", interpret=True)
    with jax.enable_x64(True):
        y = separable(x, k, w, b, geometry, "float32", interpret=True)
        dx, *_ = gradients(x, k, w, dy, geometry, bias=True, interpret=True)
    assert dx.dtype == y.dtype == jnp.float32
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"S": 2}, "strides=1 only; got 2"),
        ({"M": 2}, "depth_multiplier=1 only; got 2"),
        ({"C": 130}, "channels in multiples of 128; got 130"),
        ({"K": 65}, "at most 64 taps; got 65"),
        ({"D": 100}, "taps at most 256 steps apart; got 300"),
        ({"dtype": "float16"}, "operands of one dtype, bfloat16 or float32; got float16"),
        ({"kernel_dtype": "float32"}, "operands of one dtype, .*; got bfloat16, float32"),
        ({"B": 0}, r"no empty arrays; got \(0, 500, 128\)"),
        ({"C": 1024, "F": 16384}, r"would need \d+\.\d MiB on chip .* 16384 filters, of 14"),
    ],
)
def test_declines(changes, reason):
    facts = {"B": 2, "C": 128, "M": 1, "F": 6, "K": 4, "S": 1, "D": 1, "dtype": "bfloat16"}
    facts |= changes
    B, C, M, F, K = (facts[name] for name in "BCMFK")
    geometry = resolve(500, K, facts["S"], facts["D"], "same")
    x = jnp.zeros((B, 500, C), facts["dtype"])
    kernel = jnp.zeros((K, C, M), facts.get("kernel_dtype", facts["dtype"]))
    weights = jnp.zeros((C * M, F), facts["dtype"])
    with pytest.raises(NotImplementedError, match=reason):
        separable(x, kernel, weights, None, geometry, facts["dtype"])
    dy = jnp.zeros((B, geometry.output_length, F), facts["dtype"])
    with pytest.raises(NotImplementedError, match=reason):
        gradients(x, kernel, weights, dy, geometry, bias=False)
