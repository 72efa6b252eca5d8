"""From a trained network to one that computes in integers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import flax_sepconv as fsc
from flax_sepconv.quantization import Int8, calibrate, convert, fold_batch_norm, quantize
from tests.quantization.networks import (
    LINEN,
    assert_equal,
    batch,
    drawn,
    layer_of,
    observed,
)
from tests.streams import assert_close


class Network(nn.Module):
    """Two blocks, and a head."""

    quantization: Int8 | None = None
    bias: bool = True
    layer: str = "SeparableConv1D"

    @nn.compact
    def __call__(self, x, train=False):
        for i, features in enumerate((8, 6)):
            sizes = (features, 5) if self.layer == "SeparableConv1D" else (5,)
            x = getattr(fsc, self.layer)(
                *sizes,
                padding="same",
                use_bias=self.bias,
                quantization=self.quantization,
                name=f"conv_{i}",
            )(x)
            x = nn.relu(nn.BatchNorm(not train, momentum=0.8, name=f"norm_{i}")(x))
        return nn.Dense(2, name="head")(x.mean(-2))


class NnxNetwork(nnx.Module):
    def __init__(self, quantization=None, *, rngs):
        settings = {"padding": "same", "quantization": quantization, "rngs": rngs}
        self.first = fsc.nnx.SeparableConv1D(3, 8, 5, **settings)
        self.second = fsc.nnx.SeparableConv1D(8, 6, 5, **settings)
        self.head = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.second(nnx.relu(self.first(x)))).mean(-2))


def task(n=64, seed=0):
    """Return sequences, and which of two slopes each has."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    x = rng.standard_normal((n, 24, 3)).astype(np.float32)
    x[..., 0] += (2 * labels[:, None] - 1) * np.linspace(-1, 1, 24) * 1.5
    return x, labels


@pytest.mark.parametrize("is_learned", [False, True])
def test_a_network_trains_and_is_the_same_in_integers(is_learned):
    network, (x, labels) = Network(Int8(learned=is_learned, warmup=4, momentum=0.9)), task()
    variables = drawn(network, x)
    tx = optax.adam(0.01)
    opt_state = tx.init(variables["params"])

    @jax.jit
    def step(variables, opt_state):
        def loss(params):
            logits, updates = network.apply(
                variables | {"params": params},
                x,
                train=True,
                mutable=["quantization", "batch_stats"],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), updates

        (value, updates), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        changes, opt_state = tx.update(gradients, opt_state)
        params = optax.apply_updates(variables["params"], changes)
        return variables | updates | {"params": params}, opt_state, value

    losses = []
    for _ in range(40):
        variables, opt_state, value = step(variables, opt_state)
        losses.append(float(value))
    assert losses[-1] < 0.5 * losses[0]
    converted = convert(network, variables, x[:1])
    kept = converted["quantization"]["conv_0"]
    assert kept.keys() == {
        *("depthwise_scale", "pointwise_scale", "x_scale", "x_zero_point"),
        *("hidden_scale", "hidden_zero_point"),
    }
    assert converted["params"]["conv_0"].keys() == {
        "depthwise_kernel",
        "pointwise_kernel",
        "bias",
    }
    apply = jax.jit(network.apply)
    rounded = apply(variables, x)
    # XLA may add up what is behind a layer in another order.
    assert_close(apply(converted, x), rounded, 1e-5)
    accuracy = (np.argmax(rounded, -1) == labels).mean()
    assert accuracy > 0.85
    if is_learned:
        assert float(kept["x_scale"]) != pytest.approx(1 / 32)
    assert_equal(apply(convert(network, converted, x[:1]), x), apply(converted, x))


def trained(network, x):
    """Return variables whose normalizations are not the identity."""
    variables = drawn(network, x)
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda a: rng.uniform(0.3, 1.7, a.shape).astype(np.float32) if a.ndim == 1 else a, variables
    )


def test_quantization_after_training():
    network, (x, _) = Network(), task()
    variables = trained(network, x)
    apply = jax.jit(network.apply)
    y = apply(variables, x)
    folded = fold_batch_norm(variables, {"conv_0": "norm_0", "conv_1": "norm_1"})
    errors = []
    for config in (Int8(), Int8(activations="dynamic_per_example"), Int8(activations=None)):
        small, integers = quantize(network, folded, [x[:32], x[32:]], config)
        assert integers["params"]["conv_0"]["pointwise_kernel"].dtype == jnp.int8
        assert integers["params"]["head"]["kernel"].dtype == jnp.float32
        found = jax.jit(small.apply)(integers, x)
        errors.append(np.abs(found - y).max() / np.abs(y).max())
    assert max(errors) < 0.03
    assert min(errors) > 0
    # Rounding the weights alone costs the least.
    assert errors[2] == min(errors)
    # What the float network was given is as it was.
    assert "quantization" not in variables


def test_calibration_rounds_nothing():
    """Ranges are those of the float network, of all batches alike."""
    network, (x, _) = Network(Int8(observer="min_max")), task()
    variables = trained(network, x)
    variables.pop("quantization")
    kept = calibrate(network, variables, [x[:20], x[20:40], x[40:]])["quantization"]
    plain = Network()
    _, seen = plain.apply(variables, x, capture_intermediates=True)
    hidden = nn.relu(seen["intermediates"]["norm_0"]["__call__"][0])
    np.testing.assert_allclose(float(kept["conv_1"]["x_high"]), float(hidden.max()), rtol=1e-5)
    assert int(kept["conv_1"]["calls"]) == 3
    assert float(kept["conv_1"]["x_low"]) == 0


def test_calibration_sets_the_steps_that_are_learned():
    layer, x = fsc.SeparableConv1D(5, 4, quantization=Int8(learned=True, symmetric=True)), batch()
    params = drawn(fsc.SeparableConv1D(5, 4), x)
    variables = calibrate(layer, params, [x])
    steps = variables["params"]
    assert float(steps["x_scale"]) == pytest.approx(np.abs(x).max() / 127)
    kernel = steps["depthwise_kernel"]
    np.testing.assert_allclose(steps["depthwise_scale"], np.abs(kernel).max(0) / 127, rtol=1e-6)
    assert_close(layer.apply(variables, x), fsc.SeparableConv1D(5, 4).apply(params, x), 0.05)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("name", LINEN)
def test_folded_normalizations(name, has_bias):
    network, (x, _) = Network(bias=has_bias, layer=name), task(8)
    variables = trained(network, x)
    folded = fold_batch_norm(variables, {"conv_0": "norm_0", "conv_1": "norm_1"})
    apply = jax.jit(network.apply)
    assert_close(apply(folded, x), apply(variables, x), 1e-6)
    assert np.abs(folded["params"]["conv_0"]["depthwise_kernel"]).max() > 0
    # The normalization is exactly the identity, but for the bias where the layer has none.
    norm = nn.BatchNorm(use_running_average=True)
    own = {
        "params": folded["params"]["norm_0"],
        "batch_stats": folded["batch_stats"]["norm_0"],
    }
    ones = jax.random.normal(jax.random.key(1), (5, folded["params"]["norm_0"]["bias"].size))
    expected = ones if has_bias else ones + folded["params"]["norm_0"]["bias"]
    assert_equal(jax.jit(norm.apply)(own, ones), expected)


def test_what_cannot_be_folded():
    x = batch()
    model = nn.Sequential(
        [
            fsc.SeparableConv1D(5, 4, use_bias=False),
            nn.BatchNorm(use_running_average=True, use_bias=False),
            fsc.DepthwiseConv1D(2),
        ]
    )
    variables = drawn(model, x)
    for layers, message in (
        ({"layers_7": "layers_1"}, "layers must name layers of flax_sepconv, got 'layers_7'"),
        ({"layers_0": "layers_2"}, "must name nn.BatchNorm modules .*, got 'layers_2'"),
        ({"layers_0": "layers_1"}, "'layers_0' or 'layers_1' must have a bias"),
    ):
        with pytest.raises(ValueError, match=message):
            fold_batch_norm(variables, layers)
    variables["batch_stats"]["layers_1"]["mean"] = jnp.zeros(4)
    with pytest.raises(ValueError, match="as many channels as 'layers_0' gives, 5, got 4"):
        fold_batch_norm(variables, {"layers_0": "layers_1"})


def test_nnx_networks():
    x, _ = task(16)
    network = NnxNetwork(rngs=nnx.Rngs(0))
    network.eval()
    y = network(x)
    small = fsc.quantization.nnx.quantize(network, [x])
    assert_close(small(x), y, 0.05)
    assert small.first.depthwise_kernel.dtype == jnp.int8
    assert network.first.depthwise_kernel.dtype == jnp.float32
    assert network.first.quantization is None
    # A quantized network keeps its mode, and what it has seen before.
    trained = NnxNetwork(Int8(learned=True), rngs=nnx.Rngs(0))
    trained.eval()
    with pytest.raises(ValueError, match="SeparableConv1D has not observed the range of 'x'"):
        trained(x)
    with pytest.raises(ValueError, match="has not observed the range of 'x'"):
        fsc.quantization.nnx.convert(trained)
    trained = fsc.quantization.nnx.calibrate(trained, [x, x])
    assert trained.first.use_running_average
    assert int(trained.first.calls[...]) == 2
    assert float(trained.first.x_scale[...]) == pytest.approx((x.max() - x.min()) / 255, rel=1e-5)
    assert_close(fsc.quantization.nnx.convert(trained)(x), trained(x), 1e-6)
    assert_close(trained(x), y, 0.05)
    for call in (
        fsc.quantization.nnx.convert,
        lambda model: fsc.quantization.nnx.quantize(model, [x]),
    ):
        with pytest.raises(ValueError, match="must have layers with quantization=Int8"):
            call(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="at least one batch"):
        fsc.quantization.nnx.calibrate(trained, [])


def test_nnx_training_and_stacked_layers():
    x = batch()

    @nnx.vmap(in_axes=0, out_axes=0)
    def make(rngs):
        return fsc.nnx.SeparableConv1D(3, 3, 4, quantization=Int8(), rngs=rngs)

    layers = make(nnx.Rngs(0).split(2))

    @nnx.jit
    def call(layers, x):
        return nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))(layers, x)

    y = call(layers, x)
    assert layers.x_low.shape == (2,)
    small = fsc.quantization.nnx.convert(layers)
    assert small.depthwise_scale.shape == (2, 3, 1)
    layers.eval()
    assert_equal(call(small, x), y)

    layer = fsc.nnx.SeparableConv1D(3, 3, 4, quantization=Int8(), rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(layer, optax.sgd(0.05), wrt=nnx.Param)

    @nnx.jit
    def step(layer, optimizer):
        value, gradients = nnx.value_and_grad(lambda layer: jnp.mean((layer(x) - 1) ** 2))(layer)
        optimizer.update(layer, gradients)
        return value

    losses = [float(step(layer, optimizer)) for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]
    assert int(layer.calls[...]) == 20


def test_what_cannot_be_converted():
    x = batch()
    layer = layer_of("SeparableConv1D", Int8())
    variables = drawn(layer, x)
    with pytest.raises(ValueError, match="_scale' is nan: calibrate the model first"):
        convert(layer, variables, x)
    plain = layer.clone(quantization=None)
    with pytest.raises(ValueError, match="must have layers with quantization=Int8"):
        convert(plain, {"params": variables["params"]}, x)
    with pytest.raises(ValueError, match="at least one batch, got none"):
        calibrate(layer, variables, [])
    variables["params"].pop("bias")
    with pytest.raises(ValueError, match="all weights of the model, 'params/bias' is not there"):
        calibrate(layer, variables, [x])


def test_a_linen_model_inside_nnx():
    """Its ranges are in the collection of the bridge, and are observed where it is mutable."""
    x = batch()
    layer = layer_of("SeparableConv1D", Int8())
    bridge = fsc.nnx.from_linen(layer, x, rngs=nnx.Rngs(0))
    bridge(x, mutable=["quantization"])
    variables, y = observed(layer, x)
    assert_equal(bridge.x_low[...], variables["quantization"]["x_low"])
    assert isinstance(bridge.x_low, fsc.nnx.QuantizationState)
    assert bridge(x).shape == y.shape


def test_an_nnx_layer_inside_linen():
    x = batch()
    bridge = nnx.bridge.ToLinen(
        fsc.nnx.SeparableConv1D, args=(3, 5, 4), kwargs={"quantization": Int8()}
    )
    variables = drawn(bridge, x)
    y, updates = bridge.apply(variables, x, mutable=["quantization"])
    assert np.isfinite(y).all()
    assert float(updates["quantization"]["x_high"]) == x.max()
