"""From Keras: a model of Keras 3 is saved, converted, and compared layer by layer.

Keras writes a `.keras` file. `flax_sepconv.interop` reads it without Keras: the weights by name and
the layers' arguments from their configs. The same input then goes through both models. Keras is
needed here only to have a model to convert (`pip install '.[interop]' keras`). A real run:

first: depthwise_kernel (5, 6, 1), pointwise_kernel (1, 6, 16), bias (16,)
second: depthwise_kernel (7, 16, 2), bias (32,)
third: depthwise_kernel (3, 32, 1), pointwise_kernel (1, 32, 8), bias (8,)
behind first: (4, 100, 16), differs by 1e-07
behind second: (4, 100, 32), differs by 2e-07
behind third: (4, 49, 8), differs by 2e-07
constraints came too: ['layers_2']['depthwise_kernel']
"""

import os
import pathlib
import sys
import tempfile
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import flax_sepconv as fsc
from flax_sepconv import interop


def keras_model(channels: int) -> Any:
    """Return a model of Keras 3 with random weights."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras
    except ImportError:
        sys.exit("from_keras needs Keras 3: pip install keras")
    keras.utils.set_random_seed(0)
    some = {"padding": "same", "bias_initializer": "random_normal"}
    return keras.Sequential(
        [
            keras.Input((None, channels)),
            keras.layers.SeparableConv1D(16, 5, activation="relu", name="first", **some),
            keras.layers.DepthwiseConv1D(
                7, depth_multiplier=2, activation="silu", name="second", **some
            ),
            keras.layers.SeparableConv1D(
                8, 3, strides=2, depthwise_constraint=keras.constraints.MaxNorm(1.0), name="third"
            ),
        ]
    )


def made_of(layer: interop.Layer) -> nn.Module:
    """Return the layer that a file describes, and print what it has."""
    shapes = ", ".join(f"{name} {weight.shape}" for name, weight in layer.weights.items())
    print(f"{layer.path}: {shapes}")
    assert layer.config is not None  # A .keras file has them; weights alone do not.
    if "pointwise_kernel" in layer.weights:
        return fsc.SeparableConv1D.from_keras_config(layer.config)
    return fsc.DepthwiseConv1D.from_keras_config(layer.config)


def main(batch: int = 4, steps: int = 100, channels: int = 6) -> dict[str, float]:
    """Convert and compare; print and return by layer the difference over the largest output."""
    theirs = keras_model(channels)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.keras")
        theirs.save(path)
        layers = interop.load(path)
    made = [made_of(layer) for layer in layers]
    model = nn.Sequential(made)
    params = interop.to_params(layers, {each.path: f"layers_{i}" for i, each in enumerate(layers)})

    x = np.random.default_rng(1).standard_normal((batch, steps, channels), np.float32)
    apart: dict[str, float] = {}
    ours: Any = jnp.asarray(x)
    wanted = x
    for i, (layer, keras_layer) in enumerate(zip(made, theirs.layers, strict=True)):
        ours = layer.apply({"params": params[f"layers_{i}"]}, ours)
        wanted = np.asarray(keras_layer(wanted))
        assert ours.shape == wanted.shape
        apart[keras_layer.name] = float(np.abs(ours - wanted).max() / np.abs(wanted).max())
        print(f"behind {keras_layer.name}: {ours.shape}, differs by {apart[keras_layer.name]:.0e}")
    whole: Any = jax.jit(model.apply)({"params": params}, x)
    assert np.allclose(whole, wanted, atol=1e-5 * np.abs(wanted).max())

    constraints = fsc.constraints_of(model, jax.random.key(0), x)
    bounded = [
        jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(constraints)
    ]
    print(f"constraints came too: {', '.join(bounded)}")
    return apart


if __name__ == "__main__":
    main()
