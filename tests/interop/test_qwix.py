"""Qwix' rules: what quantizes and trains whole models, our layers included."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_sepconv as fsc
from flax_sepconv.interop import qwix_provider

qwix = pytest.importorskip("qwix")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Qwix' own
INT8 = {"weight_qtype": jnp.int8, "act_qtype": jnp.int8}
X = np.random.default_rng(0).normal(size=(4, 40, 12)).astype(np.float32)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Let there be one device, as where such tools are at work."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = fsc.SeparableConv1D(16, 5, strides=2, padding="same", activation="relu")(x)
        x = fsc.DepthwiseConv1D(3, depth_multiplier=2, dilation_rate=2)(x)
        return nn.Dense(7)(x)


NETWORK = Network()
VARIABLES = NETWORK.init(jax.random.key(1), X)


def error(ours, theirs):
    return float(jnp.abs(ours - theirs).max() / jnp.abs(theirs).max())


def trained(provider, variables=VARIABLES):
    def loss(params):
        y, updates = provider.apply(variables | {"params": params}, X, mutable=["quant_stats"])
        return jnp.mean(y**2), (y, updates)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"disable_channelwise_axes": True},
        {"bwd_qtype": jnp.int8},
        {"act_calibration_method": "minmax"},
        {"weight_qtype": "float8_e4m3fn", "act_qtype": "float8_e4m3fn"},
        {"act_qtype": None, "op_names": ("dot_general",)},
    ],
)
def test_a_whole_model_trains(rule):
    rules = [qwix.QtRule(**INT8 | rule)]
    model = qwix.quantize_model(NETWORK, qwix_provider(rules))
    (_, (y, _)), gradients = trained(model)
    exact = jax.grad(lambda v: jnp.mean(NETWORK.apply(v, X) ** 2))(VARIABLES)["params"]
    coarse = 0.5 if rule.get("weight_qtype") else 0.2
    assert 1e-4 < error(y, NETWORK.apply(VARIABLES, X)) < coarse
    errors = jax.tree.map(error, gradients, exact)
    assert all(each < coarse for each in jax.tree.leaves(errors))


def test_types_of_gradients_are_honoured():
    (_, _), exact = trained(qwix.quantize_model(NETWORK, qwix_provider([qwix.QtRule(**INT8)])))
    rules = [qwix.QtRule(**INT8, bwd_qtype=jnp.int4)]
    (_, _), coarse = trained(qwix.quantize_model(NETWORK, qwix_provider(rules)))
    kernels = [g["SeparableConv1D_0"]["depthwise_kernel"] for g in (exact, coarse)]
    assert 1e-3 < error(*kernels) < 0.5


def test_forward_is_that_of_quantized_weights():
    """What was trained is what PTQ runs."""
    rules = [qwix.QuantizationRule(**INT8)]
    model = qwix.quantize_model(NETWORK, qwix_provider(rules))
    (_, (y, _)), _ = trained(model)
    ptq = qwix.quantize_model(NETWORK, qwix.PtqProvider(rules))
    types = jax.eval_shape(ptq.init, jax.random.key(1), X)["params"]
    params = qwix.quantize_params(VARIABLES["params"], types)
    kernel = params["SeparableConv1D_0"]["depthwise_kernel"].array
    assert kernel.qvalue.dtype == jnp.int8
    assert error(y, jax.jit(ptq.apply)({"params": params}, X)) < 0.02


def test_static_ranges():
    rules = [qwix.QuantizationRule(**INT8, act_static_scale=True)]
    model = qwix.quantize_model(NETWORK, qwix_provider(rules))
    variables = model.init(jax.random.key(1), X)
    assert len(jax.tree.leaves(variables["quant_stats"])) > 0
    (_, (y, updates)), _ = trained(model, VARIABLES | {"quant_stats": variables["quant_stats"]})
    assert error(y, NETWORK.apply(VARIABLES, X)) < 0.2
    counts = [leaf for leaf in jax.tree.leaves(updates["quant_stats"]) if leaf.ndim == 0]
    assert all(count > 0 for count in counts)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_nnx(multiplier):
    layer = fsc.nnx.SeparableConv1D(12, 8, 5, depth_multiplier=multiplier, rngs=nnx.Rngs(0))
    provider = qwix_provider([qwix.QuantizationRule(**INT8)])
    model = qwix.quantize_model(layer, provider, X)
    assert 0 < error(model(X), layer(X)) < 0.03
    gradients = nnx.jit(nnx.grad(lambda model: jnp.mean(model(X) ** 2)))(model)
    assert jnp.abs(gradients["depthwise_kernel"][...]).max() > 0


def test_layers_that_rules_leave_out_stay_exact():
    rules = [qwix.QuantizationRule(module_path="Dense_0", **INT8)]
    model = qwix.quantize_model(NETWORK, qwix_provider(rules))
    hidden = "SeparableConv1D_0"
    own = fsc.SeparableConv1D(16, 5, strides=2, padding="same", activation="relu")
    exact = own.apply({"params": VARIABLES["params"][hidden]}, X)
    _, kept = model.apply(VARIABLES, X, capture_intermediates=True)
    got = kept["intermediates"][hidden]["__call__"][0]
    np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-6)


def test_tiles_are_refused():
    model = qwix.quantize_model(NETWORK, qwix_provider([qwix.QtRule(**INT8, tile_size=4)]))
    with pytest.raises(ValueError, match="tile_size must be None for convolutions"):
        trained(model)
