"""What HDF5 messages say of values: the numbers of an array, and the strings of attributes."""

import math
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np

from flax_sepconv.interop import hdf5_format
from flax_sepconv.interop.hdf5_format import Data, Message, cut

_FLOAT, _STRING, _OPAQUE, _VARIABLE = 1, 3, 5, 9  # Classes of datatypes.
_COMPACT, _CONTIGUOUS = 0, 1  # Classes of layouts.
# Bytes, sign's place; then first bit and bits of: all, exponent, mantissa; the exponent's bias.
_FLOATS = {
    (2, 15, 0, 16, 10, 5, 0, 10, 15): np.dtype(np.float16),
    (2, 15, 0, 16, 7, 8, 0, 7, 127): np.dtype(ml_dtypes.bfloat16),
    (4, 31, 0, 32, 23, 8, 0, 23, 127): np.dtype(np.float32),
    (8, 63, 0, 64, 52, 11, 0, 52, 1023): np.dtype(np.float64),
}


class Array(NamedTuple):
    """What an array claims to be.

    Attributes:
        shape: of it.
        dtype: of its numbers in the file; void where an attribute has to tell.
        content: its bytes if they stand in the header.
        address, size: of its bytes elsewhere.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    content: bytes | None
    address: int
    size: int


def array(messages: Sequence[Message]) -> Array:
    """Return what an object's messages tell of an array."""
    by_kind = {message.kind: message for message in messages}
    for kind in (hdf5_format.DATASPACE, hdf5_format.DATATYPE, hdf5_format.LAYOUT):
        if kind not in by_kind:
            raise ValueError("it is no array")
    if hdf5_format.OTHER_FILES in by_kind:
        raise ValueError("its numbers are in another file, which is not read")
    shape = _shape(by_kind[hdf5_format.DATASPACE].own())
    dtype = _dtype(by_kind[hdf5_format.DATATYPE].own())
    layout = by_kind[hdf5_format.LAYOUT].own()
    version, kind = layout[:2]
    if version not in (3, 4) or kind not in (_COMPACT, _CONTIGUOUS):
        raise ValueError("it is not stored in one piece: unpack it by `h5repack -f NONE -l CONTI`")
    if kind == _COMPACT:
        (size,) = struct.unpack_from("<H", layout, 2)
        found = Array(shape, dtype, cut(layout, 4, size), 0, size)
    else:
        found = Array(shape, dtype, None, *struct.unpack_from("<QQ", layout, 2))
        if found.address == hdf5_format.NOWHERE:
            raise ValueError("its numbers have never been written")
    if found.size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"it has {found.size} bytes, which is not {dtype} of shape {shape}")
    return found


def attributes(messages: Sequence[Message]) -> Iterator[tuple[str, list[bytes]]]:
    """Yield names, and what is known of each: its datatype, its dataspace and its value."""
    for message in messages:
        if message.kind == hdf5_format.ATTRIBUTES_ELSEWHERE:
            body = message.own()
            (heap,) = struct.unpack_from("<Q", body, 4 if body[1] & 1 else 2)
            if heap != hdf5_format.NOWHERE:
                raise ValueError("its attributes are listed in a way that Keras does not use")
        elif message.kind == hdf5_format.ATTRIBUTE:
            yield _attribute(message.own())


def text(data: Data, attribute: Sequence[bytes]) -> str:
    """Return an attribute that is one string."""
    if _shape(attribute[1]) != ():
        raise ValueError("it must be one string, got several")
    return texts(data, attribute)[0]


def texts(data: Data, attribute: Sequence[bytes]) -> list[str]:
    """Return an attribute that is a list of strings."""
    datatype, dataspace, value = attribute
    amount = math.prod(_shape(dataspace))
    if amount == 0:  # An empty list has any datatype.
        return []
    kind, detail, size = struct.unpack_from("<BB2xI", datatype)
    if kind & 15 == _STRING and size > 0:
        stored = cut(value, 0, amount * size)
        found = [stored[place * size : (place + 1) * size] for place in range(amount)]
    elif kind & 15 == _VARIABLE and detail & 15 == 1:  # Of characters.
        found = list(_variable(data, cut(value, 0, amount * 16)))
    else:
        raise ValueError(f"it must be a string, got datatype class {kind & 15}")
    return [one.split(b"\0")[0].decode() for one in found]


def _variable(data: Data, references: bytes) -> Iterator[bytes]:
    heaps: dict[int, dict[int, tuple[int, int]]] = {}
    left = unread = len(data)  # In a sound file no two heaps overlap, nor do their strings.
    for length, address, number in struct.iter_unpack("<IQI", references):
        if address not in heaps:
            size, heaps[address] = hdf5_format.heap(data, address)
            left = hdf5_format.spend(left, size)
        if number not in heaps[address]:
            raise ValueError(f"string {number} is not at {address}")
        start, most = heaps[address][number]
        found = cut(cut(data, start, most), 0, length)
        unread = hdf5_format.spend(unread, most)
        yield found


def _attribute(body: bytes) -> tuple[str, list[bytes]]:
    version, flags, *sizes = struct.unpack_from("<BBHHH", body)
    if version not in (1, 2, 3) or (version > 1 and flags & 3):
        raise ValueError(f"version {version} of an attribute with flags {flags} is unknown")
    place = 9 if version == 3 else 8
    parts = []
    for size in sizes:
        parts.append(cut(body, place, size))
        place += -(-size // 8) * 8 if version == 1 else size
    name, *descriptions = parts
    return name.split(b"\0")[0].decode(), [*descriptions, body[place:]]


def _shape(body: bytes) -> tuple[int, ...]:
    version, rank, _, kind = body[:4]
    if version not in (1, 2) or (version == 2 and kind == 2):
        raise ValueError("it has no values")
    return struct.unpack_from(f"<{rank}Q", body, 8 if version == 1 else 4)


def _dtype(body: bytes) -> np.dtype:
    kind, order, sign, size = struct.unpack_from("<BBBxI", body)
    if kind & 15 == _OPAQUE and size == 2:
        return np.dtype("V2")  # bfloat16, if an attribute says so.
    if kind & 15 != _FLOAT:
        raise ValueError(f"it must hold floating-point numbers, got datatype class {kind & 15}")
    dtype = _FLOATS.get((size, sign, *struct.unpack_from("<HHBBBBI", body, 8)))
    # The byte order; no padding; the mantissa's first bit is left out.
    if dtype is None or order & ~1 != 0x20:
        raise ValueError("its floating-point numbers are of an unknown kind")
    return dtype.newbyteorder(">") if order & 1 else dtype
