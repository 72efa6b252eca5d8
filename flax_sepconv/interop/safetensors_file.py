"""Layers in safetensors, the neutral format: tensors by name, and Keras' configs as JSON.

The layer at "block/conv" is the tensors "block/conv/depthwise_kernel",
"block/conv/pointwise_kernel" and "block/conv/bias", where it has these; the layer at "" has the
bare names. The metadata lists the layers in their order, each with its config, or null where only
the weights are known:

    {"flax_sepconv": '{"version": 1, "layers": {"block/conv": {"filters": 5, ...}}}'}

Beside weights of 8 bits are their scales, "block/conv/depthwise_scale" and so on.

A file without this key (params flattened by "/", as safetensors.flax writes them) is read by the
names alone, and what is no weight of a separable convolution is passed over.
"""

import collections
import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flax_sepconv.interop.layer import AXES, InteropError, Layer, unique
from flax_sepconv.interop.scales import NAMES as SCALES
from flax_sepconv.spec import DEPTHWISE_KERNEL

KEY = "flax_sepconv"
VERSION = 1
_DTYPES = ("F16", "BF16", "F32", "F64")
_INTEGERS = ("I8", "I32")


def read(path: pathlib.Path) -> list[Layer]:
    """Read every layer of a safetensors file, in the order in which they were written.

    Raises:
        InteropError: the file is damaged, or tensors and metadata do not belong together.
    """
    with opened(path) as file:
        names = set(file.keys())
        text = (file.metadata() or {}).get(KEY)
        configs = _paths(sorted(names)) if text is None else _parse(path, text)
        parts = (*AXES, *SCALES)
        places = {_name(layer, part): (layer, part) for layer in configs for part in parts}
        unknown = sorted(names - set(places))
        if text is not None and unknown:
            raise InteropError(
                f"{path} has a tensor {unknown[0]!r} that belongs to no layer in its metadata"
            )
        weights: dict[str, dict[str, np.ndarray]] = {layer: {} for layer in configs}
        scales: dict[str, dict[str, np.ndarray]] = {layer: {} for layer in configs}
        for name, (layer, part) in places.items():
            if name in names:
                found = weights if part in AXES else scales
                found[layer][part] = tensor(file, name, (*_DTYPES, *_INTEGERS))
    return [
        Layer(layer, weights[layer], config, scales[layer] or None)
        for layer, config in configs.items()
    ]


def write(path: pathlib.Path, layers: Sequence[Layer]) -> None:
    """Write layers with their configs.

    Raises:
        InteropError: two layers share a path, or a config has something that JSON has not.
    """
    layers = unique(layers, "the list of layers")
    configs = {layer.path: layer.config for layer in layers}
    try:
        text = json.dumps({"version": VERSION, "layers": configs}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InteropError(f"the configs cannot be written as JSON: {error}") from error
    tensors = {
        _name(layer.path, name): weight
        for layer in layers
        for name, weight in {**layer.weights, **(layer.scales or {})}.items()
    }
    save(path, tensors, {KEY: text})


def is_neutral(path: pathlib.Path) -> bool:
    """Tell a file that `write` wrote from other safetensors, by its header alone.

    Raises:
        InteropError: it is no whole safetensors file.
    """
    with opened(path) as file:
        return KEY in (file.metadata() or {})


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[Any]:
    """Open a safetensors file, of which only the header is read; its errors become InteropError."""
    safetensors = _safetensors()
    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if size < 8 or header > size - 8:
        raise InteropError(
            f"{path} is no whole safetensors file: its header would have {header} bytes, the file "
            f"has {size}"
        )
    try:
        with safetensors.safe_open(path, framework="np") as file:
            yield file
    except safetensors.SafetensorError as error:
        raise InteropError(f"{path} is no whole safetensors file: {error}") from error


def tensor(file: Any, name: str, dtypes: Sequence[str] = _DTYPES) -> np.ndarray:
    """Return one tensor of an opened file."""
    dtype = file.get_slice(name).get_dtype()
    if dtype not in dtypes:
        raise InteropError(f"dtype of {name} must be one of {', '.join(dtypes)}, got {dtype}")
    return file.get_tensor(name)


def save(
    path: pathlib.Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write tensors; safetensors itself takes strided arrays for contiguous ones."""
    contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    safetensors = _safetensors()
    try:
        content = safetensors.numpy.save(contiguous, metadata=dict(metadata))
    except safetensors.SafetensorError as error:
        raise InteropError(f"{path} cannot be written: {error}") from error
    path.write_bytes(content)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise InteropError(
            "safetensors is not installed: pip install 'flax-sepconv[interop]'"
        ) from error
    return safetensors


def _name(layer: str, weight: str) -> str:
    return f"{layer}/{weight}" if layer else weight


def _paths(names: Sequence[str]) -> dict[str, None]:
    """Find the layers in a file that does not list them."""
    first = [name for name in names if name.split("/")[-1] == DEPTHWISE_KERNEL]
    return {name.removesuffix(DEPTHWISE_KERNEL).removesuffix("/"): None for name in first}


def _parse(path: pathlib.Path, text: str) -> dict[str, Mapping[str, Any] | None]:
    """Return the configs that the metadata lists, by the layers' paths."""
    try:
        told = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InteropError(f"{path}: its metadata {KEY!r} is no sound JSON: {error}") from error
    if not isinstance(told, dict) or "version" not in told:
        raise InteropError(f"{path}: its metadata {KEY!r} must be an object with a version")
    if told["version"] != VERSION:
        raise InteropError(
            f"{path}: version of its metadata {KEY!r} must be {VERSION}, got {told['version']!r}"
        )
    layers = told.get("layers")
    if not isinstance(layers, dict):
        raise InteropError(f"{path}: layers of its metadata {KEY!r} must be an object")
    for layer, config in layers.items():
        if not (config is None or isinstance(config, dict)):
            raise InteropError(f"{path}: config of layer {layer!r} must be an object or null")
    return layers


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = collections.Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"it has the name {twice!r} twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"it has {constant}, which is no JSON")
