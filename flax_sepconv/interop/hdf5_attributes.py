"""The attributes of a group or array in an HDF5 file, read from its bytes.

The HDF5 library takes the length of a string from the file and allocates it (4 GB at most) before
it looks whether there are so many bytes, and on damaged strings version 1.14.6 walks in a circle
or beyond its memory. Keras keeps its configs in such strings, so they are read here. The layout is
that of the "HDF5 File Format Specification", sections III.E (heap), IV.A and IV.A.2.m.
"""

import mmap
import struct
from collections.abc import Iterator
from typing import NamedTuple

SIGNATURE = b"\x89HDF\r\n\x1a\n"

_ATTRIBUTE, _CONTINUATION, _ATTRIBUTES_ELSEWHERE = 0x0C, 0x10, 0x15
_SHARED = 0x02
_NOWHERE = 2**64 - 1
_FIXED, _VARIABLE = 3, 9  # Classes of datatypes.
_OF_CHARACTERS = 1


class Attribute(NamedTuple):
    """One attribute.

    Attributes:
        name: of it.
        datatype, dataspace: messages that describe what it holds.
        value: its bytes; of a string of variable length, those that tell where it is.
    """

    name: str
    datatype: bytes
    dataspace: bytes
    value: bytes


def attributes(data: bytes | mmap.mmap, address: int) -> Iterator[Attribute]:
    """Yield the attributes of the object whose header is at an address.

    Args:
        data: the whole file.
        address: of the header.

    Raises:
        ValueError, struct.error: the file is damaged, or is laid out in a way that Keras does not.
    """
    for kind, flags, body in _messages(data, address):
        if kind == _ATTRIBUTES_ELSEWHERE:
            (heap,) = struct.unpack_from("<Q", body, 4 if body[1] & 1 else 2)
            if heap != _NOWHERE:
                raise ValueError("its attributes are in a heap, where Keras puts none")
        elif kind == _ATTRIBUTE:
            if flags & _SHARED:
                raise ValueError("its attributes are shared with other objects")
            yield _attribute(body)


def text(data: bytes | mmap.mmap, attribute: Attribute) -> str:
    """Return an attribute that is one string.

    Raises:
        ValueError, struct.error: it is something else, or its characters are not there.
    """
    version, rank = attribute.dataspace[:2]
    scalar = version == 1 or (version == 2 and attribute.dataspace[3] == 0)
    kind, kinds_detail, size = struct.unpack_from("<BB2xI", attribute.datatype)
    if rank or not scalar:
        raise ValueError("it must be one string, got an array")
    if kind & 15 == _FIXED:
        stored = _slice(attribute.value, 0, size)
    elif kind & 15 == _VARIABLE and kinds_detail & 15 == _OF_CHARACTERS:
        length, heap, number = struct.unpack_from("<IQI", attribute.value)
        stored = _slice(_heap_object(data, heap, number), 0, length)
    else:
        raise ValueError(f"it must be a string, got datatype class {kind & 15}")
    return stored.split(b"\0")[0].decode()


def _messages(data: bytes | mmap.mmap, address: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield kind, flags and body of each message in an object's header."""
    new = _slice(data, address, 4) == b"OHDR"
    if new:
        flags = _slice(data, address, 6)[5]
        start = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(_slice(data, start, width), "little")
        head = "<BHB2x" if flags & 0x04 else "<BHB"
        blocks = [(start + width, size)]
    else:
        version, size = struct.unpack_from("<B7xI", _slice(data, address, 16))
        if version != 1:
            raise ValueError(f"an object's header has version {version}")
        head = "<HHB3x"
        blocks = [(address + 16, size)]
    for start, size in blocks:  # It grows on the way.
        block = _slice(data, start, size)
        place = 0
        while place + struct.calcsize(head) <= len(block):
            kind, length, flags = struct.unpack_from(head, block, place)
            place += struct.calcsize(head)
            body = _slice(block, place, length)
            place += length
            if kind == _CONTINUATION:
                where, size = struct.unpack_from("<QQ", body)
                # In the new form a mark stands before the messages and a checksum behind.
                further = (where + 4, size - 8) if new else (where, size)
                if further in blocks:
                    raise ValueError("an object's header goes in a circle")
                blocks.append(further)
            else:
                yield kind, flags, body


def _attribute(body: bytes) -> Attribute:
    version, flags, *sizes = struct.unpack_from("<BBHHH", body)
    if version not in (1, 2, 3) or (version > 1 and flags & 3):
        raise ValueError(f"an attribute has version {version} and flags {flags}")
    place = 9 if version == 3 else 8
    parts = []
    for size in sizes:
        parts.append(_slice(body, place, size))
        place += -(-size // 8) * 8 if version == 1 else size
    name, datatype, dataspace = parts
    return Attribute(name.split(b"\0")[0].decode(), datatype, dataspace, body[place:])


def _heap_object(data: bytes | mmap.mmap, address: int, wanted: int) -> bytes:
    mark, size = struct.unpack("<8sQ", _slice(data, address, 16))
    if mark != b"GCOL\x01\0\0\0":
        raise ValueError("a string is not where it should be")
    place, end = address + 16, address + size
    while place + 16 <= end:
        number, length = struct.unpack("<H6xQ", _slice(data, place, 16))
        if number == wanted:
            return _slice(data, place + 16, length)
        if number == 0:  # Free space, up to the end.
            break
        place += 16 + -(-length // 8) * 8
    raise ValueError("a string is not in its heap")


def _slice(data: bytes | mmap.mmap, start: int, length: int) -> bytes:
    found = data[start : start + length] if length >= 0 else b""
    if len(found) != length:
        raise ValueError(f"{length} bytes at {start} are not there")
    return found
