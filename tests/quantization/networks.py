"""What the tests of quantization share: layers with weights, and their ranges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import flax_sepconv as fsc

LINEN = {"SeparableConv1D": (5, 4), "DepthwiseConv1D": (4,)}
SETTINGS = {
    "valid": {},
    "strided": {"padding": "same", "strides": 2, "depth_multiplier": 2},
    "dilated": {"padding": "causal", "dilation_rate": 2, "use_bias": False},
    "numbers": {"padding": (1, 3), "activation": "relu"},
}


def batch(B=3, L=19, C=3, seed=0):
    """Return (B, L, C), not the same on both sides of zero."""
    x = np.random.default_rng(seed).standard_normal((B, L, C)) + 0.3
    return x.astype(np.float32)


def layer_of(name, config, **settings):
    return getattr(fsc, name)(
        *LINEN[name], quantization=config, bias_initializer="random_normal", **settings
    )


def drawn(layer, *inputs, seed=0):
    """Return a layer's first variables; no call is computed for them, and no program compiled."""
    return layer.lazy_init(jax.random.key(seed), *inputs)


def observed(layer, x, seed=1):
    """Return a layer's variables after one call, and its output."""
    variables = drawn(layer, x, seed=seed)
    apply = jax.jit(functools.partial(layer.apply, mutable=["quantization"]))
    y, updates = apply(variables, x)
    return variables | updates, y


def compiled(layer, x, is_converted=False):
    """Return a layer's compiled call, with the ranges of x, and its variables."""
    variables, _ = observed(layer, x)
    if is_converted:
        variables = fsc.quantization.convert(layer, variables, x)
    apply = jax.jit(layer.apply, static_argnames="return_state")
    return functools.partial(apply, variables), variables


def weights_of(variables):
    return {name: np.asarray(w) for name, w in variables["params"].items() if "scale" not in name}


def learned_of(variables):
    return {name: np.asarray(w) for name, w in variables["params"].items() if "scale" in name}


def oracle_settings(settings):
    """Return strides, dilation and padding as the oracle calls them."""
    return {
        "S": settings.get("strides", 1),
        "D": settings.get("dilation_rate", 1),
        "padding": settings.get("padding", "valid"),
    }


def activated(y, settings):
    return np.maximum(y, 0) if settings.get("activation") == "relu" else y


def assert_equal(actual, expected):
    np.testing.assert_array_equal(np.asarray(actual), np.asarray(jnp.asarray(expected)))
