"""The weights of a TensorFlow SavedModel: a folder with a checkpoint in `variables/`.

Keras 2 tells its layers' names, classes and configs in `keras_metadata.pb`. Without that file
layers have the path of the attributes that hold them. Where Keras exports a model for serving,
there are no layers, but a list of variables that have names. The program itself, in
`saved_model.pb`, is not read.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from flax_sepconv.interop import files
from flax_sepconv.interop.layer import InteropError, Layer
from flax_sepconv.interop.object_graph import GRAPH, Graph
from flax_sepconv.interop.tensor_bundle import Bundle
from flax_sepconv.interop.tf_checkpoint import layers_by_name, layers_by_object
from flax_sepconv.interop.tf_messages import parse
from flax_sepconv.keras.config import layer_of


def read(path: pathlib.Path) -> list[Layer]:
    """Read every layer of ours of a SavedModel.

    Args:
        path: of the folder.

    Raises:
        InteropError: it has no variables, it is damaged, or a layer lacks a kernel.
    """
    bundle = Bundle(path / "variables" / "variables.index")
    if GRAPH not in bundle.names():  # TF1 wrote it.
        return layers_by_name(bundle, {name: name for name in bundle.names()})
    graph = Graph(bundle)
    metadata = path / "keras_metadata.pb"
    names, configs = _described(metadata, graph) if metadata.exists() else ({}, {})
    layers = layers_by_object(bundle, graph, names, configs)
    if not layers and "variables" in graph.children[0]:
        return layers_by_name(bundle, _exported(graph, path))
    return layers


def _exported(graph: Graph, path: pathlib.Path) -> dict[str, str]:
    """Return the variables that the root lists: by name, the name of the tensor."""
    keys: dict[str, str] = {}
    for number in graph.children[graph.children[0]["variables"]].values():
        name = graph.full_name(number)
        if name in keys:
            raise InteropError(f"{path} has two variables of the name {name!r}")
        keys[name] = graph.key(number)
    return keys


def _described(
    path: pathlib.Path, graph: Graph
) -> tuple[dict[int, str], dict[int, Mapping[str, Any]]]:
    """Return Keras' names of objects, and the configs of those that are layers of our class."""
    names: dict[int, str] = {}
    configs: dict[int, Mapping[str, Any]] = {}
    for node in parse("KerasMetadata", files.regular(path).read_bytes(), str(path)).nodes:
        said = _json(node.metadata, f"{path}: {node.node_path}")
        ours = layer_of(said.get("class_name")) is not None
        number = graph.find(node.node_path.removeprefix("root"))  # "root.layer-1"
        if number is None:
            if ours:
                raise InteropError(f"{path} has a layer {node.node_path} without variables")
            continue
        if isinstance(said.get("name"), str):
            names[number] = said["name"]
        if ours:
            configs[number] = said.get("config") or {}
    return names, configs


def _json(text: str, what: str) -> dict[str, Any]:
    try:
        said = json.loads(text, object_hook=_without_tuples)
    except (ValueError, RecursionError) as error:
        raise InteropError(f"{what} is damaged: {error}") from error
    if not isinstance(said, dict):
        raise InteropError(f"{what} must be a dict, got {type(said).__name__}")
    return said


def _without_tuples(value: dict[str, Any]) -> Any:
    """Return the items of what Keras writes for a tuple, and anything else as it is."""
    return value.get("items") if value.get("class_name") == "__tuple__" else value
