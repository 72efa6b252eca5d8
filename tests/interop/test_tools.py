"""Tools that look for XLA's own operations in programs, or replace the functions that make them."""

import functools
import importlib.util
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import flax_sepconv as fsc
from flax_sepconv import ops
from tests import oracle
from tests.cases import CASES
from tests.conftest import DEVICES

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "guides"
X = np.random.default_rng(0).standard_normal((2, 21, 6)).astype(np.float32)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Let there be one device, as where such tools are at work."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def layer(module="linen", **settings):
    """Make a layer with weights, as a function of inputs (B, 21, 6)."""
    settings = {"implementation": "grouped_conv", "bias_initializer": "ones"} | settings
    if module == "nnx":
        return fsc.nnx.SeparableConv1D(6, 5, 4, **settings, rngs=nnx.Rngs(0))
    made = fsc.SeparableConv1D(5, 4, **settings)
    shape = (2, 6, 21) if made.data_format == "channels_first" else (2, 21, 6)
    variables = made.init(jax.random.key(0), jnp.ones(shape))
    return lambda x: made.apply(variables, x)


@pytest.mark.parametrize("module", ["linen", "nnx"])
@pytest.mark.parametrize("settings", [{}, {"depth_multiplier": 2, "strides": 3, "padding": "same"}])
def test_a_program_has_a_convolution_and_a_contraction(module, settings):
    jaxpr = jax.make_jaxpr(layer(module, **settings))(X)
    names = [equation.primitive.name for equation in jaxpr.eqns]
    assert set(names) <= {
        *("conv_general_dilated", "dot_general", "add", "broadcast_in_dim", "reshape"),
        *("squeeze", "slice"),
    }
    assert names.count("conv_general_dilated") == names.count("dot_general") == 1
    (convolution,) = (e for e in jaxpr.eqns if e.primitive is lax.conv_general_dilated_p)
    assert convolution.params["feature_group_count"] == 6


@pytest.mark.parametrize("case", CASES[:-1:2], ids=lambda case: case.id)
def test_outputs_and_gradients_are_right(case):
    rng = np.random.default_rng(1)
    arrays = *case.arrays(), rng.standard_normal((1, case.C * case.M, 5)), rng.standard_normal(5)
    operation = functools.partial(
        ops.separable_conv1d, implementation="grouped_conv", **case.settings
    )
    with jax.enable_x64(True):
        y, pullback = jax.vjp(jax.jit(operation), *arrays)
        cotangent = rng.standard_normal(y.shape)
        gradients = pullback(cotangent)
    expected = oracle.separable(*arrays, **case.oracle)
    by_hand = oracle.separable_vjp(*arrays[:3], cotangent, **case.oracle)
    for actual, wanted in zip((y, *gradients), (expected, *by_hand), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-11, atol=1e-11)


def test_whoever_replaces_the_functions_is_given_the_weights_as_they_are(monkeypatch):
    """Of one multiplier the kernel itself, and always the pointwise kernel itself."""
    given = []

    def replace(name):
        own = getattr(lax, name)

        def replaced(lhs, rhs, *args, **kwargs):
            given.append(rhs)
            return own(lhs, rhs, *args, **kwargs)

        replaced.__name__ = name
        monkeypatch.setattr(lax, name, replaced)

    k, w = jnp.ones((4, 6, 1)), jnp.ones((1, 6, 5))
    expected = ops.separable_conv1d(X, k, w, implementation="grouped_conv")
    replace("conv_general_dilated")
    replace("dot_general")
    y = ops.separable_conv1d(X, k, w, implementation="grouped_conv")
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    assert given[0] is k
    assert given[1] is w
    # Where none is named, the same.
    np.testing.assert_array_equal(ops.separable_conv1d(X, k, w), y)
    assert given[2] is k
    assert given[3] is w
    with pytest.warns(UserWarning, match="must be 'grouped_conv' for that, got 'shifted_sum'"):
        ops.separable_conv1d(X, k, w, implementation="shifted_sum")


@pytest.mark.skipif(DEVICES != 4, reason="for a mesh of four devices")
def test_a_mesh_keeps_the_primitive(monkeypatch):
    """Its kernel gradient is right there (`test_lowering_on_meshes.py`), XLA's is not."""
    mesh = jax.make_mesh((2, 2), ("d", "m"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    x = jax.device_put(X, jax.NamedSharding(mesh, jax.P("d")))
    assert "depthwise_conv1d" in str(jax.make_jaxpr(layer())(x))
    assert "depthwise_conv1d" not in str(jax.make_jaxpr(layer())(X))
    monkeypatch.setattr(jax, "device_count", lambda: DEVICES)
    assert "depthwise_conv1d" in str(jax.make_jaxpr(layer())(X))


def test_onnx():
    """jax2onnx replaces functions of JAX for good: in a process of its own."""
    for name in ("jax2onnx", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: these conversions did NOT run")
    cases = pathlib.Path(__file__).with_name("onnx_models.py")
    command = [sys.executable, "-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider", str(cases)]
    ran = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert "6 passed" in ran.stdout


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Qwix' own
def test_page_qwix():
    """PTQ and QAT, linen and nnx; what is asserted stands on the page."""
    pytest.importorskip("qwix")
    names = {"__name__": "docs.quantization"}
    for block in blocks("qwix.md"):
        exec(block, names)
    qwix, x, rules = names["qwix"], names["x"], names["rules"]
    # Several multipliers, traced; and a layer that Qwix cannot look into.
    settings = {"padding": "same", "depth_multiplier": 2}
    made = fsc.nnx.SeparableConv1D(12, 8, 5, **settings, rngs=nnx.Rngs(0))
    quantize = nnx.jit(lambda made, x: qwix.quantize_model(made, qwix.PtqProvider(rules), x))
    small = quantize(made, x)
    assert small.depthwise_kernel.array.qvalue.dtype == jnp.int8
    assert 0 < names["error"](small(x), made(x)) < 0.03
    hidden = fsc.nnx.SeparableConv1D(
        12, 8, 5, **settings, implementation="shifted_sum", rngs=nnx.Rngs(0)
    )
    with pytest.warns(UserWarning, match="must be 'grouped_conv' for that, got 'shifted_sum'"):
        qwix.quantize_model(hidden, qwix.PtqProvider(rules), x)
