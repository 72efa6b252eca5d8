"""The operation on integers against NumPy's, bit by bit, on every lowering that there is."""

import jax
import numpy as np
import pytest

import flax_sepconv as fsc
from flax_sepconv.ops import native
from flax_sepconv.ops.context import Context
from flax_sepconv.ops.geometry import resolve
from tests.quantized import oracle

FORMS = ["native", "shifted_sum", "grouped_conv"]
B, L, C, K, M, F = 2, 19, 5, 4, 3, 7
SCALES = {"x_scale": 0.02, "k_scale": 0.01, "h_scale": 0.04, "w_scale": 0.03, "y_scale": 0.3}
ZEROS = {"x_zero": -7, "h_zero": 5, "y_zero": 11}
CASES = {
    "plain": {},
    "same, strides": {"strides": 3, "padding": "same"},
    "causal, dilation": {"dilation": 3, "padding": "causal"},
    "numbers": {"padding": (5, 1), "strides": 2},
    "one tap": {"K": 1},
    "many taps": {"K": 40, "L": 60, "padding": "same"},
    "one channel": {"C": 1, "F": 1, "M": 1},
    "no zero points": {"x_zero": 0, "h_zero": 0, "y_zero": 0},
    "zero points at the ends": {"x_zero": -128, "h_zero": 127, "y_zero": -128},
    "clipped": {"h_scale": 1e-4, "y_scale": 1e-3},
    "relu": {"activation": "relu"},
    "relu6": {"activation": "relu6", "y_scale": 0.07},
    "real": {"y_scale": None, "y_zero": 0},
    "real, relu6": {"y_scale": None, "y_zero": 0, "activation": "relu6"},
    "halves": {"x_scale": 1, "k_scale": 0.5, "h_scale": 1, "w_scale": 0.5, "y_scale": 1},
    "scales of channels": {"by_channel": True},
}


def problem(case, seed=0):
    """Return operands, settings for the operation, and for the oracle."""
    sizes = {"K": K, "L": L, "C": C, "M": M, "F": F}
    plain = {"strides": 1, "dilation": 1, "padding": "valid", "activation": None}
    given = sizes | plain | SCALES | ZEROS | {"by_channel": False} | CASES[case]
    rng = np.random.default_rng(seed)
    C_, M_, F_, K_ = (given[name] for name in "CMFK")
    x = rng.integers(-128, 128, (B, given["L"], C_), np.int8)
    kernel = rng.integers(-127, 128, (K_, C_, M_), np.int8)
    weights = rng.integers(-127, 128, (1, C_ * M_, F_), np.int8)
    bias = rng.integers(-3000, 3000, F_, np.int32)
    if given["by_channel"]:
        given["k_scale"] = rng.uniform(0.005, 0.02, (C_, M_)).astype(np.float32)
        given["w_scale"] = rng.uniform(0.01, 0.05, F_).astype(np.float32)
    geometry = resolve(given["L"], K_, given["strides"], given["dilation"], given["padding"])
    ours = {
        "strides": given["strides"],
        "dilation_rate": given["dilation"],
        "padding": given["padding"],
        "activation": given["activation"],
        "x_scale": given["x_scale"],
        "x_zero_point": given["x_zero"],
        "depthwise_scale": given["k_scale"],
        "hidden_scale": given["h_scale"],
        "hidden_zero_point": given["h_zero"],
        "pointwise_scale": given["w_scale"],
        "output_scale": given["y_scale"],
        "output_zero_point": given["y_zero"],
    }
    names = (*SCALES, *ZEROS, "strides", "dilation", "activation")
    theirs = {name: given[name] for name in names}
    theirs |= {"low": geometry.pad_low, "count": geometry.output_length}
    return (x, kernel, weights, bias), ours, theirs


def of_the_first_stage(ours, theirs):
    """Leave out what belongs to the second stage."""
    ours = {k: v for k, v in ours.items() if "hidden" not in k and "pointwise" not in k}
    theirs = {k: v for k, v in theirs.items() if k[:2] not in ("h_", "w_")}
    return ours, theirs


def runs(form):
    if form == "native":
        reason = native.declines(Context(jax.default_backend()))
        if reason:
            pytest.skip(reason)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_both_stages_are_those_of_numpy(case, form):
    runs(form)
    (x, kernel, weights, bias), ours, theirs = problem(case)
    expected = oracle.separable(x, kernel, weights, bias, **theirs)
    operation = fsc.ops.quantized_separable_conv1d
    y = operation(x, kernel, weights, bias, implementation=form, **ours)
    np.testing.assert_array_equal(y, expected)
    assert y.dtype == expected.dtype
    # Compiled, with scales that are not known: the same bits.
    names = [name for name in ours if "scale" in name and ours[name] is not None]
    rest = {name: value for name, value in ours.items() if name not in names}

    @jax.jit
    def compiled(*scales):
        known = dict(zip(names, scales, strict=True))
        return operation(x, kernel, weights, bias, implementation=form, **known, **rest)

    np.testing.assert_array_equal(compiled(*(ours[name] for name in names)), expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", ["plain", "same, strides", "relu6", "real", "scales of channels"])
def test_the_first_stage_is_that_of_numpy(case, form):
    runs(form)
    (x, kernel, _, _), ours, theirs = problem(case)
    ours, theirs = of_the_first_stage(ours, theirs)
    bias = np.arange(kernel.shape[1] * kernel.shape[2], dtype=np.int32) * 100 - 500
    expected = oracle.depthwise(x, kernel, bias, **theirs)
    y = fsc.ops.quantized_depthwise_conv1d(x, kernel, bias, implementation=form, **ours)
    np.testing.assert_array_equal(y, expected)
    assert y.dtype == expected.dtype
