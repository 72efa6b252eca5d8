"""Gradients: rounding has the derivative 1, and step sizes have LSQ's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_sepconv as fsc
from flax_sepconv.quantization import Int8
from flax_sepconv.quantization.rounding import integers, trained_scale
from tests import oracle as float_oracle
from tests.quantization import oracle
from tests.quantization.networks import (
    LINEN,
    batch,
    layer_of,
    learned_of,
    observed,
    oracle_settings,
    weights_of,
)
from tests.streams import assert_close


def lsq(v, scale, least, greatest):
    """Return d(rounded v) / d(scale), as LSQ's paper has it (equation 3)."""
    steps = v / scale
    inside = np.rint(steps) - steps
    return np.where(steps <= least, least, np.where(steps >= greatest, greatest, inside))


def test_a_step_size_has_the_gradient_of_lsq():
    rng, scale = np.random.default_rng(0), np.float32(0.05)
    v = (4 * rng.standard_normal(200)).astype(np.float32)
    upstream = rng.standard_normal(200).astype(np.float32)
    assert (np.abs(v / scale) > 127).sum() > 10

    def real(v, scale):
        step = trained_scale(scale, v.size)
        return jnp.sum(upstream * integers(v, step, (-128, 127)) * step)

    of_v, of_scale = jax.grad(real, (0, 1))(v, scale)
    inside = (v / scale > -128) & (v / scale < 127)
    np.testing.assert_allclose(of_v, upstream * inside, rtol=1e-6)
    expected = (upstream * lsq(v, scale, -128, 127)).sum() / np.sqrt(v.size * 127)
    np.testing.assert_allclose(of_scale, expected, rtol=1e-5)
    # A step size that went below zero counts as its magnitude, and can come back.
    np.testing.assert_allclose(jax.grad(real, 1)(v, -scale), -of_scale, rtol=1e-6)


@pytest.mark.parametrize("is_learned", [False, True])
@pytest.mark.parametrize("name", LINEN)
def test_gradients_of_a_layer(name, is_learned):
    """Those of the float layer at the rounded numbers, but where something is cut off."""
    config = Int8(learned=is_learned, symmetric=is_learned)
    settings = {"padding": "same", "depth_multiplier": 2, "use_bias": not is_learned}
    layer, x = layer_of(name, config, **settings), 2 * batch()
    variables, _ = observed(layer, x)
    # Ranges and steps that cut off: some values are outside.
    ranges = {"x": (-1.5, 1.0), "hidden": (-0.5, 0.7)}
    for letter in ranges if len(LINEN[name]) > 1 else ("x",):
        for end, value in zip(("low", "high"), ranges[letter], strict=True):
            variables["quantization"][f"{letter}_{end}"] = jnp.float32(value)
        if is_learned:
            variables["params"][f"{letter}_scale"] = jnp.float32(ranges[letter][1] / 127)
    if is_learned:
        variables["params"]["depthwise_scale"] *= 0.9
    found = oracle.numbers(
        x,
        weights_of(variables),
        config=config,
        ranges=ranges,
        steps=learned_of(variables),
        **oracle_settings(settings),
    )
    upstream = np.random.default_rng(3).standard_normal(found.y.shape).astype(np.float32)

    @jax.jit
    @jax.value_and_grad
    def loss(given):
        params, x = given
        y = layer.apply(variables | {"params": params}, x)
        return jnp.sum(upstream * y)

    _, (of_params, of_x) = loss((variables["params"], x))
    k, w = (variables["params"].get(f"{n}_kernel") for n in ("depthwise", "pointwise"))
    kind = oracle_settings(settings)
    scales = found.scales
    lanes = np.broadcast_to(scales["k"], k.shape[1:])
    rounded_x, rounded_k = found.x * scales["x"], found.k * scales["k"]
    of_h = upstream
    expected = {}
    real_h = float_oracle.depthwise(rounded_x, rounded_k, **kind)
    if w is not None:
        rounded_w, rounded_h = found.w * scales["w"], found.h * scales["h"]
        of_rounded_h = upstream @ rounded_w[0].T
        inside = is_inside(real_h, scales["h"], ranges["hidden"], config)
        assert 0.02 < 1 - inside.mean() < 0.8
        of_h = of_rounded_h * inside
        of_w = np.einsum("blj,blf->jf", rounded_h, upstream)[None]
        expected["pointwise_kernel"] = of_w * (np.abs(w / scales["w"]) < 127)
        if not is_learned:
            expected["pointwise_kernel"] = of_w
        count = np.sqrt(np.prod(real_h.shape[1:]) * 127)
        slope = lsq(real_h, scales["h"], -128, 127)
        expected["hidden_scale"] = (of_rounded_h * slope).sum() / count
        slope = lsq(w, scales["w"], -127, 127)
        expected["pointwise_scale"] = (of_w * slope).sum((0, 1)) / np.sqrt(w.shape[1] * 127)
    of_rounded_x, of_rounded_k = float_oracle.depthwise_vjp(rounded_x, rounded_k, of_h, **kind)
    inside = is_inside(x, scales["x"], ranges["x"], config)
    assert 0.02 < 1 - inside.mean() < 0.8
    assert_close(of_x, of_rounded_x * inside, 1e-5)
    cut_off = np.abs(k / scales["k"]) >= 127
    assert cut_off.any() or not is_learned
    expected["depthwise_kernel"] = of_rounded_k * ~(cut_off & is_learned)
    count = np.sqrt(np.prod(x.shape[1:]) * 127)
    expected["x_scale"] = (of_rounded_x * lsq(x, scales["x"], -128, 127)).sum() / count
    slope = lsq(k, lanes, -127, 127)
    expected["depthwise_scale"] = (of_rounded_k * slope).sum(0) / np.sqrt(k.shape[0] * 127)
    expected["bias"] = upstream.sum((0, 1))
    for parameter, gradient in of_params.items():
        assert_close(gradient, expected[parameter], 2e-4 if "scale" in parameter else 1e-5)
    if is_learned:
        steps = {"x_scale", "depthwise_scale", "hidden_scale", "pointwise_scale"}
        assert of_params.keys() & steps == steps & expected.keys()


def is_inside(real, scale, ends, config):
    zero = 0 if config.symmetric else oracle.steps_of_range(*map(np.float32, ends), False)[1]
    return (real / scale > -128 - zero) & (real / scale < 127 - zero)


def test_forward_mode_second_derivatives_and_batches_of_calls():
    layer, x = layer_of("SeparableConv1D", Int8(), activation="tanh"), batch()
    variables, _ = observed(layer, x)
    params = variables["params"]
    tangent = jax.tree.map(jnp.ones_like, params)

    def loss(params, x=x):
        return jnp.sum(layer.apply(variables | {"params": params}, x) ** 2)

    @jax.jit
    def everything(params):
        slope = jax.jvp(loss, (params,), (tangent,))[1]
        gradient = jax.grad(loss)(params)
        curvature = jax.jvp(jax.grad(loss), (params,), (tangent,))[1]
        back = jax.grad(lambda p: jax.jvp(loss, (p,), (tangent,))[1])(params)
        losses = jax.vmap(loss, (None, 0))(params, jnp.stack([x, 2 * x]))
        remat = jax.grad(jax.checkpoint(loss))(params)
        return slope, gradient, curvature, back, losses, remat

    slope, gradient, curvature, back, losses, remat = everything(params)
    np.testing.assert_allclose(slope, sum(map(jnp.sum, jax.tree.leaves(gradient))), rtol=1e-4)
    for name in params:
        assert_close(curvature[name], back[name], 1e-4)
        assert_close(remat[name], gradient[name], 1e-6)
        assert np.abs(curvature[name]).max() > 0
    np.testing.assert_allclose(losses, [loss(params, x), loss(params, 2 * x)], rtol=1e-5)


def test_integers_have_no_derivative():
    layer, x = layer_of("SeparableConv1D", Int8()), batch()
    variables, _ = observed(layer, x)
    converted = fsc.quantization.convert(layer, variables, x)
    with pytest.raises(TypeError, match="no derivative: train with"):
        jax.grad(lambda x: jnp.sum(layer.apply(converted, x)))(x)
