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

import contextlib
import io
import json
import pathlib
import zipfile
from collections.abc import Iterator, Sequence

import numpy as np

from flax_sepconv.interop import files, hdf5, keras_model
from flax_sepconv.interop.hdf5 import Store
from flax_sepconv.interop.keras3_groups import (
    GROUP,
    NUMBERS,
    Place,
    Search,
    alike,
    named,
    numbered,
    own_groups,
)
from flax_sepconv.interop.keras_model import Node
from flax_sepconv.interop.layer import InteropError, Layer
from flax_sepconv.spec import BIAS, DEPTHWISE_KERNEL, POINTWISE_KERNEL

ORDER = (DEPTHWISE_KERNEL, POINTWISE_KERNEL, BIAS)

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
# JSON shrinks tenfold when an archive is packed anew; Keras itself does not compress.
_LARGEST_EXPANSION = 16


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
    wrappers too, and come with their own configs. A layer that two models share is given once, at
    its first place. A `.weights.h5` file has no configs, nor has the part of a `.keras` file that
    is a subclassed model: there those groups are taken that are named after SeparableConv1D, as
    they are in a list of layers, but not where a layer is an attribute or in a wrapper.

    Paths are the names of the layers, joined by "/"; where the file does not tell them
    (`.weights.h5` of tf-keras), or tells one twice, the paths of the groups.

    Args:
        path: of the file.
        layers: the groups to take, and no others: "layers/time_distributed/layer".

    Raises:
        InteropError: the file is damaged or not of this format, lacks weights that its config
            promises, or does not tell what is a SeparableConv1D.
    """
    with _weights(path) as (store, root, version):
        places = _places(store, path, root, version, layers)
        return _load(store, places, path)


def passed_over(path: pathlib.Path, layers: Sequence[str] | None = None) -> list[str]:
    """Return the groups that `read` does not take, but whose variables a SeparableConv1D may have.

    Two of their shapes are those of a depthwise and a pointwise kernel that fit each other. It may
    still be another layer: none of them is taken for what it looks like.

    Args:
        path: of the file.
        layers: as for `read`.

    Raises:
        InteropError: as from `read`.
    """
    with _weights(path) as (store, root, version):
        taken = {place.group for place in _places(store, path, root, version, layers)}
        return [group for group in alike(store) if group not in taken]


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
    content = io.BytesIO()  # On a full disk h5py crashes.
    with h5py.File(content, "w") as file:
        file.create_group("vars")
        for number, layer in enumerate(layers):
            variables = file.create_group(f"layers/{numbered(GROUP, number)}/vars")
            variables.attrs["name"] = layer.path
            for index, weight in enumerate(keras_weights(layer)):
                array = variables.create_dataset(str(index), data=weight)
                if layer.dtype.name == "bfloat16":
                    array.attrs["dtype"] = "bfloat16"
    path.write_bytes(content.getbuffer())


@contextlib.contextmanager
def _weights(path: pathlib.Path) -> Iterator[tuple[Store, Node | None, int]]:
    """Open the weights; and return the config and Keras' version, where the file has them."""
    if hdf5.is_hdf5(path):
        with hdf5.opened(path, path) as store:
            yield store, None, 0
        return
    config, metadata, weights = _unpack(path)
    root, version = keras_model.parse(config, path), _major_version(metadata, path)
    with hdf5.opened(weights, f"{path}: {_WEIGHTS}") as store:
        yield store, root, version


def _places(
    store: Store, path: pathlib.Path, root: Node | None, version: int, layers: Sequence[str] | None
) -> list[Place]:
    if root is None:
        return named(store, layers, path)
    places = Search(store, path, version).run(root, layers is None)
    known = {place.group: place for place in places}
    if layers is not None:
        return [known.get(place.group, place) for place in named(store, layers, path)]
    own = own_groups(store)
    if not own and (places or root.is_told):
        return places
    return places + [p for p in named(store, own or None, path) if p.group not in known]


def _unpack(path: pathlib.Path) -> tuple[bytes, bytes, bytes]:
    largest = _LARGEST_EXPANSION * path.stat().st_size
    with files.archive(path, f"{path} is no .keras archive, or a damaged one") as archive:
        members = []
        for name in (_CONFIG, _METADATA, _WEIGHTS):
            member = archive.getinfo(name)
            if member.file_size > largest:
                raise ValueError(f"{name} claims {member.file_size} bytes; {largest} are allowed")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name} is packed in a way that is not read")
            members.append(archive.read(name))
    return members[0], members[1], members[2]


def _major_version(metadata: bytes, path: pathlib.Path) -> int:
    try:
        return int(json.loads(metadata)["keras_version"].split(".")[0])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InteropError(f"{path}: {_METADATA} does not tell Keras' version: {error}") from error


def _load(store: Store, places: Sequence[Place], path: pathlib.Path) -> list[Layer]:
    layers = []
    for place in places:
        variables = f"{place.group}/vars"
        numbers = sorted(store.children(variables))
        if numbers not in NUMBERS:
            raise InteropError(
                f"{path}: group {place.group!r} must have the 2 or 3 variables of a "
                f"SeparableConv1D, it has {', '.join(numbers) or 'none'}"
            )
        opaque = keras_model.keeps_bfloat16(place.config)
        arrays = [store.array(f"{variables}/{number}", opaque) for number in numbers]
        weights = dict(zip(ORDER, arrays, strict=False))
        layers.append(Layer("/".join(place.names), weights, place.config))
    return layers
