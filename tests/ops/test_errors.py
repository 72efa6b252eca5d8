"""Bad input: the type of each error, and that it names the argument, the rule and what came."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_sepconv as fsc

X = jnp.ones((2, 11, 3))
K, P, BIAS = jnp.ones((4, 3, 2)), jnp.ones((1, 6, 5)), jnp.ones(5)
KEY = jax.random.key(0)

SHARED = [
    # What the operation and the layers refuse alike.
    ({"strides": 0}, ValueError, r"strides must be a positive int .*got 0"),
    ({"strides": -2}, ValueError, r"strides .*got -2"),
    ({"strides": 1.5}, ValueError, r"strides .*got 1\.5"),
    ({"strides": True}, ValueError, r"strides .*got True"),
    ({"strides": (1, 1)}, ValueError, r"strides .*1-tuple.*got \(1, 1\)"),
    ({"strides": None}, ValueError, r"strides .*got None"),
    ({"dilation_rate": 0}, ValueError, r"dilation_rate must be a positive int .*got 0"),
    ({"dilation_rate": "2"}, ValueError, r"dilation_rate .*got '2'"),
    ({"dilation_rate": []}, ValueError, r"dilation_rate .*got \[\]"),
    ({"padding": "full"}, ValueError, r"padding must be one of 'valid', 'same', 'causal'.*'full'"),
    ({"padding": None}, ValueError, r"padding .*'circular', 'reflect'.*got None"),
    ({"padding": -1}, ValueError, r"padding must not be negative, got -1: cut the steps"),
    ({"padding": [(0, -2)]}, ValueError, r"padding must not be negative, got \[\(0, -2\)\]"),
    ({"padding": True}, ValueError, r"padding .*pair of them \(low, high\), got True"),
    ({"padding": 1.0}, ValueError, r"padding .*got 1\.0"),
    ({"padding": (1, 2, 3)}, ValueError, r"padding .*got \(1, 2, 3\)"),
    ({"padding": ((1, 2), (1, 2))}, ValueError, r"padding .*got \(\(1, 2\), \(1, 2\)\)"),
    ({"padding": []}, ValueError, r"padding .*got \[\]"),
    ({"data_format": "NCL"}, ValueError, r"data_format .*'channels_last'.*got 'NCL'"),
    ({"data_format": None}, ValueError, r"data_format .*got None"),
    ({"implementation": "fast"}, ValueError, r"implementation .*'grouped_conv'.*got 'fast'"),
]

LAYER = [
    *SHARED,
    ({"filters": 0}, ValueError, r"filters must be a positive int .*got 0"),
    ({"filters": None}, ValueError, r"filters .*got None"),
    ({"filters": 5.0}, ValueError, r"filters .*got 5\.0"),
    ({"kernel_size": -1}, ValueError, r"kernel_size .*got -1"),
    ({"kernel_size": (3, 3)}, ValueError, r"kernel_size .*got \(3, 3\)"),
    ({"depth_multiplier": 0}, ValueError, r"depth_multiplier .*got 0"),
    ({"depth_multiplier": np.float32(2)}, ValueError, r"depth_multiplier .*got "),
    (
        {"strides": 2, "dilation_rate": 3},
        ValueError,
        r"strides and dilation_rate must not both differ from 1.*strides=2.*dilation_rate=3",
    ),
    ({"use_bias": 1}, ValueError, r"use_bias must be True or False, got 1"),
    ({"trainable": "no"}, ValueError, r"trainable must be True or False, got 'no'"),
    ({"activation": "rellu"}, ValueError, r"activation: unknown .*'rellu'.*'relu'"),
    ({"activation": 3}, TypeError, r"activation: .*got 3"),
    ({"activation": "threshold"}, ValueError, r"activation 'threshold' needs arguments"),
    ({"activation": {"class_name": "relu", "config": {"slope": 1}}}, ValueError, r"slope"),
    ({"depthwise_initializer": "glorot"}, ValueError, r"depthwise_initializer: .*'glorot'"),
    ({"pointwise_initializer": 0.1}, TypeError, r"pointwise_initializer: .*got 0\.1"),
    ({"bias_initializer": {"config": {}}}, ValueError, r"bias_initializer: .*class_name"),
    ({"depthwise_regularizer": "l3"}, ValueError, r"depthwise_regularizer: .*'l3'"),
    ({"pointwise_regularizer": 0.01}, TypeError, r"pointwise_regularizer: .*got 0\.01"),
    (
        {"bias_regularizer": {"class_name": "L2", "config": {"l1": 1}}},
        ValueError,
        r"bias_regularizer: .*L2 has no argument 'l1'",
    ),
    ({"activity_regularizer": []}, TypeError, r"activity_regularizer: .*got \[\]"),
    ({"depthwise_constraint": "maxnrm"}, ValueError, r"depthwise_constraint: .*'maxnrm'.*max"),
    ({"pointwise_constraint": 2}, TypeError, r"pointwise_constraint: .*got 2"),
    (
        {"bias_constraint": {"class_name": "MaxNorm", "config": {"max_value": -1}}},
        ValueError,
        r"bias_constraint: max_value .*got -1",
    ),
]

INPUTS = [
    (jnp.ones(3), ValueError, r"inputs must have shape \(\.\.\., L, C\).*got \(3,\)"),
    (jnp.float32(1), ValueError, r"inputs .*got \(\)"),
    (jnp.ones((2, 11, 0)), ValueError, r"channels of inputs must be known.*\(2, 11, 0\)"),
    (jnp.ones((2, 11, 3), int), TypeError, r"inputs must be of dtype float32.*got int32"),
    (jnp.ones((2, 11, 3), bool), TypeError, r"inputs .*got bool"),
    (jnp.ones((2, 11, 3), complex), TypeError, r"inputs .*got complex64"),
    (jnp.ones((2, 3, 3)), ValueError, r"output would have no steps.*L=3.*K=4.*S=1.*D=1"),
    (jnp.ones((2, 0, 3)), ValueError, r"output would have no steps.*L=0"),
]


@pytest.mark.parametrize(("options", "error", "message"), LAYER)
def test_layer_arguments(options, error, message):
    """The error comes where the argument is given, in every way to make the layer."""
    of_pointwise = any(name.startswith(("filters", "pointwise")) for name in options)
    given = {"filters": 5, "kernel_size": 4} | options
    calls = [(fsc.SeparableConv1D, fsc.nnx.SeparableConv1D, given)]
    if not of_pointwise:
        given = {"kernel_size": 4} | options
        calls.append((fsc.DepthwiseConv1D, fsc.nnx.DepthwiseConv1D, given))
    for linen, of_nnx, given in calls:
        with pytest.raises(error, match=message):
            linen(**given)
        with pytest.raises(error, match=message):
            of_nnx(3, **given, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("options", "error", "message"), SHARED)
def test_operation_arguments(options, error, message):
    with pytest.raises(error, match=message):
        fsc.ops.separable_conv1d(X, K, P, BIAS, **options)
    with pytest.raises(error, match=message):
        fsc.ops.depthwise_conv1d(X, K, **options)


@pytest.mark.parametrize(("inputs", "error", "message"), INPUTS)
def test_layer_inputs(inputs, error, message):
    for layer in (fsc.SeparableConv1D(5, 4), fsc.DepthwiseConv1D(4)):
        with pytest.raises(error, match=message):
            layer.init(KEY, inputs)
    with pytest.raises(error, match=message.replace("inputs", "x")):
        fsc.ops.separable_conv1d(inputs, K, P, BIAS)


@pytest.mark.parametrize(
    ("operands", "error", "message"),
    [
        ((X, jnp.ones((4, 3)), P), ValueError, r"depthwise_kernel .*\(K, C, M\).*got \(4, 3\)"),
        ((X, jnp.ones((4, 2, 2)), P), ValueError, r"depthwise_kernel .*C=3.*got \(4, 2, 2\)"),
        ((X, jnp.ones((0, 3, 2)), P), ValueError, r"depthwise_kernel .*got \(0, 3, 2\)"),
        ((X, K, jnp.ones((6, 5))), ValueError, r"pointwise_kernel .*\(1, C\*M, F\).*got \(6, 5\)"),
        ((X, K, jnp.ones((1, 5, 5))), ValueError, r"pointwise_kernel .*C\*M=6.*got \(1, 5, 5\)"),
        ((X, K, jnp.ones((2, 6, 5))), ValueError, r"pointwise_kernel .*got \(2, 6, 5\)"),
        ((X, K, P, jnp.ones(4)), ValueError, r"bias .*F=5, got \(4,\)"),
        ((X, K, P, jnp.ones((1, 5))), ValueError, r"bias .*got \(1, 5\)"),
        ((X, K.astype(int), P), TypeError, r"depthwise_kernel must be of dtype.*got int32"),
        ((X, K, P.astype(int)), TypeError, r"pointwise_kernel must be of dtype.*got int32"),
        ((X, K, P, BIAS.astype(int)), TypeError, r"bias must be of dtype.*got int32"),
    ],
)
def test_operands(operands, error, message):
    with pytest.raises(error, match=message):
        fsc.ops.separable_conv1d(*operands)


@pytest.mark.parametrize(
    ("bias", "error", "message"),
    [
        (jnp.ones(3), ValueError, r"bias must have shape \(C\*M,\) with C\*M=6, got \(3,\)"),
        (jnp.ones((3, 2)), ValueError, r"bias .*got \(3, 2\)"),
        (jnp.ones(6, int), TypeError, r"bias must be of dtype.*got int32"),
    ],
)
def test_bias_of_the_depthwise_stage(bias, error, message):
    with pytest.raises(error, match=message):
        fsc.ops.depthwise_conv1d(X, K, bias)


def test_channels_first_inputs():
    with pytest.raises(ValueError, match=r"\(\.\.\., C, L\).*got \(3,\)"):
        fsc.SeparableConv1D(5, 4, data_format="channels_first").init(KEY, jnp.ones(3))
    with pytest.raises(ValueError, match=r"depthwise_kernel .*C=11"):
        fsc.ops.depthwise_conv1d(X, K, data_format="channels_first")


def test_preferred_element_type():
    with pytest.raises(TypeError, match=r"preferred_element_type must be of dtype.*got int32"):
        fsc.ops.separable_conv1d(X, K, P, preferred_element_type=jnp.int32)


def test_unknown_channel_count():
    (symbol,) = jax.export.symbolic_shape("c")
    unknown = jax.ShapeDtypeStruct((2, 11, symbol), jnp.float32)
    with pytest.raises(ValueError, match="channels of inputs must be known"):
        jax.eval_shape(fsc.SeparableConv1D(5, 4).init, KEY, unknown)


def test_nnx_channels():
    layer = fsc.nnx.SeparableConv1D(3, 5, 4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="in_features=3 channels, got 7"):
        layer(jnp.ones((2, 11, 7)))
    with pytest.raises(ValueError, match=r"in_features must be a positive int .*got 0"):
        fsc.nnx.SeparableConv1D(0, 5, 4, rngs=nnx.Rngs(0))


def test_regularizers_that_do_not_fit():
    layer = fsc.SeparableConv1D(5, 4, pointwise_regularizer=lambda w: w)
    with pytest.raises(ValueError, match=r"pointwise_kernel must return a scalar.*\(1, 3, 5\)"):
        layer.init(KEY, X)
    layer = fsc.SeparableConv1D(5, 4, depthwise_regularizer="orthogonal_regularizer")
    with pytest.raises(ValueError, match="rank 2"):
        layer.init(KEY, X)


def test_regularization_loss_takes_variables():
    with pytest.raises(TypeError, match="variables must be a dict of collections, got float"):
        fsc.regularization_loss(3.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"platform": "cpu", "contraction": "gradient"}, r"contraction must be .*got 'gradient'"),
        ({"platform": "cpu", "depthwise_kernel_shape": (4, 7, 1)}, r"depthwise_kernel .*C=3"),
    ],
)
def test_selection(options, message):
    options = {"x_shape": (2, 11, 3), "depthwise_kernel_shape": (4, 3, 1)} | options
    with pytest.raises(ValueError, match=message):
        fsc.ops.select_implementation(**options)
