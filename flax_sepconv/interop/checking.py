"""Run the same layers on both sides of a conversion, each side in its own library."""

import dataclasses
import importlib
import os
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flax_sepconv import linen
from flax_sepconv.interop import keras2, keras3, pytorch, tf_files
from flax_sepconv.interop.formats import load
from flax_sepconv.interop.layer import InteropError, InteropWarning, Layer
from flax_sepconv.keras.config import config_of
from flax_sepconv.ops.edges import MODES
from flax_sepconv.ops.geometry import resolve
from flax_sepconv.spec import Arguments

TOLERANCE = 1e-5
_BATCH, _STEPS = 2, 8

Weights = Mapping[str, np.ndarray]


class Side(NamedTuple):
    """A file and how it is read: one of `formats.FORMATS`, and options of `formats.load`."""

    path: pathlib.Path
    format: str
    options: Mapping[str, Any] = {}


def differences(source: Side, dest: Side, seed: int = 0) -> dict[str, float]:
    """Return for each layer the largest difference of outputs, over the largest output.

    State dicts of PyTorch and TensorFlow's named checkpoints are read by their own libraries; Keras
    gets the weights that were read here, because loading a whole model may run what is in it.
    Inputs are normal, in float32. What neither file says is as a new layer has it: strides 1,
    padding "valid", no activation. A PyTorch state dict never has an activation, so beside one none
    is applied.

    Raises:
        InteropError: a side's library is not installed, or does not load the file.
    """
    linear = "torch" in (source.format, dest.format)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InteropWarning)  # Who converts has seen them.
        ours, theirs = (load(side.path, side.format, **side.options) for side in (source, dest))
    rng = np.random.default_rng(seed)
    found = {}
    for a, b in _matched(ours, theirs):
        arguments = _arguments(b if a.config is None else a, linear)
        length = arguments.dilation_rate * (arguments.kernel_size - 1) + arguments.strides * _STEPS
        x = rng.standard_normal((_BATCH, length, a.sizes["C"])).astype("float32")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other libraries about their own insides
            outputs = [
                np.asarray(_RUNNERS[side.format](side, layer, arguments, x), np.float64)
                for side, layer in ((source, a), (dest, b))
            ]
        scale = max(np.abs(outputs[0]).max(), np.finfo("float32").tiny)
        found[a.path] = float(np.abs(outputs[0] - outputs[1]).max() / scale)
    return found


def _matched(source: Sequence[Layer], dest: Sequence[Layer]) -> list[tuple[Layer, Layer]]:
    """Pair the layers: by their paths, or, where a format does not keep these, by their order."""
    if len(source) != len(dest):
        raise InteropError(f"one file has {len(source)} layers, the other one {len(dest)}")
    by_path = {layer.path: layer for layer in dest}
    if by_path.keys() == {layer.path for layer in source}:
        return [(layer, by_path[layer.path]) for layer in source]
    return list(zip(source, dest, strict=True))


def _arguments(layer: Layer, linear: bool) -> Arguments:
    given = layer.arguments()
    kept = {k: v for k, v in given.items() if k not in ("name", "dtype", "param_dtype")}
    # Both sides get the same array: (B, L, C).
    kept |= {"data_format": "channels_last", "trainable": True} | (
        {"activation": None} if linear else {}
    )
    return layer.spec(**kept)


def _in_flax(side: Side, layer: Layer, arguments: Arguments, x: np.ndarray) -> Any:
    del side
    module = getattr(linen, layer.class_name)(**vars(arguments))
    return module.apply({"params": dict(layer.dequantized().weights)}, x)


def _in_torch(side: Side, layer: Layer, arguments: Arguments, x: np.ndarray) -> Any:
    torch = pytorch.require()
    options = {key: value for key, value in side.options.items() if key != "configs"}
    depthwise, norms, pointwise = pytorch.modules_of(side.path, layer.path, **options)
    padded, valid = _padded(arguments, x)
    h = torch.nn.functional.conv1d(
        torch.tensor(padded.swapaxes(1, 2).copy()),
        depthwise["weight"].float(),
        _float(depthwise.get("bias")),
        stride=valid.strides,
        dilation=valid.dilation_rate,
        groups=layer.sizes["C"],
    )
    for norm in norms:
        mean, var, *affine = (
            _float(norm.get(name)) for name in ("running_mean", "running_var", "weight", "bias")
        )
        eps = options.get("norm_eps", pytorch.EPS)
        h = torch.nn.functional.batch_norm(h, mean, var, *affine, eps=eps)
    if pointwise is not None:
        mixing = pointwise["weight"].float()
        h = torch.nn.functional.conv1d(
            h, mixing.reshape(*mixing.shape[:2], 1), _float(pointwise.get("bias"))
        )
    return h.swapaxes(1, 2).detach().numpy()


def _in_keras(side: Side, layer: Layer, arguments: Arguments, x: np.ndarray) -> Any:
    version = _KERAS_VERSIONS[side.format](side.path)
    keras = _library("tf_keras" if version < 3 else "keras")
    padded, valid = _padded(arguments, x)
    own = _keras_layer(keras, valid, 2 if version < 3 else 3)
    own.build(padded.shape)
    own.set_weights([np.asarray(weight, "float32") for weight in keras3.keras_weights(layer)])
    y = own(padded)
    return y if version < 3 else keras.ops.convert_to_numpy(y)


def _in_tensorflow(side: Side, layer: Layer, arguments: Arguments, x: np.ndarray) -> Any:
    weights: Weights = layer.weights
    if side.format == "tf-checkpoint":
        tensorflow = _library("tensorflow")
        prefix = str(tf_files.index_of(side.path)).removesuffix(".index")
        try:
            reader = tensorflow.compat.v1.train.NewCheckpointReader(prefix)
        except (ValueError, tensorflow.errors.OpError) as error:
            raise InteropError(f"TensorFlow does not read {prefix}: {error}") from error
        keys = {name: f"{layer.path}/{name}" for name in weights}
        if all(map(reader.has_tensor, keys.values())):
            weights = {name: reader.get_tensor(key) for name, key in keys.items()}
    padded, valid = _padded(arguments, x)
    own = _keras_layer(_library("tf_keras"), valid, 2)
    own.build(padded.shape)
    own.set_weights(keras3.keras_weights(Layer(layer.path, weights)))
    return own(padded)


def _padded(arguments: Arguments, x: np.ndarray) -> tuple[np.ndarray, Arguments]:
    """Put the padding around the input by hand: no two libraries have the same words for them."""
    K, S, D = arguments.kernel_size, arguments.strides, arguments.dilation_rate
    geometry = resolve(x.shape[1], K, S, D, arguments.padding)
    if arguments.padding == "circular" or arguments.padding == "reflect":
        around = geometry.pad_low, geometry.reach - geometry.pad_low
        padded = np.pad(x, [(0, 0), around, (0, 0)], mode=MODES[arguments.padding])
    else:
        read = x[:, : x.shape[1] + min(geometry.pad_high, 0)]
        padded = np.pad(read, [(0, 0), (geometry.pad_low, max(geometry.pad_high, 0)), (0, 0)])
    return padded, dataclasses.replace(arguments, padding="valid")


def _keras_layer(keras: Any, arguments: Arguments, version: int) -> Any:
    try:
        config = config_of(arguments, version=version)
    except (TypeError, ValueError) as error:
        raise InteropError(f"Keras {version} cannot run the layer: {error}") from error
    return getattr(keras.layers, arguments.keras_names[0]).from_config(config)


def _library(name: str) -> Any:
    # Keras needs some backend; JAX is always here.
    os.environ.setdefault("KERAS_BACKEND", "jax")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InteropError(f"{name} is not installed, and the check needs it") from error


def _float(tensor: Any) -> Any:
    return None if tensor is None else tensor.float()


_KERAS_VERSIONS: dict[str, Callable[[pathlib.Path], int]] = {
    "keras": keras3.version_of,
    "keras2": keras2.version_of,
    "keras-weights": lambda path: 3,
}
_Runner = Callable[[Side, Layer, Arguments, np.ndarray], Any]
_RUNNERS: dict[str, _Runner] = {
    "safetensors": _in_flax,
    "torch": _in_torch,
    "keras": _in_keras,
    "keras-weights": _in_keras,
    "keras2": _in_keras,
    "tf-checkpoint": _in_tensorflow,
    "saved-model": _in_tensorflow,
}
