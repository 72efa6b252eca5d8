"""What the operation on integers does not take: the argument, the rule and what came."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sepconv import ops
from tests.quantized.test_operation import problem

(X, KERNEL, WEIGHTS, BIAS), GIVEN, _ = problem("plain")
NAMES = ("x", "depthwise_kernel", "pointwise_kernel", "bias")

V, T, N = ValueError, TypeError, NotImplementedError
WRONG = {
    "int8 without a scale": ({"x_scale": None}, T, "x_scale must be given where x is of int8"),
    "zero": ({"x_scale": 0.0}, V, "x_scale must be positive and finite, got 0.0"),
    "NaN": ({"hidden_scale": np.nan}, V, "hidden_scale must be positive and finite, got nan"),
    "below zero": (
        {"pointwise_scale": -np.ones(7)}, V,
        "pointwise_scale must be positive and finite, got -1.0"
    ),
    "infinite": ({"output_scale": np.inf}, V, "output_scale must be positive and finite"),
    "wrong axis": (
        {"depthwise_scale": np.ones((3, 5))}, V,
        r"depthwise_scale must be a positive number or an array \(C, M\) \(5, 3\), got shape"
    ),
    "of taps": ({"depthwise_scale": np.ones(4)}, V, r"\(5, 3\), got shape \(4,\)"),
    "of channels": (
        {"pointwise_scale": np.ones(15)}, V, r"an array \(F,\) \(7,\), got shape \(15,\)"
    ),
    "of an example too few": ({"x_scale": np.ones(3)}, V, r"for each example \(2,\), got"),
    "a word": ({"x_scale": "static"}, V, "x_scale must be one of 'dynamic', 'dynamic_per_ex"),
    "another word": ({"hidden_scale": "no"}, V, "hidden_scale must be one of 'dynamic', "),
    "no scale of h": ({"hidden_scale": None}, T, "hidden_scale must be a positive number or"),
    "dynamic integers": ({"x_scale": "dynamic"}, V, "is for real numbers, and x is of int8"),
    "dynamic, not from zero": (
        {"hidden_scale": "dynamic"}, V, "needs hidden_zero_point=0, got 5"
    ),
    "dynamic streams": (
        {"x": X.astype("f"), "x_scale": "dynamic", "x_zero_point": 0, "padding": "causal",
         "return_state": True}, V, "and the state of a stream do not go together"
    ),
    "zero point": ({"x_zero_point": 128}, V, "x_zero_point must be from -128 to 127, got 128"),
    "zero points": (
        {"output_zero_point": np.zeros(7, int)}, T, "output_zero_point must be one integer"
    ),
    "half a zero point": ({"hidden_zero_point": 0.5}, T, "hidden_zero_point must be one int"),
    "zero point of reals": (
        {"output_scale": None}, V, "output_zero_point needs an output_scale"
    ),
    "x": ({"x": X.astype(np.int32)}, T, "x must be of dtype int8, float32, .*got int32"),
    "unsigned": ({"x": X.astype(np.uint8)}, T, "x must be of dtype int8, .*got uint8"),
    "real kernel": (
        {"depthwise_kernel": KERNEL.astype("f")}, T,
        "depthwise_kernel must be of dtype int8, got float32"
    ),
    "real bias": ({"bias": BIAS.astype("f")}, T, "bias must be of dtype int32, got float32"),
    "bias of channels": ({"bias": np.zeros(15, np.int32)}, V, r"bias must have shape \(F,\)"),
    "kernel": ({"depthwise_kernel": KERNEL[:, :4]}, V, "depthwise_kernel must have shape"),
    "short": ({"x": X[:, :2]}, V, "the output would have no steps"),
    "activation": ({"activation": "gelu"}, V, "activation must be None or one of 'relu'"),
    "lowering": ({"implementation": "fft"}, N, "'fft' cannot run here: of integers"),
    "lengths": ({"lengths": [3, 99]}, V, "lengths must be from 0 to the input length"),
    "real x, a scale of h alone": (
        {"x": X.astype("f"), "x_scale": None}, V, "hidden_scale must be None where x_scale is"
    ),
    "a zero point of real x": (
        {"x": X.astype("f"), "x_scale": None, "hidden_scale": None, "output_scale": None}, V,
        "x_zero_point must be 0 where x_scale is None: x stays real, got -7"
    ),
    "integers for real results": (
        {"output_scale": None, "output_zero_point": 0, "preferred_element_type": "int8"}, T,
        "preferred_element_type must be of dtype float32, .* got int8"
    ),
    "too small": ({"x_scale": 1e-39}, V, "x_scale must be positive and finite, got"),
    "no taps": ({"depthwise_kernel": KERNEL[:0]}, V, "depthwise_kernel must have shape"),
    "dynamic h of streams": (
        {"hidden_scale": "dynamic", "hidden_zero_point": 0, "padding": "causal",
         "return_state": True}, V, "hidden_scale='dynamic' and the state of a stream do not go"
    ),
    "many taps": (
        {"depthwise_kernel": np.zeros((70000, 5, 3), np.int8), "padding": "causal"}, V,
        "depthwise_kernel must have at most K=65793, for sums to fit in 32 bits, got 70000"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(case):
    more, error, words = WRONG[case]
    operands = dict(zip(NAMES, (X, KERNEL, WEIGHTS, BIAS), strict=True))
    with pytest.raises(error, match=words):
        ops.quantized_separable_conv1d(**operands | GIVEN | more)


def test_names_of_other_libraries():
    with pytest.raises(TypeError, match="strides"):
        ops.quantized_separable_conv1d(X, KERNEL, WEIGHTS, stride=2, **GIVEN)


def test_unknown_scales_are_not_looked_at():
    given = {k: v for k, v in GIVEN.items() if k != "x_scale"}
    jax.jit(lambda s: ops.quantized_separable_conv1d(X, KERNEL, WEIGHTS, x_scale=s, **given))(
        jnp.float32(0)
    )
