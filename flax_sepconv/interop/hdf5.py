"""Arrays and texts of an HDF5 file that nobody vouches for.

The HDF5 library believes the sizes in a file before it looks for so many bytes, and in damaged
files version 1.14.6 was seen to walk in a circle, to take 6 GB and to crash. What
Keras writes is a small part of the format, so it is read without that library. Links to other
places and other files are not followed.
"""

import contextlib
import itertools
import mmap
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from flax_sepconv.interop import hdf5_format, hdf5_values
from flax_sepconv.interop.hdf5_format import Data, Message
from flax_sepconv.interop.layer import InteropError

# Far more than any model has.
_DEEPEST = 100


@contextlib.contextmanager
def opened(source: pathlib.Path | bytes, name: Any) -> Iterator["Store"]:
    """Open a file, or its content, for reading.

    Args:
        source: where it lies, or all its bytes.
        name: of the file, in errors.

    Raises:
        InteropError: it is no HDF5 file, or a truncated one.
    """
    with contextlib.ExitStack() as stack:
        with _explained(f"{name} is no HDF5 file, or a damaged one"):
            data: Data
            if isinstance(source, bytes):
                data = source
            else:
                file = stack.enter_context(source.open("rb"))
                data = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            address = hdf5_format.root(data)
        yield Store(data, address, name)


def is_hdf5(path: pathlib.Path) -> bool:
    """Tell an HDF5 file by its first bytes."""
    with path.open("rb") as file:
        return file.read(len(hdf5_format.SIGNATURE)) == hdf5_format.SIGNATURE


class Store:
    """What a file holds, by path: the names of groups joined by "/", "" for its root.

    Raises:
        InteropError: what is asked for is damaged, or in a form that Keras does not write.
    """

    def __init__(self, data: Data, address: int, name: Any) -> None:
        self._data, self._root, self._name = data, address, name
        self._left = len(data)
        self._links: dict[int, dict[str, int | None]] = {}
        self._arrays: dict[int | None, np.ndarray] = {}

    def has(self, path: str) -> bool:
        """Tell whether there is a group or an array."""
        return self._find(path) is not None

    def children(self, path: str = "") -> list[str]:
        """Return the names in a group: none if it is an array, or not there."""
        address = self._find(path)
        if address is None:
            return []
        with self._reading(path):
            return [name for name, child in self._children(address).items() if child is not None]

    def walk(self, path: str = "") -> Iterator[str]:
        """Yield the paths below a group, parents first, whatever stands twice only once."""
        seen: set[int | None] = {self._find(path)}
        pending = [f"{path}/{name}".lstrip("/") for name in self.children(path)[::-1]]
        while pending:
            found = pending.pop()
            if found.count("/") > _DEEPEST:
                raise InteropError(f"{self._name} has groups more than {_DEEPEST} deep")
            if (address := self._find(found)) not in seen:
                seen.add(address)
                yield found
                pending.extend(f"{found}/{name}" for name in self.children(found)[::-1])

    def attributes(self, path: str) -> list[str]:
        """Return the names of the attributes of a group or array."""
        with self._reading(path):
            return [name for name, _ in hdf5_values.attributes(self._messages(path))]

    def text(self, path: str, attribute: str) -> str | None:
        """Return one string among the attributes of a group or array; None if it is not there."""
        with self._reading(path, f", attribute {attribute}"):
            found = dict(hdf5_values.attributes(self._messages(path)))
            return hdf5_values.text(self._data, found[attribute]) if attribute in found else None

    def texts(self, path: str, attribute: str) -> list[str]:
        """Return a list of strings among the attributes, where there is one.

        A long one is cut into several: layer_names0, layer_names1, ...
        """
        with self._reading(path, f", attribute {attribute}"):
            found = dict(hdf5_values.attributes(self._messages(path)))
            numbered = map(f"{attribute}{{}}".format, itertools.count())
            parts = list(itertools.takewhile(found.__contains__, numbered))
            if attribute in found:
                parts = [attribute]
            return [text for part in parts for text in hdf5_values.texts(self._data, found[part])]

    def identity(self, path: str) -> int | None:
        """Return what two paths have in common only if they lead to one group or array."""
        return self._find(path)

    def shape(self, path: str) -> tuple[int, ...]:
        """Return the shape that an array claims to have."""
        with self._reading(path):
            return hdf5_values.array(self._messages(path)).shape

    def array(self, path: str, bfloat16: bool = False) -> np.ndarray:
        """Return an array of floating-point numbers; the same one if it is asked for again.

        Together they may have no more bytes than the file: in a sound one no two arrays overlap.

        Args:
            path: of the array.
            bfloat16: what two opaque bytes are, even if no attribute says so.
        """
        address = self._find(path)
        if address in self._arrays:
            return self._arrays[address]
        with self._reading(path):
            found = hdf5_values.array(self._messages(path))
            if found.size > self._left:
                raise ValueError(
                    f"it claims {found.size} bytes; of the {len(self._data)} in the file "
                    f"{self._left} are left"
                )
            self._left -= found.size
            content = found.content
            if content is None:
                content = hdf5_format.cut(self._data, found.address, found.size)
            dtype = found.dtype
            if dtype == "V2":
                if not bfloat16 and self.text(path, "dtype") != "bfloat16":
                    raise ValueError(
                        "it has 2-byte opaque numbers, probably bfloat16, and nothing says so"
                    )
                dtype = np.dtype(ml_dtypes.bfloat16)
            numbers = np.frombuffer(content, dtype).reshape(found.shape)
            self._arrays[address] = numbers.astype(dtype.newbyteorder("="))
        return self._arrays[address]

    def _messages(self, path: str) -> list[Message]:
        address = self._find(path)
        return [] if address is None else list(hdf5_format.messages(self._data, address))

    def _find(self, path: str) -> int | None:
        address = self._root
        for name in filter(None, path.split("/")):
            with self._reading(path):
                child = self._children(address).get(name)
            if child is None:
                return None
            address = child
        return address

    def _children(self, address: int) -> dict[str, int | None]:
        if address not in self._links:
            self._links[address] = hdf5_format.links(self._data, address)
        return self._links[address]

    def _reading(self, path: str, part: str = "") -> contextlib.AbstractContextManager[None]:
        return _explained(f"{self._name}: {path or 'its root'}{part} cannot be read")


@contextlib.contextmanager
def _explained(problem: str) -> Iterator[None]:
    try:
        yield
    except InteropError:
        raise
    except (ValueError, LookupError, struct.error) as error:
        raise InteropError(f"{problem}: {error}") from error
