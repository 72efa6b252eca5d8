"""The layers of the networks in Keras, and how they get their weights."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from benchmarks.networks.description import Description, Layer

# Layers are those of `keras`, tensors those between them.
Tensor = Any
Apply = Callable[[str, Tensor], Tensor]

# What Keras calls the weights of a kind of layer, where it has another name.
NAMES = {
    "depthwise": {"depthwise_kernel": "kernel"},
    "batch_norm": {"scale": "gamma", "bias": "beta"},
    "layer_norm": {"scale": "gamma", "bias": "beta"},
    "global_norm": {"scale": "gamma", "bias": "beta"},
    "prelu": {"negative_slope": "alpha"},
}


def make(name: str, of: Layer) -> keras.layers.Layer:
    """Make a layer."""
    named: dict[str, Any] = {"name": keras_name(name)}
    match of.kind:
        case "batch_norm":
            return keras.layers.BatchNormalization(
                momentum=of.momentum, epsilon=of.epsilon, **named
            )
        case "layer_norm":
            return keras.layers.LayerNormalization(epsilon=of.epsilon, **named)
        case "global_norm":
            return keras.layers.GroupNormalization(1, epsilon=of.epsilon, **named)
        case "prelu":
            return keras.layers.PReLU(shared_axes=[1, 2], **named)
    named["use_bias"] = of.use_bias
    if of.kind == "dense":
        return keras.layers.Dense(of.filters, **named)
    sizes = of.kernel_size, of.strides
    named |= {"padding": "same", "dilation_rate": of.dilation_rate}
    match of.kind:
        case "separable":
            return keras.layers.SeparableConv1D(of.filters, *sizes, **named)
        case "depthwise":
            return keras.layers.DepthwiseConv1D(*sizes, **named)
    return keras.layers.Conv1D(of.filters, *sizes, **named)


def keras_name(name: str) -> str:
    """Return a name that Keras takes: without slashes."""
    return name.replace("/", ".")


def layers_of(description: Description) -> Apply:
    """Make the layers; the function applies the one with a name."""
    layers = {name: make(name, of) for name, of in description.layers().items()}
    return lambda name, x: layers[name](x)


def load(model: keras.Model, description: Description, weights: dict[str, np.ndarray]) -> None:
    """Give the model these weights; every trained weight has its place."""
    loaded, layers = [], description.layers()
    for path, value in weights.items():
        layer, _, name = path.rpartition("/")
        name = NAMES.get(layers[layer].kind, {}).get(name, name)
        variable = getattr(model.get_layer(keras_name(layer)), name)
        variable.assign(np.reshape(value, variable.shape))
        loaded.append(variable.path)
    expected = sorted(variable.path for variable in model.trainable_variables)
    if sorted(loaded) != expected:
        raise ValueError(f"weights must be {expected}, got {sorted(loaded)}")
