"""Arrays and texts of an HDF5 file that nobody vouches for.

Only hard links are followed, so that nothing outside of the file is read; what is taken from it
holds no more bytes than the file itself.
"""

import contextlib
import math
import mmap
import pathlib
import struct
import types
from collections.abc import Iterable, Iterator
from typing import Any

import ml_dtypes
import numpy as np

from flax_sepconv.interop import hdf5_attributes
from flax_sepconv.interop.layer import InteropError

# What h5py raises for a damaged file, depending on where it notices.
_FAILURES = (
    *(OSError, RuntimeError, LookupError, TypeError, ValueError),
    *(OverflowError, MemoryError, struct.error),
)


@contextlib.contextmanager
def opened(source: pathlib.Path | bytes, name: Any) -> Iterator["Store"]:
    """Open a file, or its content, for reading.

    Args:
        source: where it lies, or all its bytes.
        name: of the file, in errors.

    Raises:
        InteropError: it is no HDF5 file, or a truncated one.
    """
    h5py = library()
    with contextlib.ExitStack() as stack:
        with _explained(f"{name} is no HDF5 file, or a damaged one"):
            if isinstance(source, bytes):
                data: bytes | mmap.mmap = source
                file = h5py.File(h5py.h5f.open_file_image(source))
            else:
                raw = stack.enter_context(source.open("rb"))
                data = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
                stack.enter_context(data)
                file = h5py.File(source, "r")
            stack.callback(_close, file)
            if data[:8] != hdf5_attributes.SIGNATURE:
                raise ValueError("its first bytes are of something else")
            if file.id.get_create_plist().get_sizes() != (8, 8):
                raise ValueError("its addresses and lengths must have 8 bytes")
        yield Store(file, data, name)


def is_hdf5(path: pathlib.Path) -> bool:
    """Tell an HDF5 file by its first bytes."""
    with path.open("rb") as file:
        return file.read(len(hdf5_attributes.SIGNATURE)) == hdf5_attributes.SIGNATURE


def library() -> types.ModuleType:
    """Import h5py; raise InteropError where it is not installed."""
    try:
        import h5py  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise InteropError("HDF5 files need h5py: pip install 'flax-sepconv[interop]'") from error
    return h5py


class Store:
    """What a file holds, by path: the names of groups joined by "/", "" for its root."""

    def __init__(self, file: Any, data: bytes | mmap.mmap, name: Any) -> None:
        self._file, self._data, self._name = file, data, name
        self._left = len(data)

    def has(self, path: str) -> bool:
        """Tell whether there is a group or an array; False for links to somewhere else."""
        return self._find(path) is not None

    def children(self, path: str = "") -> list[str]:
        """Return the names in a group: none if it is an array, or not there."""
        found = self._find(path)
        if not isinstance(found, library().Group):
            return []
        with self._reading(path):
            return _texts(found)

    def walk(self, path: str = "") -> Iterator[str]:
        """Yield the paths below a group, parents first, whatever stands twice only once."""
        seen: set[int] = set()
        pending = [path]
        while pending:
            parent = pending.pop()
            for name in sorted(self.children(parent), reverse=True):
                child = f"{parent}/{name}".lstrip("/")
                found = self._find(child)
                if found is None:
                    continue
                with self._reading(child):
                    address = library().h5o.get_info(found.id).addr
                if address not in seen:
                    seen.add(address)
                    pending.append(child)
            if parent != path:
                yield parent

    def attributes(self, path: str) -> list[str]:
        """Return the names of the attributes of a group or array."""
        with self._reading(path):
            return [attribute.name for attribute in self._attributes(path)]

    def shape(self, path: str) -> tuple[int, ...]:
        """Return the shape that an array claims to have; () if there is none."""
        found = self._find(path)
        with self._reading(path):
            return tuple(getattr(found, "shape", None) or ())

    def text(self, path: str, attribute: str) -> str | None:
        """Return one string among the attributes of a group or array; None if it is not there."""
        with self._reading(f"{path}, attribute {attribute}"):
            for found in self._attributes(path):
                if found.name == attribute:
                    return hdf5_attributes.text(self._data, found)
        return None

    def array(self, path: str) -> np.ndarray:
        """Return an array of numbers.

        Raises:
            InteropError: it is not there, is not in the file, or claims more bytes than are left.
        """
        found = self._find(path)
        if not isinstance(found, library().Dataset):
            raise InteropError(f"{self._name} has no array {path!r}")
        with self._reading(path):
            dtype, shape = found.dtype, found.shape
            if dtype == "V2" and self.text(path, "dtype") == "bfloat16":
                native = np.dtype(ml_dtypes.bfloat16)
            elif dtype.kind in "fiu" and shape is not None:
                native = dtype.newbyteorder("=")
            else:
                raise ValueError(f"must be an array of numbers, got {dtype} of shape {shape}")
            if found.is_virtual or found.external:
                raise ValueError("its numbers are in another file, which is not read")
            self._spend(math.prod(shape) * dtype.itemsize)
            if math.prod(found.chunks or (0,)) * dtype.itemsize > len(self._data):
                raise ValueError("its chunks are larger than the file")
            value = found[()]
        return value.view(native) if dtype == "V2" else value.astype(native, copy=False)

    def _attributes(self, path: str) -> Iterator[hdf5_attributes.Attribute]:
        found = self._find(path)
        if found is not None:
            address = library().h5o.get_info(found.id).addr
            yield from hdf5_attributes.attributes(self._data, address)

    def _spend(self, size: int) -> None:
        if size > self._left:
            raise ValueError(
                f"claims {size} bytes; of the {len(self._data)} in the file {self._left} are left"
            )
        self._left -= size

    def _find(self, path: str) -> Any:
        h5py = library()
        found = self._file
        for name in filter(None, path.split("/")):
            with self._reading(path):
                if not isinstance(found, h5py.Group) or name not in found:
                    return None
                if not isinstance(found.get(name, getlink=True), h5py.HardLink):
                    return None
                found = found[name]
        return found

    def _reading(self, path: str) -> contextlib.AbstractContextManager[None]:
        return _explained(f"{self._name}: {path or 'its root'} cannot be read")


def _close(file: Any) -> None:
    with contextlib.suppress(*_FAILURES):  # What was read has been read.
        file.close()


def _texts(names: Iterable[str | bytes]) -> list[str]:
    """Return the names; h5py gives bytes for what is no UTF-8."""
    return [name.decode() if isinstance(name, bytes) else name for name in names]


@contextlib.contextmanager
def _explained(problem: str) -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        raise InteropError(f"{problem}: {error}") from error
