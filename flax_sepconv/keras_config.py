"""Keras' dict of a SeparableConv1D, to the arguments of our layer and back.

Keras 2 and Keras 3 write the same arguments in slightly different dicts; both are read. What is
written is read by both, as far as they have what it describes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from flax_sepconv import activations, constraints, initializers, regularizers
from flax_sepconv.params import Arguments

CLASS_NAMES = ("SeparableConv1D", "SeparableConvolution1D")
VERSIONS = (2, 3)

_SINGLE = ("kernel_size", "strides", "dilation_rate")
_OBJECTS: dict[str, Callable[[Any], Any]] = {
    "activation": activations.serialize,
    **{f"{w}_initializer": initializers.serialize for w in ("depthwise", "pointwise", "bias")},
    **{f"{w}_regularizer": regularizers.serialize for w in ("depthwise", "pointwise", "bias")},
    "activity_regularizer": regularizers.serialize,
    **{f"{w}_constraint": constraints.serialize for w in ("depthwise", "pointwise", "bias")},
}
_TAKEN = (
    "filters",
    *_SINGLE,
    "padding",
    "data_format",
    "depth_multiplier",
    "use_bias",
    "trainable",
    *_OBJECTS,
)
# What Keras writes for its general convolution and does not use in this layer, the shapes it was
# built with, and how a model casts its inputs.
_UNUSED = {
    "kernel_initializer",
    "kernel_regularizer",
    "kernel_constraint",
    "batch_input_shape",
    "batch_shape",
    "build_config",
    "autocast",
}


def arguments_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of our layer that a Keras dict describes.

    Args:
        config: what `layer.get_config()` gave, or a serialized layer with its "class_name" and
            "config".

    Raises:
        ValueError, TypeError: names the argument, and the object that is not Keras' own.

    Example:
        >>> arguments_of({"name": "sep", "filters": 5, "kernel_size": [3], "strides": [2]})
        {'filters': 5, 'kernel_size': 3, 'strides': 2, 'name': 'sep'}
    """
    if not isinstance(config, Mapping):
        raise TypeError(f"config must be the dict of a Keras layer, got {config!r}")
    if "class_name" in config:
        if config["class_name"] not in CLASS_NAMES:
            raise ValueError(
                f"config must be of a layer {CLASS_NAMES[0]}, got one of class "
                f"{config['class_name']!r}"
            )
        return arguments_of(config.get("config", {}))
    missing = [name for name in ("filters", "kernel_size") if name not in config]
    if missing:
        raise ValueError(f"config of a {CLASS_NAMES[0]} must have {missing[0]!r}, got {config!r}")
    unknown = sorted(set(config) - set(_TAKEN) - _UNUSED - {"name", "dtype", "groups"})
    if unknown:
        raise ValueError(f"config has {unknown[0]!r}, which is no argument of {CLASS_NAMES[0]}")
    if config.get("groups", 1) != 1:
        raise ValueError(f"groups must be 1, got {config['groups']!r}")
    arguments = {name: config[name] for name in _TAKEN if name in config}
    for name in _SINGLE:
        value = arguments.get(name)
        if isinstance(value, list | tuple) and len(value) == 1:
            arguments[name] = value[0]
    if config.get("name") is not None:
        arguments["name"] = config["name"]
    checked = {name: value for name, value in arguments.items() if name != "name"}
    Arguments(**checked)  # A wrong or unknown argument is named here, before any layer is made.
    return arguments | _dtypes(config.get("dtype"))


def config_of(
    arguments: Arguments,
    name: str | None = None,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    version: int = 3,
) -> dict[str, Any]:
    """Return the dict from which Keras makes the layer: `SeparableConv1D.from_config(...)`.

    Args:
        arguments: of our layer.
        name: of the layer; None leaves it to Keras.
        dtype: of the computation; None is `param_dtype`.
        param_dtype: of the weights.
        version: of Keras, 2 or 3.

    Raises:
        ValueError, TypeError: the argument that Keras has not.

    Example:
        >>> config = config_of(Arguments(filters=5, kernel_size=3, activation="relu"), "sep")
        >>> config["name"], config["kernel_size"], config["activation"]
        ('sep', [3], 'relu')
    """
    if version not in VERSIONS:
        raise ValueError(f"version must be 2 or 3, got {version!r}")
    if version == 3 and arguments.padding == "causal":
        raise ValueError(
            "padding 'causal' is refused by Keras 3's SeparableConv1D; pad the input there by "
            f"D*(K-1) = {arguments.dilation_rate * (arguments.kernel_size - 1)} zeros on the left "
            "and use 'valid', or write version=2"
        )
    config: dict[str, Any] = {} if name is None else {"name": name}
    config["dtype"] = _policy(dtype, param_dtype)
    for argument in _TAKEN:
        value = getattr(arguments, argument)
        if argument in _SINGLE:
            value = [value]
        elif argument in _OBJECTS:
            try:
                value = _OBJECTS[argument](value)
            except TypeError as error:
                raise TypeError(f"{argument}: {error}") from error
        config[argument] = value
    return config


def _dtypes(policy: Any) -> dict[str, Any]:
    """Return our two dtypes for a name of a Keras dtype or policy, or for a policy's dict."""
    if policy is None:
        return {}
    if isinstance(policy, Mapping):
        if policy.get("class_name") not in ("DTypePolicy", "Policy"):
            raise ValueError(f"dtype must be a dtype or a DTypePolicy, got {dict(policy)!r}")
        policy = policy.get("config", {}).get("name")
    mixed = isinstance(policy, str) and policy.startswith("mixed_")
    name = policy.removeprefix("mixed_") if mixed else policy
    if name not in ("float16", "bfloat16", "float32", "float64"):
        raise ValueError(
            "dtype must be 'float16', 'bfloat16', 'float32', 'float64' or one of the first two "
            f"after 'mixed_', got {policy!r}"
        )
    return {"dtype": name, "param_dtype": "float32" if mixed else name}


def _policy(dtype: DTypeLike | None, param_dtype: DTypeLike) -> str:
    stored = jnp.dtype(param_dtype).name
    computed = stored if dtype is None else jnp.dtype(dtype).name
    if computed == stored:
        return stored
    if stored == "float32" and computed in ("float16", "bfloat16"):
        return f"mixed_{computed}"
    raise ValueError(
        f"Keras has no policy that computes in dtype {computed} with weights in param_dtype "
        f"{stored}"
    )
