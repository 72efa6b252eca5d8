import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_sepconv import ops
from flax_sepconv.ops import arguments
from tests import oracle, peers
from tests.cases import CASES, LOWERINGS, Case

every_lowering = pytest.mark.parametrize("lowering", LOWERINGS)
CASE = Case(2, 11, 3, 4, M=2, S=3)
F = 5


def weights(case, dtype=np.float32, filters=F):
    rng = np.random.default_rng(7)
    x, k = case.arrays(dtype)
    p = rng.standard_normal((1, case.C * case.M, filters)).astype(dtype)
    return x, k, p, rng.standard_normal(filters).astype(dtype)


@functools.partial(jax.jit, static_argnums=0)
def value_and_vjp(f, cotangent, *arrays):
    """Evaluate and differentiate in one program: op by op each costs a compilation."""
    y, vjp = jax.vjp(f, *arrays)
    return y, vjp(cotangent)


# Only the native kernels know of a pointwise stage: to the other lowerings it is a contraction
# behind them, which meets one filter at every second case.
@pytest.mark.parametrize(
    ("case", "lowering", "filters"),
    [
        pytest.param(case, lowering, filters, id=f"{case.id}-{lowering}-{filters}")
        for number, case in enumerate(CASES)
        for lowering in LOWERINGS
        for filters in ((1, F) if lowering == "native" else ((1, F)[number % 2],))
    ],
)
def test_output_and_gradients_in_float32(case, lowering, filters):
    x, k, p, bias = weights(case, filters=filters)
    f = functools.partial(ops.separable_conv1d, implementation=lowering, **case.settings)
    expected = oracle.separable(x, k, p, bias, **case.oracle)
    cotangent = np.random.default_rng(8).standard_normal(expected.shape).astype(np.float32)
    y, gradients = value_and_vjp(f, cotangent, x, k, p, bias)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    assert y.dtype == np.float32
    by_hand = oracle.separable_vjp(x, k, p, cotangent, **case.oracle)
    for actual, gradient in zip(gradients, by_hand, strict=True):
        np.testing.assert_allclose(actual, gradient, rtol=1e-4, atol=1e-4)


@given(
    sizes=st.tuples(*[st.integers(1, n) for n in (3, 14, 4, 6, 3, 4, 3)]),
    filters=st.integers(1, 4),
    padding=st.sampled_from(["valid", "Same", "CAUSAL"]),
    lowering=st.sampled_from(LOWERINGS),
)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_any_shape(sizes, filters, padding, lowering):
    case = Case(*sizes, padding=padding.lower())
    if oracle.window(case.L, case.K, case.S, case.D, case.padding)[1] <= 0:
        return
    x, k, p, bias = weights(case, filters=filters)
    y = ops.separable_conv1d(
        x,
        k,
        p,
        bias,
        strides=(case.S,),
        dilation_rate=[case.D],
        padding=padding,
        implementation=lowering,
    )
    expected = oracle.separable(x, k, p, bias, **case.oracle)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("leading", [(), (1,), (6,), (3, 2), (2, 1, 3), (0, 2)])
@pytest.mark.parametrize("data_format", arguments.DATA_FORMATS)
def test_leading_dimensions_and_data_formats(leading, data_format):
    rng = np.random.default_rng(9)
    _, k, p, bias = weights(CASE)
    x = rng.standard_normal((*leading, CASE.L, CASE.C)).astype(np.float32)
    flat = oracle.separable(x.reshape(-1, CASE.L, CASE.C), k, p, bias, **CASE.oracle)
    expected = flat.reshape(*leading, *flat.shape[1:])
    if data_format == "channels_first":
        x, expected = np.swapaxes(x, -1, -2), np.swapaxes(expected, -1, -2)
    y = ops.separable_conv1d(x, k, p, bias, data_format=data_format, **CASE.settings)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    h = ops.depthwise_conv1d(x, k, data_format=data_format, **CASE.settings)
    channels = -1 if data_format == "channels_last" else -2
    assert h.shape[channels] == CASE.C * CASE.M
    assert h.shape[:-2] == leading


def ulp(dtype):
    """Return the spacing of numbers in [1, 2)."""
    return float(jnp.finfo(dtype).eps)


@every_lowering
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("K", [1, 3, 31, 87])
def test_low_precision_accumulates_in_float32(K, dtype, lowering):
    """Within one unit in the last place of the largest value, however long the sums."""
    case = Case(3, 200, 5, K, M=2)
    arrays = [jnp.asarray(a, dtype) for a in weights(case, filters=33)]
    exact = [np.asarray(a, np.float64) for a in arrays]
    f = functools.partial(ops.separable_conv1d, implementation=lowering, **case.settings)

    expected = oracle.separable(*exact, **case.oracle)
    cotangent = jnp.asarray(np.random.default_rng(8).standard_normal(expected.shape), dtype)
    y, gradients = value_and_vjp(f, cotangent, *arrays)
    assert y.dtype == dtype
    assert np.abs(np.asarray(y, np.float64) - expected).max() <= ulp(dtype) * np.abs(expected).max()
    by_hand = oracle.separable_vjp(*exact[:3], np.asarray(cotangent, np.float64), **case.oracle)
    for actual, gradient in zip(gradients, by_hand, strict=True):
        assert actual.dtype == dtype
        error = np.abs(np.asarray(actual, np.float64) - gradient).max()
        assert error <= ulp(dtype) * np.abs(gradient).max()


@every_lowering
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_depthwise_stage_rounds_once(dtype, lowering):
    """Half a unit in the last place, element by element: the sum itself is exact enough."""
    case = Case(3, 100, 5, 87, M=2)
    x, k = (jnp.asarray(a, dtype) for a in case.arrays())
    h = ops.depthwise_conv1d(x, k, implementation=lowering, **case.settings)
    exact = oracle.depthwise(np.asarray(x, np.float64), np.asarray(k, np.float64), **case.oracle)
    rounding = 0.5 * ulp(dtype) * np.abs(exact)
    accumulation = 87 * 2.0**-24 * np.abs(exact).max() * 10
    assert (np.abs(np.asarray(h, np.float64) - exact) <= rounding + accumulation).all()


def close(actual, wanted, tolerance):
    """Compare with what float64 gives, relative to the largest."""
    error = np.abs(np.asarray(actual, np.float64) - wanted).max()
    assert error <= tolerance * np.abs(wanted).max()


@every_lowering
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("preferred", ["float64", "float32", "bfloat16"])
def test_preferred_element_type(dtype, preferred, lowering):
    """It is the type of the sums: where it is wider nothing is rounded to the operands' type."""
    with jax.enable_x64(preferred == "float64"):
        arrays = [jnp.asarray(a, dtype) for a in weights(CASE)]
        f, first = (
            functools.partial(
                operation,
                implementation=lowering,
                preferred_element_type=preferred,
                **CASE.settings,
            )
            for operation in (ops.separable_conv1d, ops.depthwise_conv1d)
        )
        exact = [np.asarray(a, np.float64) for a in arrays]
        expected = oracle.separable(*exact, **CASE.oracle)
        h = oracle.depthwise(*exact[:2], **CASE.oracle)
        x, k, p, _ = exact
        for operation, operands, wanted, gradient_of in (
            (f, arrays, expected, functools.partial(oracle.separable_vjp, x, k, p)),
            (first, arrays[:2], h, functools.partial(oracle.depthwise_vjp, x, k)),
        ):
            draw = np.random.default_rng(1).standard_normal(wanted.shape)
            cotangent = jnp.asarray(draw, preferred)
            y, of_operands = value_and_vjp(operation, cotangent, *operands)
            assert y.dtype == preferred
            close(y, wanted, 8 * ulp(preferred))
            # Gradients take the operands' dtype; from wider sums they are rounded to it once.
            gradients = gradient_of(np.asarray(cotangent, np.float64), **CASE.oracle)
            for actual, gradient in zip(of_operands, gradients, strict=True):
                assert actual.dtype == dtype
                close(actual, gradient, (0.51 if ulp(preferred) < ulp(dtype) else 4) * ulp(dtype))


@pytest.mark.parametrize("precision", ["highest", jax.lax.Precision.DEFAULT, ("high", "default")])
@every_lowering
def test_precision_reaches_the_contractions(precision, lowering):
    x, k, p, bias = weights(CASE)
    f = functools.partial(
        ops.separable_conv1d, precision=precision, implementation=lowering, **CASE.settings
    )
    np.testing.assert_allclose(
        f(x, k, p, bias), oracle.separable(x, k, p, bias, **CASE.oracle), rtol=1e-5, atol=1e-5
    )
    text = jax.jit(f).lower(x, k, p, bias).as_text()
    # The native kernels know no other precision than that of the operands.
    assert ("HIGHEST" in text) == (precision == "highest" and lowering != "native")


def test_numpy_and_nested_lists_are_taken():
    y = ops.separable_conv1d([[1.0], [2.0], [4.0]], [[[1.0]], [[-1.0]]], [[[2.0]]])
    np.testing.assert_array_equal(y, [[-2.0], [-4.0]])


@pytest.mark.parametrize("padding", ["valid", "causal", "same"])
def test_strides_with_dilation_against_torch(padding):
    torch = peers.torch()
    case = Case(2, 17, 3, 4, M=2, S=2, D=3, padding=padding)
    x, k, p, bias = weights(case)
    low, steps = oracle.window(case.L, case.K, case.S, case.D, padding)
    xt = torch.nn.functional.pad(torch.tensor(x).swapaxes(1, 2), (low, 40))
    kt = torch.tensor(k).permute(1, 2, 0).reshape(case.C * case.M, 1, case.K)
    h = torch.nn.functional.conv1d(xt, kt, stride=case.S, dilation=case.D, groups=case.C)
    pt = torch.tensor(p[0]).T[:, :, None]
    expected = torch.nn.functional.conv1d(h, pt, torch.tensor(bias))[:, :, :steps]
    y = ops.separable_conv1d(x, k, p, bias, **case.settings)
    np.testing.assert_allclose(y, expected.swapaxes(1, 2).numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("platform", "contraction", "K", "dtype", "name"),
    [
        ("cpu", "output", 31, "float32", "native"),
        ("cpu", "kernel_gradient", 768, "bfloat16", "native"),
        ("cuda", "output", 87, "float32", "shifted_sum"),
        ("cuda", "kernel_gradient", 4, "float32", "shifted_sum"),
        ("rocm", "kernel_gradient", 5, "float32", "grouped_conv"),
        ("cuda", "kernel_gradient", 8, "bfloat16", "shifted_sum"),
        ("cuda", "kernel_gradient", 9, "bfloat16", "grouped_conv"),
        ("gpu", "input_gradient", 5, "bfloat16", "shifted_sum"),
        ("tpu", "output", 5, "bfloat16", "shifted_sum"),
        ("tpu", "input_gradient", 5, "bfloat16", "shifted_sum"),
        ("tpu", "kernel_gradient", 5, "float32", "shifted_sum"),
        ("tpu", "output", 31, "bfloat16", "grouped_conv"),
        ("metal", "output", 3, "float32", "grouped_conv"),
    ],
)
def test_selection_is_a_function_of_static_facts(platform, contraction, K, dtype, name):
    selection = ops.select_implementation(
        (8, 64, 3), (K, 3, 1), platform=platform, contraction=contraction, dtype=dtype
    )
    if name == "native" and "native" not in LOWERINGS:
        name = "shifted_sum"
    assert selection.name == name
    assert len(selection.reason) > 20


@pytest.mark.parametrize(
    ("length", "strides", "name"),
    [(64, 1, "shifted_sum"), (63, 1, "grouped_conv"), (64, 2, "grouped_conv")],
)
def test_selection_for_tpu_goes_by_tiles_and_strides(length, strides, name):
    selection = ops.select_implementation(
        (8, length, 3), (4, 3, 1), platform="tpu", strides=strides
    )
    assert selection.name == name


@pytest.mark.parametrize("contraction", ["output", "input_gradient", "kernel_gradient"])
def test_selection_for_tpu_of_several_multipliers(contraction):
    shapes = (8, 64, 3), (4, 3, 2)
    selection = ops.select_implementation(*shapes, platform="tpu", contraction=contraction)
    assert selection.name == ("grouped_conv" if contraction == "output" else "shifted_sum")


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_selection_is_made_when_lowering(platform):
    """One trace is lowered for each platform with the lowering selected there."""
    f = functools.partial(ops.depthwise_conv1d, padding="same")
    traced = jax.jit(f).trace(jnp.ones((2, 9, 3)), jnp.ones((7, 3, 1)))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    name = ops.select_implementation((2, 9, 3), (7, 3, 1), platform=platform).name
    assert ("stablehlo.convolution" in text) == (name == "grouped_conv")
