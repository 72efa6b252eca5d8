"""Arrays and texts of an HDF5 file that nobody vouches for.

Only hard links are followed, so that nothing outside of the file is read; what is taken from it
holds no more bytes than the file itself.
"""

import contextlib
import math
import pathlib
import types
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from flax_sepconv.interop.layer import InteropError

# What h5py and the HDF5 library raise for a damaged file, depending on where they notice.
_FAILURES = (OSError, RuntimeError, LookupError, TypeError, ValueError, OverflowError, MemoryError)


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
    with _explained(f"{name} is no HDF5 file, or a damaged one"):
        if isinstance(source, bytes):
            file, size = h5py.File(h5py.h5f.open_file_image(source)), len(source)
        else:
            file, size = h5py.File(source, "r"), source.stat().st_size
    try:
        yield Store(file, size, name)
    finally:
        with contextlib.suppress(*_FAILURES):  # What was read has been read.
            file.close()


def library() -> types.ModuleType:
    """Import h5py; raise InteropError where it is not installed."""
    try:
        import h5py  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise InteropError("HDF5 files need h5py: pip install 'flax-sepconv[interop]'") from error
    return h5py


class Store:
    """What a file holds, by path: the names of groups joined by "/", "" for its root."""

    def __init__(self, file: Any, size: int, name: Any) -> None:
        self._file, self._size, self._name = file, size, name
        self._left = size

    def has(self, path: str) -> bool:
        """Tell whether there is a group or an array; False for links to somewhere else."""
        return self._find(path) is not None

    def children(self, path: str = "") -> list[str]:
        """Return the names in a group: none if it is an array, or not there."""
        found = self._find(path)
        if not isinstance(found, library().Group):
            return []
        with self._reading(path):
            return list(found)

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
        found = self._find(path)
        if found is None:
            return []
        with self._reading(path):
            return list(found.attrs)

    def shape(self, path: str) -> tuple[int, ...]:
        """Return the shape that an array claims to have; () if there is none."""
        found = self._find(path)
        with self._reading(path):
            return tuple(getattr(found, "shape", None) or ())

    def text(self, path: str, attribute: str) -> str | None:
        """Return one string among the attributes of a group or array; None if it is not there."""
        found = self._find(path)
        if found is None:
            return None
        with self._reading(f"{path}, attribute {attribute}"):
            if attribute not in found.attrs:
                return None
            stored = found.attrs.get_id(attribute)
            # A longer list of strings could point at one and the same text many times.
            if stored.shape != () or stored.dtype.kind not in "OS":
                raise ValueError(f"must be one string, got {stored.dtype} of shape {stored.shape}")
            value = found.attrs[attribute]
            if not isinstance(value, str | bytes):
                raise ValueError(f"must be one string, got {type(value).__name__}")
            return value.decode() if isinstance(value, bytes) else value

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
            if dtype == "V2" and found.attrs.get("dtype") == "bfloat16":
                native = np.dtype(ml_dtypes.bfloat16)
            elif dtype.kind in "fiu" and shape is not None:
                native = dtype.newbyteorder("=")
            else:
                raise ValueError(f"must be an array of numbers, got {dtype} of shape {shape}")
            if found.is_virtual or found.external:
                raise ValueError("its numbers are in another file, which is not read")
            self._spend(math.prod(shape) * dtype.itemsize)
            if math.prod(found.chunks or (0,)) * dtype.itemsize > self._size:
                raise ValueError("its chunks are larger than the file")
            value = found[()]
        return value.view(native) if dtype == "V2" else value.astype(native, copy=False)

    def _spend(self, size: int) -> None:
        if size > self._left:
            raise ValueError(
                f"claims {size} bytes, {self._left} are left of the {self._size} that the file has"
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


@contextlib.contextmanager
def _explained(problem: str) -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        raise InteropError(f"{problem}: {error}") from error
