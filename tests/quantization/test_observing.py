"""Ranges: what calls observe, against NumPy, and the first calls, which round nothing."""

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_sepconv as fsc
from flax_sepconv.quantization import Int8
from tests import oracle as float_oracle
from tests.quantization import oracle
from tests.quantization.networks import (
    LINEN,
    batch,
    drawn,
    layer_of,
    observed,
    weights_of,
)
from tests.streams import assert_close


def ends(x):
    return np.array([min(x.min(), 0), max(x.max(), 0)], np.float32)


@pytest.mark.parametrize("observer", ["moving_average", "min_max"])
def test_ranges_of_several_calls(observer):
    config = Int8(observer=observer, momentum=0.6, output=True)
    layer = layer_of("SeparableConv1D", config, activation="relu")
    batches = [batch(seed=seed) * (1 + seed % 3) for seed in range(6)]
    batches[1] += 9  # Nothing below zero.
    variables = layer.init(jax.random.key(0), batches[0])
    assert int(variables["quantization"]["calls"]) == 0

    @jax.jit
    def call(variables, x):
        return layer.apply(variables, x, mutable=["quantization"])

    expected = None
    for n, x in enumerate(batches):
        _, updates = call(variables, x)
        variables = variables | updates
        seen = ends(x)
        if expected is None:
            expected = seen
        elif observer == "min_max":
            expected = np.array([min(expected[0], seen[0]), max(expected[1], seen[1])])
        else:
            rate = max(0.4, 1 / (n + 1))
            expected = expected + (seen - expected) * np.float32(rate)
        kept = variables["quantization"]
        np.testing.assert_allclose((kept["x_low"], kept["x_high"]), expected, rtol=1e-6)
        assert int(kept["calls"]) == n + 1
    # The first calls count alike, and the output's range is of what comes behind the activation.
    assert kept["output_low"] == 0 < kept["output_high"]
    if observer == "min_max":
        rounded_x = oracle.whole(x, *oracle.steps_of_range(*expected, False))
        assert np.ptp(rounded_x) <= 255
    # What a call with frozen ranges leaves is nothing.
    _, updates = layer.apply(variables, batches[0], mutable=["intermediates"])
    assert not updates


def test_the_range_of_the_hidden_values():
    layer, x = layer_of("SeparableConv1D", Int8(), padding="same"), batch()
    variables, _ = observed(layer, x)
    found = oracle.numbers(x, weights_of(variables), config=Int8(), S=1, D=1, padding="same")
    sums = float_oracle.depthwise(found.x, found.k, padding="same").astype(np.float32)
    real = sums * (found.scales["x"] * found.scales["k"].reshape(-1))
    kept = variables["quantization"]
    np.testing.assert_array_equal((kept["hidden_low"], kept["hidden_high"]), ends(real))


@pytest.mark.parametrize("kind", ["static", "dynamic"])
@pytest.mark.parametrize("name", LINEN)
def test_the_first_calls_round_nothing(name, kind):
    config = Int8(activations=kind, warmup=2, output=True)
    layer, x = layer_of(name, config, padding="same", activation="tanh"), batch()
    variables = drawn(layer, x, seed=1)
    plain = layer.clone(quantization=None).apply({"params": variables["params"]}, x)

    @jax.jit
    def loss(params, variables):
        y, updates = layer.apply(variables | {"params": params}, x, mutable=["quantization"])
        return jnp.sum(y**2), (y, updates)

    @jax.jit
    @jax.grad
    def gradient(params):
        return jnp.sum(layer.clone(quantization=None).apply({"params": params}, x) ** 2)

    # A call that observes nothing needs no ranges as long as nothing is rounded.
    assert_close(layer.apply(variables, x), plain, 1e-6)
    expected = gradient(variables["params"])
    for call in range(4):
        found, (y, updates) = jax.grad(loss, has_aux=True)(variables["params"], variables)
        variables = variables | updates
        error = np.abs(y - plain).max() / np.abs(plain).max()
        assert (error <= 1e-6) == (call < 2)
        assert error < 0.05
        if call < 2:
            for weight, value in found.items():
                assert_close(value, expected[weight], 1e-5)
    assert int(variables["quantization"]["calls"]) == 4


def test_what_is_behind_the_ends_is_not_observed():
    layer, x = layer_of("SeparableConv1D", Int8(), padding="same"), batch(B=2)
    lengths, behind = jnp.array([12, 19]), x.copy()
    behind[0, 12:] = np.nan
    variables = drawn(layer, x, seed=1)

    @jax.jit
    def call(x, lengths):
        return layer.apply(variables, x, lengths, mutable=["quantization"])

    y, updates = call(behind, lengths)
    kept = updates["quantization"]
    seen = np.concatenate([x[0, :12], x[1]])
    np.testing.assert_array_equal((kept["x_low"], kept["x_high"]), ends(seen))
    assert np.isfinite(list(kept.values())).all()
    np.testing.assert_array_equal(y[0, 12:], 0)
    frozen = variables | updates
    alone = layer.apply(frozen, x[:1, :12])
    np.testing.assert_array_equal(layer.apply(frozen, behind, lengths)[:1, :12], alone)


def test_ranges_that_were_never_observed():
    layer, x = layer_of("SeparableConv1D", Int8()), batch()
    network = nn.Sequential([nn.relu, layer])
    variables = drawn(network, x)
    message = "layers_1 has not observed the range of 'x': calibrate .*nnx: after model.train"
    with pytest.raises(ValueError, match=message):
        network.apply(variables, x)
    assert np.isnan(jax.jit(network.apply)(variables, x)).all()
    with pytest.raises(ValueError, match="layers_1 has not observed 'x_low', 'x_high', 'hidden"):
        jax.jit(network.apply)({"params": variables["params"]}, x)
    # A collection that is mutable is begun, wherever the parameters come from.
    _, updates = network.apply({"params": variables["params"]}, x, mutable=["quantization"])
    assert np.isfinite(network.apply(variables | updates, x)).all()
    with pytest.raises(flax.errors.FlaxError):
        network.apply({}, x, mutable=["quantization"])


def test_divided_steps_are_observed_together():
    mesh = jax.make_mesh((4,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    layer, x = layer_of("SeparableConv1D", Int8(), padding="same"), batch(L=24)
    variables, y = observed(layer, x)
    whole = jax.sharding.PartitionSpec()
    steps = jax.sharding.PartitionSpec(None, "i")
    before = drawn(layer, x, seed=1)

    @jax.jit
    @jax.shard_map(mesh=mesh, in_specs=(whole, steps), out_specs=(steps, whole))
    def call(variables, x):
        return layer.apply(variables, x, axis_name="i", mutable=["quantization"])

    divided, updates = call(before, x)
    assert_close(divided, y, 1e-6)
    for name, value in updates["quantization"].items():
        np.testing.assert_array_equal(value, variables["quantization"][name])
    converted = fsc.quantization.convert(layer, variables, x)

    @jax.jit
    @jax.shard_map(mesh=mesh, in_specs=(whole, steps), out_specs=steps)
    def infer(variables, x):
        return layer.apply(variables, x, axis_name="i")

    np.testing.assert_array_equal(infer(converted, x), layer.apply(converted, x))
