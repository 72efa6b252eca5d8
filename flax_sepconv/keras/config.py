"""Keras' dict of a layer, to the arguments of ours and back.

Keras 2 and Keras 3 write the same arguments in slightly different dicts; both are read, and either
is written. Reading makes nothing but numbers, strings and this package's own objects: no name in a
dict is imported or run.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from flax_sepconv import activations, constraints, initializers, regularizers
from flax_sepconv.keras import registry, versions
from flax_sepconv.ops.arguments import choice
from flax_sepconv.ops.geometry import PADDINGS
from flax_sepconv.spec import Arguments, DepthwiseArguments, SeparableArguments

LAYERS: tuple[type[Arguments], ...] = (SeparableArguments, DepthwiseArguments)
VERSIONS = (2, 3)

MAX_DEPTH = 100
_SINGLE = ("kernel_size", "strides", "dilation_rate")
_WEIGHTS = ("depthwise", "pointwise", "bias")
# The arguments that hold objects, and the module of those objects here; Keras' has the same name.
_OBJECTS: dict[str, Any] = {
    "activation": activations,
    **{f"{weight}_initializer": initializers for weight in _WEIGHTS},
    **{f"{weight}_regularizer": regularizers for weight in _WEIGHTS},
    "activity_regularizer": regularizers,
    **{f"{weight}_constraint": constraints for weight in _WEIGHTS},
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
# Inputs' shapes, and how Keras runs the layer.
_UNUSED = ("batch_input_shape", "batch_shape", "build_config", "autocast", "dynamic")
# What a model of Keras writes of a layer beside its class and config.
_OF_MODEL = ("name", "inbound_nodes")

# By the name of a dtype or policy of Keras: our dtype and param_dtype.
_DTYPES = {
    **{name: (name, name) for name in ("float16", "bfloat16", "float32", "float64")},
    **{f"mixed_{name}": (name, "float32") for name in ("float16", "bfloat16")},
}
_POLICIES = ("DTypePolicy", "FloatDTypePolicy", "Policy", "PolicyV1")

# Keras' dict of an activation with arguments is that of a layer: it has these.
_LAYERS = {"relu": "ReLU", "leaky_relu": "LeakyReLU", "elu": "ELU", "softmax": "Softmax"}
_ACTIVATIONS_OF_KERAS_2 = (
    *("elu", "exponential", "gelu", "leaky_relu", "linear", "log_softmax", "mish", "relu"),
    *("relu6", "selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "tanh"),
    "hard_sigmoid_keras2",
)
_NAMES_OF_KERAS_2 = {"silu": "swish", "hard_sigmoid_keras2": "hard_sigmoid"}


def layer_of(class_name: Any) -> type[Arguments] | None:
    """Return the arguments of our layer that a class of Keras is, or None.

    Example:
        >>> layer_of("SeparableConvolution1D").__name__
        'SeparableArguments'
    """
    return next((layer for layer in LAYERS if class_name in layer.keras_names), None)


def arguments_of(
    config: Mapping[str, Any],
    version: int | None = None,
    layer: type[Arguments] = SeparableArguments,
) -> dict[str, Any]:
    """Return the keyword arguments of our layer that a Keras dict describes.

    Args:
        config: what `layer.get_config()` gave, or a serialized layer with its "class_name" and
            "config". An object of your own may stand in it as itself, in place of its dict.
        version: of the Keras that wrote it, 2 (TF1 too) or 3; None lets the config tell
            (`versions.version_of`), which every config does that a Keras wrote.
        layer: whose arguments these are.

    Raises:
        ValueError, TypeError: names the argument, and the object that is not Keras' own; or a name
            has two meanings, and nothing tells which.

    Example:
        >>> arguments_of({"name": "sep", "filters": 5, "kernel_size": [3], "strides": [2]})
        {'filters': 5, 'kernel_size': 3, 'strides': 2, 'name': 'sep'}
    """
    if version is not None:
        _check_version(version)
    _check_depth(config)
    return _read(_inner(config, layer), version, layer)


def _check_depth(config: Any) -> None:
    """Raise ValueError for what is so deep that reading it could exhaust Python's stack."""
    level: list[Any] = [config] if isinstance(config, Mapping) else []
    for _ in range(MAX_DEPTH):
        inner = [each.values() if isinstance(each, Mapping) else each for each in level]
        level = [
            value for each in inner for value in each if isinstance(value, Mapping | list | tuple)
        ]
        if not level:
            return
    raise ValueError(f"config has too many dicts inside each other (more than {MAX_DEPTH})")


def config_of(
    arguments: Arguments,
    name: str | None = None,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    version: int = 3,
) -> dict[str, Any]:
    """Return the dict from which Keras' class makes the layer, by `from_config`.

    It can be written as JSON. How the layer is computed (`implementation`) is not in it.

    Args:
        arguments: of our layer.
        name: of the layer; None leaves it to Keras.
        dtype: of the computation; None is `param_dtype`.
        param_dtype: of the weights.
        version: of Keras, 2 or 3.

    Raises:
        ValueError, TypeError: names the argument that this Keras cannot have.

    Example:
        >>> given = SeparableArguments(filters=5, kernel_size=3, activation="relu")
        >>> config = config_of(given, "sep")
        >>> config["name"], config["kernel_size"], config["activation"]
        ('sep', [3], 'relu')
    """
    _check_version(version)
    if arguments.padding not in PADDINGS:
        raise ValueError(
            f"padding must be one of {', '.join(map(repr, PADDINGS))} for Keras, got "
            f"{arguments.padding!r}: pad the input there by hand, and use 'valid'"
        )
    if version not in arguments.causal_in and arguments.padding == "causal":
        other = ", or write version=2" if 2 in arguments.causal_in else ""
        raise ValueError(
            f"padding 'causal' is refused by Keras {version}'s {arguments.keras_names[0]}; pad the "
            "input there by D*(K-1) = "
            f"{arguments.dilation_rate * (arguments.kernel_size - 1)} zeros on the left and use "
            f"'valid'{other}"
        )
    if version == 3 and name is not None and "/" in name:
        raise ValueError(f"name must have no '/' for Keras 3, got {name!r}")
    config: dict[str, Any] = {} if name is None else {"name": name}
    config["dtype"] = _policy(dtype, param_dtype)
    for argument in _taken_by(type(arguments)):
        value = getattr(arguments, argument)
        if argument in _SINGLE:
            value = [value]
        elif argument in _OBJECTS:
            try:
                value = _described(_OBJECTS[argument], value, version)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{argument}: {error}") from error
        config[argument] = value
    return config


def refuse_quantization(quantization: Any) -> None:
    """Raise ValueError where a layer computes as none of Keras does."""
    if quantization is not None:
        raise ValueError(
            f"quantization must be None for Keras, which has no such argument, got {quantization!r}"
        )


def _check_version(version: Any) -> None:
    if version not in VERSIONS:
        raise ValueError(f"version must be 2 or 3, got {version!r}")


def _taken_by(layer: type[Arguments]) -> list[str]:
    """Return the arguments that a layer has, in the order in which they are written."""
    own = {field.name for field in dataclasses.fields(layer)}
    return [name for name in _TAKEN if name in own]


def _inner(config: Any, layer: type[Arguments]) -> Mapping[str, Any]:
    """Return the layer's own config, out of what is written around it."""
    if isinstance(config, Mapping) and "class_name" in config:
        around = {key: value for key, value in config.items() if key not in _OF_MODEL}
        name, config = registry.parse("layer", around)
        if name not in layer.keras_names:
            raise ValueError(
                f"config must be of a layer {layer.keras_names[0]}, got one of {name!r}"
            )
    if not isinstance(config, Mapping):
        raise TypeError(f"config must be the dict of a Keras layer, got {config!r}")
    return config


def _read(config: Mapping[str, Any], version: int | None, layer: type[Arguments]) -> dict[str, Any]:
    class_name, taken = layer.keras_names[0], _taken_by(layer)
    for name in ("filters", "kernel_size"):
        if name in taken and name not in config:
            raise ValueError(f"config of a {class_name} must have {name!r}, got {config!r}")
    known = (*taken, *versions.OF_KERAS_2, *_UNUSED, "name", "dtype", "groups")
    for name in config:
        if name not in known:
            raise ValueError(f"config has {name!r}, which is no argument of {class_name}")
    if config.get("groups", 1) != 1:
        raise ValueError(f"groups must be 1, got {config['groups']!r}")
    if not isinstance(config.get("name", ""), str | None):
        raise TypeError(f"name must be a string, got {config['name']!r}")
    given = {name: config[name] for name in taken if name in config}
    if "padding" in given:  # The layer takes others, which Keras has not.
        choice("padding", given["padding"], PADDINGS)
    resolved = layer(**given)
    if version is None:
        version = versions.version_of(config)
    if "activation" in given:
        given["activation"] = versions.activation_of(given["activation"], version)
        versions.warn_of_sparsemax(resolved.activation, version)
    arguments = {
        # Names stay names; a dict, which a hashable module cannot hold, becomes its object.
        name: value if isinstance(value, str | None) else getattr(resolved, name)
        for name, value in given.items()
    }
    if config.get("name") is not None:
        arguments["name"] = config["name"]
    return arguments | _dtypes(config.get("dtype"))


def _described(module: Any, value: Any, version: int) -> Any:
    """Return the name or dict of an object, as this Keras reads it."""
    described = module.serialize(value)
    if module is activations:
        return _activation(described, version)
    if described is None:
        return None
    name, given = described["class_name"], described["config"]
    if name in ("Stacked", "UniformUnitScaling") or (version == 2 and name == "STFT"):
        raise ValueError(f"Keras {version} has no {name}")
    for axes in ("input_axes", "output_axes"):
        if version == 2 and axes in given:
            raise ValueError(f"{name} of Keras 2 has no {axes}, got {given[axes]}")
    return _object(module.__name__.rpartition(".")[2], name, given, version)


def _activation(described: str | Mapping[str, Any], version: int) -> str | dict[str, Any]:
    name = described if isinstance(described, str) else described["class_name"]
    given = {} if isinstance(described, str) else described["config"]
    if version == 2 and name == "hard_sigmoid":
        raise ValueError("'hard_sigmoid' of Keras 2 is another function: 'hard_sigmoid_keras2'")
    if version == 3 and name == "hard_sigmoid_keras2":
        raise ValueError(
            "Keras 3 has no clip(0.2 * x + 0.5, 0, 1): its 'hard_sigmoid' is relu6(x + 3) / 6"
        )
    versions.warn_of_sparsemax(activations.get(name), version)
    if version == 2 and name not in _ACTIVATIONS_OF_KERAS_2:
        raise ValueError(f"Keras 2 has no activation {name!r}")
    parameters = inspect.signature(activations.get(name)).parameters
    given = {key: value for key, value in given.items() if value != parameters[key].default}
    if not given:
        return _NAMES_OF_KERAS_2.get(name, name) if version == 2 else name
    if name not in _LAYERS:
        raise ValueError(f"Keras {version} has no layer for {name} with {given}, only {name!r}")
    for key, value in given.items():
        # Keras 2's LeakyReLU takes any slope.
        if name == "relu" or (name == "leaky_relu" and version == 3):
            registry.real(f"{key} of Keras' {_LAYERS[name]}", value, low=0)
    if version == 2 and name == "leaky_relu":
        given = {"alpha": given["negative_slope"]}
    return _object("layers", _LAYERS[name], given, version)


def _object(module: str, name: str, given: Mapping[str, Any], version: int) -> dict[str, Any]:
    """Return Keras' dict of an object; Keras 2 has no modules before its version 2.13."""
    described = {"class_name": name, "config": dict(given)}
    if version == 2:
        return described
    return {"module": f"keras.{module}", **described, "registered_name": None}


def _dtypes(policy: Any) -> dict[str, Any]:
    """Return our two dtypes for a name of a Keras dtype or policy, or for a policy's dict."""
    if policy is None:
        return {}
    name = policy
    if isinstance(policy, Mapping):
        kind, given = registry.parse("dtype", policy)
        if kind == "DTypePolicyMap":
            return _dtypes(_same_for_all(given))
        name = given.get("name") if kind in _POLICIES and isinstance(given, Mapping) else None
    if not isinstance(name, str) or name not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {policy!r}")
    computed, stored = _DTYPES[name]
    return {"dtype": computed, "param_dtype": stored}


def _same_for_all(given: Any) -> Any:
    """Return the policy that a DTypePolicyMap has for every path in a model."""
    inner = given.get("policy_map") if isinstance(given, Mapping) else None
    if not isinstance(inner, Mapping):
        raise ValueError(f"dtype: config of DTypePolicyMap must have a policy_map, got {given!r}")
    default = given.get("default_policy")
    if default is not None and all(_dtypes(own) == _dtypes(default) for own in inner.values()):
        return default
    raise ValueError(
        "dtype is a DTypePolicyMap, which goes by the layer's path in a model of Keras, and the "
        f"config does not tell that path: give the name of one policy, got {given!r}"
    )


def _policy(dtype: DTypeLike | None, param_dtype: DTypeLike) -> str:
    stored = jnp.dtype(param_dtype).name
    computed = stored if dtype is None else jnp.dtype(dtype).name
    for name, pair in _DTYPES.items():
        if pair == (computed, stored):
            return name
    raise ValueError(
        f"Keras has no policy that computes in dtype {computed} with weights in param_dtype "
        f"{stored}"
    )
