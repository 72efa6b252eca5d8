"""What Keras 3 and tf-keras put their own files into: an archive, a folder, or shards.

model.keras      config.json, metadata.json and model.weights.h5 in a zip archive
a folder         the same three, as `model.save(folder, zipped=False)` writes them
x.weights.h5     weights alone
x.weights.json   weights alone, in several files x_00000.weights.h5, ...: which of them has what
"""

import contextlib
import json
import pathlib
import re
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from flax_sepconv.interop import files, hdf5, keras_model
from flax_sepconv.interop.keras_model import Node
from flax_sepconv.interop.layer import InteropError

CONFIG, METADATA, WEIGHTS, SHARDS = (
    *("config.json", "metadata.json"),
    *("model.weights.h5", "model.weights.json"),
)
_SHARD = re.compile(r"(.+)_\d{5}\.weights\.h5")
# JSON shrinks tenfold when an archive is packed anew; Keras itself does not compress.
_LARGEST_EXPANSION = 16


class Weights(Protocol):
    """What is asked of weights, in one file (`hdf5.Store`) or in several."""

    def has(self, path: str) -> bool:
        """Tell whether there is a group or an array."""

    def children(self, path: str = "") -> list[str]:
        """Return the names in a group."""

    def walk(self, path: str = "") -> Iterator[str]:
        """Yield the paths below a group, parents first."""

    def text(self, path: str, attribute: str) -> str | None:
        """Return one string among the attributes of a group or array."""

    def shape(self, path: str) -> tuple[int, ...]:
        """Return the shape of an array."""

    def array(self, path: str, bfloat16: bool = False) -> np.ndarray:
        """Return an array of floating-point numbers."""


class _Shards:
    """Several files as one."""

    def __init__(self, stores: Sequence[Weights]) -> None:
        self._stores = stores

    def has(self, path: str) -> bool:
        return any(store.has(path) for store in self._stores)

    def children(self, path: str = "") -> list[str]:
        return list(dict.fromkeys(name for s in self._stores for name in s.children(path)))

    def walk(self, path: str = "") -> Iterator[str]:
        yield from dict.fromkeys(found for store in self._stores for found in store.walk(path))

    def text(self, path: str, attribute: str) -> str | None:
        told = (store.text(path, attribute) for store in self._stores if store.has(path))
        return next((text for text in told if text is not None), None)

    def shape(self, path: str) -> tuple[int, ...]:
        return self._with(path).shape(path)

    def array(self, path: str, bfloat16: bool = False) -> np.ndarray:
        return self._with(path).array(path, bfloat16)

    def _with(self, path: str) -> Weights:
        return next((store for store in self._stores if store.has(path)), self._stores[0])


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[tuple[Weights, Node | None, int]]:
    """Open weights; with them come the config and Keras' version, where the file has them.

    Raises:
        InteropError: it is none of these files, or a damaged one; or one of several shards.
    """
    if path.is_dir():
        root, version = _told(*_members(path), path)
        weights = path / (SHARDS if (path / SHARDS).exists() else WEIGHTS)
        with _weights(weights) as store:
            yield store, root, version
    elif path.suffix == ".json" or hdf5.is_hdf5(path):
        with _weights(path) as store:
            yield store, None, 0
    else:
        config, metadata, content = _unpack(path)
        root, version = _told(config, metadata, path)
        with hdf5.opened(content, f"{path}: {WEIGHTS}") as store:
            yield store, root, version


def is_folder(path: pathlib.Path) -> bool:
    """Tell a folder that `model.save(folder, zipped=False)` wrote."""
    return path.is_dir() and (path / CONFIG).exists() and (path / METADATA).exists()


def version_of(path: pathlib.Path) -> int:
    """Return the major version of the Keras that wrote a whole model.

    Raises:
        InteropError: the file is damaged or not of this format.
    """
    metadata = _members(path)[1] if path.is_dir() else _unpack(path)[1]
    return _major_version(metadata, path)


@contextlib.contextmanager
def _weights(path: pathlib.Path) -> Iterator[Weights]:
    with contextlib.ExitStack() as stack:
        if path.suffix == ".json":
            places = _shards(path)
            stores = {
                name: stack.enter_context(hdf5.opened(path.with_name(name), path.with_name(name)))
                for name in dict.fromkeys(name for names in places.values() for name in names)
            }
            for group, names in places.items():
                for name in names:
                    if not stores[name].has(group):
                        raise InteropError(f"{path.with_name(name)} lacks {group!r}: see {path}")
            yield _Shards(list(stores.values()))
        else:
            _refuse_a_shard(path)
            yield stack.enter_context(hdf5.opened(path, path))


def _shards(path: pathlib.Path) -> dict[str, list[str]]:
    """Return by group the names of the files that it is in."""
    try:
        told = json.loads(files.regular(path).read_bytes())["weight_map"]
        places = {
            str(group): [names] if isinstance(names, str) else list(names)
            for group, names in told.items()
        }
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InteropError(f"{path} does not tell what its shards have: {error}") from error
    for name in (name for names in places.values() for name in names):
        if not isinstance(name, str) or not name or pathlib.Path(name).name != name:
            raise InteropError(f"{path} names a shard {name!r}, which is no file beside it")
        if not path.with_name(name).is_file():
            raise InteropError(f"{path.with_name(name)}, a shard of {path.name}, does not exist")
    if not places:
        raise InteropError(f"{path} names no shard")
    return places


def _refuse_a_shard(path: pathlib.Path) -> None:
    if found := _SHARD.fullmatch(path.name):
        whole = path.with_name(f"{found[1]}.weights.json")
        if whole.is_file() and any(path.name in names for names in _shards(whole).values()):
            raise InteropError(f"{path} is one of several shards: give {whole}")


def _told(config: bytes, metadata: bytes, path: pathlib.Path) -> tuple[Node, int]:
    return keras_model.parse(config, path), _major_version(metadata, path)


def _members(folder: pathlib.Path) -> tuple[bytes, bytes]:
    try:
        config, metadata = (files.regular(folder / name) for name in (CONFIG, METADATA))
        return config.read_bytes(), metadata.read_bytes()
    except FileNotFoundError as error:
        raise InteropError(f"{folder} is no folder of a Keras model: {error}") from error


def _unpack(path: pathlib.Path) -> tuple[bytes, bytes, bytes]:
    largest = _LARGEST_EXPANSION * path.stat().st_size
    with files.archive(path, f"{path} is no .keras archive, or a damaged one") as archive:
        members = []
        for name in (CONFIG, METADATA, WEIGHTS):
            member = archive.getinfo(name)
            if member.file_size > largest:
                raise ValueError(f"{name} claims {member.file_size} bytes; {largest} are allowed")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name} is packed in a way that is not read")
            members.append(archive.read(name))
    return members[0], members[1], members[2]


def _major_version(metadata: bytes, path: pathlib.Path) -> int:
    try:
        told: Any = json.loads(metadata)
        return int(told["keras_version"].split(".")[0])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InteropError(f"{path}: {METADATA} does not tell Keras' version: {error}") from error
