"""Weights and inputs that leave integers little room: right numbers, or an error."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_sepconv as fsc
from flax_sepconv import quantization
from flax_sepconv.quantization import Int8

X = np.random.default_rng(0).normal(size=(4, 12, 3)).astype(np.float32)


def layer(**settings):
    return fsc.SeparableConv1D(4, 3, **settings)


def params(**changes):
    own = layer().init(jax.random.key(1), X)["params"]
    return {**own, **{name: change(own[name]) for name, change in changes.items()}}


@pytest.mark.parametrize("factor", [1e-4, 1e-6, 1e-8, 0.0])
@pytest.mark.parametrize("weights", ["per_channel", "per_tensor"])
def test_a_bias_stays_beside_weights_that_are_almost_zero(factor, weights):
    some = Ellipsis if weights == "per_tensor" else (Ellipsis, 0)
    own = params(pointwise_kernel=lambda w: w.at[some].multiply(factor), bias=lambda bias: bias + 1)
    model = layer(quantization=Int8(weights=weights))
    ready = quantization.calibrate(model, {"params": own}, [X])
    rounded = model.apply(ready, X)
    integers = quantization.convert(model, ready, X)
    np.testing.assert_allclose(model.apply(integers, X), rounded, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(
        rounded[..., 0], layer().apply({"params": own}, X)[..., 0], atol=1e-3
    )


class Normalized(nn.Module):
    shared: bool = False

    @nn.compact
    def __call__(self, x):
        norm = nn.BatchNorm(use_running_average=True, name="norm")
        x = norm(fsc.SeparableConv1D(3, 3, padding="same", name="one")(x))
        if self.shared:
            x = norm(fsc.SeparableConv1D(3, 3, padding="same", name="two")(x))
        return x


def test_what_cannot_be_folded():
    model = Normalized(shared=True)
    variables = model.init(jax.random.key(0), X)
    with pytest.raises(
        ValueError, match="must have a normalization each, 'norm' is that of several"
    ):
        quantization.fold_batch_norm(variables, {"one": "norm", "two": "norm"})
    model = quantization.QuantizedModel(Normalized())
    ready = quantization.calibrate(model, model.init(jax.random.key(0), X), [X])
    for late in (ready, quantization.convert(model, ready, X)):
        with pytest.raises(ValueError, match="'one' must be folded before it is calibrated"):
            quantization.fold_batch_norm(late, {"one": "norm"})


@pytest.mark.parametrize("name", ["pointwise_kernel", "bias"])
def test_weights_that_are_not_finite(name):
    own = params(**{name: lambda w: w.at[..., 0].set(jnp.nan)})
    model = layer(quantization=Int8())
    ready = quantization.calibrate(model, {"params": params()}, [X])
    with pytest.raises(ValueError, match=f"{name}'? must be finite to be converted, got nan"):
        quantization.convert(model, {**ready, "params": own}, X)
    made = fsc.nnx.SeparableConv1D(3, 4, 3, quantization=Int8(), rngs=nnx.Rngs(0))
    made(X)
    weight = getattr(made, name)
    weight[...] = weight[...].at[..., 0].set(jnp.nan)
    with pytest.raises(ValueError, match=f"{name} of a SeparableConv1D must be finite"):
        quantization.nnx.convert(made)


def test_inputs_that_are_not_finite():
    spoiled = X.copy()
    spoiled[0, 0, 0] = np.nan
    variables = {"params": params()}
    with pytest.raises(ValueError, match="on inputs and with weights that are finite"):
        quantization.quantize(layer(), variables, [spoiled])


def test_a_config_of_another_kind():
    with pytest.raises(TypeError, match=r"config must be a .*\.Int8, got 'int8'"):
        quantization.quantize(layer(), {"params": params()}, [X], "int8")
    made = fsc.nnx.SeparableConv1D(3, 4, 3, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"config must be a .*\.Int8, got None"):
        quantization.nnx.quantize(made, [X], None)


def test_first_calls_under_debug_nans():
    model = layer(quantization=Int8())
    variables = model.init(jax.random.key(0), X)
    with jax.debug_nans(True):
        _, updates = model.apply(variables, X, mutable=["quantization"])
    assert np.isfinite(updates["quantization"]["x_high"])
