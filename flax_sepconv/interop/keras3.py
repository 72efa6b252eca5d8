"""Keras 3's own files, as Keras 3 and tf-keras write them: `.keras` and `.weights.h5`.

`.keras` is a zip archive of `config.json`, `metadata.json` and `model.weights.h5`. In the weights,
each layer is a group; those of one list are named after their classes, in order:

    layers/separable_conv1d/vars/0     depthwise_kernel
    layers/separable_conv1d/vars/1     pointwise_kernel
    layers/separable_conv1d/vars/2     bias, where there is one
    layers/separable_conv1d_1/vars/0   the next SeparableConv1D
    layers/sequential/layers/...       a model in the model
    layers/time_distributed/layer/...  what a wrapper wraps
"""

import collections
import json
import pathlib
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flax_sepconv.interop import hdf5, keras_model
from flax_sepconv.interop.hdf5 import Store
from flax_sepconv.interop.keras_model import Node
from flax_sepconv.interop.layer import InteropError, Layer
from flax_sepconv.params import BIAS, DEPTHWISE_KERNEL, POINTWISE_KERNEL

ORDER = (DEPTHWISE_KERNEL, POINTWISE_KERNEL, BIAS)

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_GROUP = "separable_conv1d"
# JSON shrinks tenfold when an archive is packed anew; Keras itself does not compress.
_LARGEST_EXPANSION = 16
_BAD_ARCHIVE = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError),
    *(RuntimeError, LookupError, OverflowError, ValueError),  # encrypted, unknown compression, ...
)


class _Place(NamedTuple):
    """Where a layer is in the weights."""

    group: str
    names: tuple[str, ...]
    config: Mapping[str, Any] | None


def keras_weights(layer: Layer) -> list[np.ndarray]:
    """Return the weights in the order that Keras' `SeparableConv1D.set_weights` takes.

    Example:
        >>> depthwise, pointwise = np.ones((3, 2, 1)), np.ones((1, 2, 5))
        >>> weights = {"pointwise_kernel": pointwise, "depthwise_kernel": depthwise}
        >>> [weight.shape for weight in keras_weights(Layer("sep", weights))]
        [(3, 2, 1), (1, 2, 5)]
    """
    return [layer.weights[name] for name in ORDER if name in layer.weights]


def read(path: pathlib.Path, layers: Sequence[str] | None = None) -> list[Layer]:
    """Read every SeparableConv1D of a `.keras` or `.weights.h5` file.

    In a `.keras` file they are found by the model's config, in models inside of models and in
    wrappers too, and come with their own configs. A `.weights.h5` file has no configs; what it
    shows are the classes of the layers in a model's list, so that without `layers` those groups
    are taken that are named after SeparableConv1D. So it is too with a `.keras` file of a
    subclassed model, the config of which does not tell the layers.

    Paths are the names of the layers, joined by "/"; where the file does not tell them
    (`.weights.h5` of tf-keras), the paths of the groups.

    Args:
        path: of the file.
        layers: the groups to take, and no others: "layers/time_distributed/layer".

    Raises:
        InteropError: the file is damaged or not of this format, lacks weights that its config
            promises, or does not tell what is a SeparableConv1D.
    """
    if hdf5.is_hdf5(path):
        with hdf5.opened(path, path) as store:
            return _load(store, _named(store, layers, path), path)
    config, metadata, weights = _unpack(path)
    root = keras_model.parse(config, path)
    with hdf5.opened(weights, f"{path}: {_WEIGHTS}") as store:
        if not any(root.separables()):
            return _load(store, _named(store, layers, path), path)
        places = _Search(store, path, _major_version(metadata, path)).run(root, layers is None)
        if layers is not None:
            known = {place.group: place for place in places}
            places = [known.get(p.group, p) for p in _named(store, layers, path)]
        return _load(store, places, path)


def version_of(path: pathlib.Path) -> int:
    """Return the major version of the Keras that wrote a `.keras` file.

    Raises:
        InteropError: the file is damaged or not of this format.
    """
    return _major_version(_unpack(path)[1], path)


def write(path: pathlib.Path, layers: Sequence[Layer]) -> None:
    """Write a `.weights.h5` file, for `load_weights` of Keras 3 or tf-keras.

    It fits a Sequential or Functional model that has these SeparableConv1D layers in this order
    among its own `layers`, not in models or wrappers inside of it, and no other layers with
    weights; Keras 3 loads it into a model that has them, and leaves them as they are, by
    `load_weights(path, skip_mismatch=True)`.
    """
    try:
        import h5py  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise InteropError(
            "writing .weights.h5 needs h5py: pip install 'flax-sepconv[interop]'"
        ) from error
    with h5py.File(path, "w") as file:
        file.create_group("vars")
        for number, layer in enumerate(layers):
            variables = file.create_group(f"layers/{_numbered(_GROUP, number)}/vars")
            variables.attrs["name"] = layer.path.split("/")[-1]
            for index, weight in enumerate(keras_weights(layer)):
                array = variables.create_dataset(str(index), data=weight)
                if layer.dtype.name == "bfloat16":
                    array.attrs["dtype"] = "bfloat16"


def _unpack(path: pathlib.Path) -> tuple[bytes, bytes, bytes]:
    largest = _LARGEST_EXPANSION * path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = []
            for name in (_CONFIG, _METADATA, _WEIGHTS):
                size = archive.getinfo(name).file_size
                if size > largest:
                    raise ValueError(f"{name} claims {size} bytes; {largest} are allowed")
                members.append(archive.read(name))
    except _BAD_ARCHIVE as error:
        raise InteropError(f"{path} is no .keras archive, or a damaged one: {error}") from error
    return members[0], members[1], members[2]


def _major_version(metadata: bytes, path: pathlib.Path) -> int:
    try:
        return int(json.loads(metadata)["keras_version"].split(".")[0])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InteropError(f"{path}: {_METADATA} does not tell Keras' version: {error}") from error


class _Search:
    """The way through a model's config and through its weights, side by side."""

    def __init__(self, store: Store, path: pathlib.Path, version: int) -> None:
        self._store, self._path, self._version = store, path, version
        self._passed: set[tuple[str, str]] = set()  # Class and name of every layer so far.
        self._found: list[Node] = []
        self._absent: list[tuple[str, Node]] = []

    def run(self, root: Node, strict: bool) -> list[_Place]:
        """Return where the layers are; if `strict`, all of them must be somewhere."""
        places = list(self._below(root, "", ()))
        # A layer that two models share is saved with the first of them.
        lost = [p for p, node in self._absent if not any(map(node.equals, self._found))]
        if strict and lost:
            raise InteropError(
                f"{self._path}: the weights of layer {lost[0]!r} are not where its config leads "
                f"to; name the groups to take by layers=[...]; {_choices(self._store)}"
            )
        return places

    def _below(self, node: Node, group: str, names: tuple[str, ...]) -> Iterator[_Place]:
        for argument, child in node.children.items():
            place = f"{group}/{argument}".lstrip("/")
            if isinstance(child, Node):
                yield from self._visit(child, place, names)
            else:
                yield from self._list(child, place, names)

    def _list(self, nodes: list[Node], group: str, names: tuple[str, ...]) -> Iterator[_Place]:
        """Visit what is numbered by classes.

        A layer that was saved elsewhere before has no group here. In Keras 3 its number stays
        free, in tf-keras the next layer gets it.
        """
        classes = {node.class_name: f"{group}/{_snake_case(node.class_name)}" for node in nodes}
        amount = collections.Counter(node.class_name for node in nodes)
        present = {
            name: sum(self._store.has(_numbered(place, n)) for n in range(amount[name]))
            for name, place in classes.items()
        }
        used = dict.fromkeys(classes, 0)
        for node in nodes:
            kind = node.class_name
            fewer = self._version < 3 and present[kind] < amount[kind]
            if fewer and (kind, node.name) in self._passed:
                self._miss(node, names)
                continue
            yield from self._visit(node, _numbered(classes[kind], used[kind]), names)
            used[kind] += 1

    def _visit(self, node: Node, group: str, names: tuple[str, ...]) -> Iterator[_Place]:
        if not any(node.separables()):
            self._passed.update((n.class_name, n.name) for n in node.everything())
        elif not self._store.has(group):
            self._miss(node, names)
        else:
            self._passed.add((node.class_name, node.name))
            names = (*names, node.name)
            self._check_name(node, group, names)
            if node.is_separable:
                self._found.append(node)
                yield _Place(group, names, node.config)
            else:
                yield from self._below(node, group, names)

    def _miss(self, node: Node, names: tuple[str, ...]) -> None:
        for layer in node.separables():
            self._absent.append(("/".join((*names, layer.name)), layer))

    def _check_name(self, node: Node, group: str, names: tuple[str, ...]) -> None:
        told = self._store.text(f"{group}/vars", "name")
        if told is not None and told != node.name:
            raise InteropError(
                f"{self._path}: layer {'/'.join(names)!r} should be in group {group!r}, which "
                f"says that it is {told!r}"
            )


def _named(store: Store, layers: Sequence[str] | None, path: pathlib.Path) -> list[_Place]:
    """Return the groups that a caller chose, or else those named after the class."""
    if layers is None:
        chosen = [group for group in store.walk() if _OWN_GROUP.search(f"/{group}")]
        if not chosen:
            raise InteropError(
                f"{path} does not tell which of its layers are a SeparableConv1D: no group is "
                f"named layers/{_GROUP}; name the groups to take by layers=[...]; {_choices(store)}"
            )
    else:
        chosen = [group.strip("/") for group in layers]
    return [_Place(group, _names(store, group), None) for group in chosen]


def _names(store: Store, group: str) -> tuple[str, ...]:
    """Return the names of the layers on the way to a group, or else its own path."""
    parts = group.split("/")
    ways = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    names = [store.text(f"{way}/vars", "name") for way in ways if store.has(f"{way}/vars")]
    return tuple(filter(None, names)) if names and None not in names else tuple(parts)


def _choices(store: Store) -> str:
    groups = [path.removesuffix("/vars/1") for path in store.walk() if path.endswith("/vars/1")]
    return f"there are {', '.join(groups[:20])}" if groups else "there is none"


def _load(store: Store, places: Sequence[_Place], path: pathlib.Path) -> list[Layer]:
    layers = []
    for place in places:
        variables = f"{place.group}/vars"
        numbers = sorted(store.children(variables))
        if numbers not in (["0", "1"], ["0", "1", "2"]):
            raise InteropError(
                f"{path}: group {place.group!r} must have the 2 or 3 variables of a "
                f"SeparableConv1D, it has {', '.join(numbers) or 'none'}"
            )
        arrays = [store.array(f"{variables}/{number}") for number in numbers]
        weights = dict(zip(ORDER, arrays, strict=False))
        layers.append(Layer("/".join(place.names), weights, place.config))
    return layers


_OWN_GROUP = re.compile(rf"/layers/{_GROUP}(_\d+)?$")


def _numbered(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name


def _snake_case(class_name: str) -> str:
    """Return what Keras names a group after: SeparableConv1D, separable_conv1d."""
    name = re.sub(r"\W+", "", class_name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
