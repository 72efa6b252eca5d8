"""A checkpoint of TensorFlow, in the format of 2016 and after: an `.index` file and its data files.

The index is a table of names, each with its tensor's dtype, shape, place in a data file and
checksum. A partitioned variable's entry names its slices instead, which have entries of their own.
"""

import math
import pathlib
from typing import Any

import ml_dtypes
import numpy as np

from flax_sepconv.interop import files, tf_table
from flax_sepconv.interop.layer import InteropError
from flax_sepconv.interop.tf_messages import parse

_VERSION = 1
_BIG_ENDIAN = 1
_STRING = 7
_AXES = 4  # as many has the layer of two dimensions, which shares the names with ours
# TensorFlow's numbers for the dtypes that weights may have.
_DTYPES = {
    1: np.dtype(np.float32),
    2: np.dtype(np.float64),
    14: np.dtype(ml_dtypes.bfloat16),
    19: np.dtype(np.float16),
}


class Bundle:
    """The tensors of a checkpoint by name; nothing is read before it is asked for.

    Args:
        index: its `.index` file, whose name the data files share: "model.ckpt-100.index".

    Raises:
        InteropError: a file is missing, damaged or too short for what the index says.
    """

    def __init__(self, index: pathlib.Path) -> None:
        self._index = index
        try:
            table = tf_table.read(files.regular(self._index).read_bytes())
        except FileNotFoundError as error:
            raise InteropError(f"{self._index} does not exist") from error
        except InteropError as error:
            raise InteropError(f"{self._index}: {error}") from error
        self._shards = self._read_header(table.pop(b"", b""))
        self._entries = {
            key: parse("BundleEntry", value, f"{self._index}: the entry of {key!r}")
            for key, value in table.items()
        }
        self._check_places()

    def __str__(self) -> str:
        return str(self._index)

    def names(self) -> list[str]:
        """Return the names of all tensors.

        Raises:
            InteropError: a name is no UTF-8.
        """
        try:
            return [key.decode() for key in self._entries if not key.startswith(b"\0")]
        except UnicodeDecodeError as error:
            raise InteropError(f"{self._index} has a name that is no UTF-8") from error

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the sizes of a tensor's axes, as the index has them.

        Raises:
            InteropError: there is no such tensor.
        """
        return tuple(dim.size for dim in self._entry(name).shape.dim)

    def array(self, name: str) -> np.ndarray:
        """Read a tensor of floating-point numbers.

        Raises:
            InteropError: there is no such tensor, it is of another dtype, or it is damaged.
        """
        entry = self._entry(name)
        shape = self._shape(entry, name)
        if entry.slices:
            return self._joined(entry, name, shape)
        return self._read_array(entry, name, shape)

    def string(self, name: str) -> bytes:
        """Read a tensor of rank 0 that is a string.

        Raises:
            InteropError: there is no such tensor, it is no such string, or it is damaged.
        """
        entry = self._entry(name)
        if entry.dtype != _STRING or entry.shape.dim:
            raise InteropError(f"{self._index}: {name!r} must be a single string")
        data = self._read(entry)
        # Its length, that length's checksum, and the string. The checksum of all is of the length
        # in four or eight bytes, of that checksum, and of the string.
        length, position = tf_table.varint(data, 0)
        start = position + 4
        if len(data) != start + length:
            raise InteropError(f"{self._index}: {name!r} is damaged: its length is wrong")
        summed = length.to_bytes(4 if length < 1 << 32 else 8, "little") + data[position:start]
        self._check_crc(entry, name, tf_table.crc(data[start:], tf_table.crc(summed)))
        return data[start:]

    def _read_header(self, data: bytes) -> int:
        """Check that we can read this kind, and return the number of data files."""
        header = parse("BundleHeader", data, f"{self._index}: its header")
        if header.endianness == _BIG_ENDIAN:
            raise InteropError(f"{self._index} was written by a big-endian machine")
        if header.version.producer < 1 or header.version.min_consumer > _VERSION:
            raise InteropError(
                f"{self._index} is of version {header.version.producer}, for readers of "
                f"{header.version.min_consumer}; known is {_VERSION}"
            )
        return header.num_shards

    def _check_places(self) -> None:
        """Check that every tensor lies within its data file, and has its bytes alone."""
        sizes: dict[int, int] = {}
        taken: dict[int, int] = {}
        for key, entry in self._entries.items():
            shard = entry.shard_id
            if not 0 <= shard < self._shards:
                raise InteropError(f"{self._index}: {key!r} is in no data file")
            if shard not in sizes:
                path = self._data_path(shard)
                try:
                    sizes[shard], taken[shard] = files.regular(path).stat().st_size, 0
                except FileNotFoundError as error:
                    raise InteropError(f"{path} does not exist") from error
            if min(entry.offset, entry.size) < 0 or entry.offset + entry.size > sizes[shard]:
                raise InteropError(
                    f"{self._data_path(shard)} is truncated: {key!r} would end at byte "
                    f"{entry.offset + entry.size}, but it has {sizes[shard]}"
                )
            taken[shard] += entry.size
            if taken[shard] > sizes[shard]:
                raise InteropError(f"{self._index}: {key!r} shares bytes with another tensor")

    def _data_path(self, shard: int) -> pathlib.Path:
        name = self._index.name.removesuffix(".index")  # Empty, where the prefix ends in "/".
        return self._index.with_name(f"{name}.data-{shard:05d}-of-{self._shards:05d}")

    def _entry(self, name: str) -> Any:
        if name.encode() not in self._entries:
            raise InteropError(f"{self._index} has no tensor {name!r}")
        return self._entries[name.encode()]

    def _shape(self, entry: Any, name: str) -> tuple[int, ...]:
        shape = tuple(dim.size for dim in entry.shape.dim)
        if entry.dtype not in _DTYPES:
            known = ", ".join(f"{number} ({dtype})" for number, dtype in _DTYPES.items())
            raise InteropError(
                f"{self._index}: {name!r} has TensorFlow's dtype {entry.dtype}; known are {known}"
            )
        if entry.shape.unknown_rank or len(shape) > _AXES or any(size < 1 for size in shape):
            raise InteropError(
                f"{self._index}: {name!r} must have at most {_AXES} axes and none that is empty, "
                f"got shape {shape}"
            )
        return shape

    def _read_array(self, entry: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
        dtype = _DTYPES[entry.dtype]
        if math.prod(shape) * dtype.itemsize != entry.size:
            raise InteropError(
                f"{self._index}: {name!r} is {dtype} of shape {shape}, but has {entry.size} bytes"
            )
        data = self._read(entry)
        self._check_crc(entry, name, tf_table.crc(data))
        return np.frombuffer(data, dtype).reshape(shape).copy()

    def _joined(self, entry: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Read a partitioned variable."""
        # The keys of its slices start so; the numbers that follow sort as the slices do.
        start = b"\0" + name.encode().replace(b"\0", b"\0\xff") + b"\0\1"
        keys = [key for key in self._entries if key.startswith(start)]
        slices = sorted(
            [(e.start, e.length if e.HasField("length") else -1) for e in part.extent]
            for part in entry.slices
        )
        wrong = InteropError(f"{self._index}: the slices of {name!r} do not make up {shape}")
        dtype = _DTYPES[entry.dtype]
        stored = sum(self._entries[key].size for key in keys)
        if len(keys) != len(slices) or stored != math.prod(shape) * dtype.itemsize:
            raise wrong
        whole, filled = np.empty(shape, dtype), np.zeros(shape, bool)
        for key, extents in zip(keys, slices, strict=True):
            part = self._entries[key]
            read = self._read_array(part, name, self._shape(part, name))
            place = tuple(slice(a, a + n) if n >= 0 else slice(None) for a, n in extents)
            if len(place) != len(shape) or whole[place].shape != read.shape or filled[place].any():
                raise wrong
            whole[place], filled[place] = read, True
        return whole

    def _read(self, entry: Any) -> bytes:
        with self._data_path(entry.shard_id).open("rb") as file:
            file.seek(entry.offset)
            return file.read(entry.size)

    def _check_crc(self, entry: Any, name: str, crc: int) -> None:
        if tf_table.masked(crc) != entry.crc32c:
            path = self._data_path(entry.shard_id)
            raise InteropError(f"{path} is damaged: the checksum of {name!r} is wrong")
