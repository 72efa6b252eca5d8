"""The layout of an HDF5 file, as far as Keras' files use it, over the bytes of the file.

From the "HDF5 File Format Specification", version 3.0: an object (group or array) is a header at
some address, a list of messages. Those of a group lead to its children's headers, those of an
array say what its numbers are and where. Whatever is not there or does not fit is a ValueError or
a struct.error; no size in the file is believed before so many bytes are seen.
"""

import mmap
import struct
from collections.abc import Iterator
from typing import NamedTuple

Data = bytes | mmap.mmap

SIGNATURE = b"\x89HDF\r\n\x1a\n"
NOWHERE = 2**64 - 1

# Kinds of messages.
DATASPACE, LINKS_ELSEWHERE, DATATYPE, LINK, OTHER_FILES, LAYOUT = 0x01, 0x02, 0x03, 0x06, 0x07, 0x08
ATTRIBUTE, CONTINUATION, SYMBOL_TABLE, ATTRIBUTES_ELSEWHERE = 0x0C, 0x10, 0x11, 0x15
_SHARED = 0x02


class Message(NamedTuple):
    """One of an object's header."""

    kind: int
    flags: int
    body: bytes

    def own(self) -> bytes:
        """Return the body; raise if it is a reference to another object's."""
        if self.flags & _SHARED:
            raise ValueError("it shares a description with another object, as Keras never does")
        return self.body


def cut(data: Data, start: int, length: int) -> bytes:
    """Return so many bytes; raise if they are not there."""
    found = data[start : start + length] if min(start, length) >= 0 else b""
    if len(found) != length:
        raise ValueError(f"it ends before the {length} bytes at {start}")
    return found


def root(data: Data) -> int:
    """Return the address of the root group's header."""
    if data[:8] != SIGNATURE:
        raise ValueError("its first bytes are of something else")
    version = cut(data, 8, 1)[0]
    if version in (0, 1):
        more = 4 if version else 0
        sizes = cut(data, 13, 2)
        base, _, end, _, _, address = struct.unpack("<6Q", cut(data, 24 + more, 48))
    elif version in (2, 3):
        sizes = cut(data, 9, 2)
        base, _, end, address = struct.unpack("<4Q", cut(data, 12, 32))
    else:
        raise ValueError(f"version {version} of its superblock is unknown")
    if sizes != b"\x08\x08" or base:
        raise ValueError("its addresses must have 8 bytes and start with the file")
    if end > len(data):
        raise ValueError(f"it is truncated: of {end} bytes there are {len(data)}")
    return address


def messages(data: Data, address: int) -> Iterator[Message]:
    """Yield the messages of the header at an address."""
    new = cut(data, address, 4) == b"OHDR"
    if new:
        flags = cut(data, address, 6)[5]
        start = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        blocks = [(start + width, int.from_bytes(cut(data, start, width), "little"))]
        head = struct.Struct("<BHB2x" if flags & 0x04 else "<BHB")
    else:
        version, size = struct.unpack("<B7xI4x", cut(data, address, 16))
        if version != 1:
            raise ValueError(f"there is no object at {address}")
        blocks = [(address + 16, size)]
        head = struct.Struct("<HHB3x")
    left = len(data)  # In a sound file no two blocks overlap, and none is met twice.
    for start, size in blocks:  # They become more on the way.
        left = spend(left, size)
        block, place = cut(data, start, size), 0
        while place + head.size <= len(block):
            kind, length, flags = head.unpack_from(block, place)
            body = cut(block, place + head.size, length)
            place += head.size + length
            if kind != CONTINUATION:
                yield Message(kind, flags, body)
                continue
            where, size = struct.unpack_from("<QQ", body)
            # In the new form a mark stands before the messages, and a checksum behind.
            blocks.append((where + 4, size - 8) if new else (where, size))


def links(data: Data, address: int) -> dict[str, int | None]:
    """Return the headers' addresses of a group's children; None for links to other places."""
    found: dict[str, int | None] = {}
    for message in messages(data, address):
        if message.kind == SYMBOL_TABLE:
            tree, heap = struct.unpack_from("<QQ", message.own())
            found |= _symbols(data, tree, heap)
        elif message.kind == LINK:
            name, target = _link(message.own())
            found[name] = target
        elif message.kind == LINKS_ELSEWHERE:
            body = message.own()
            (heap,) = struct.unpack_from("<Q", body, 10 if body[1] & 1 else 2)
            if heap != NOWHERE:
                raise ValueError("its children are listed in a way that Keras does not use")
    return found


def _symbols(data: Data, tree: int, heap: int) -> dict[str, int | None]:
    mark, size, place = struct.unpack("<8sQ8xQ", cut(data, heap, 32))
    if mark != b"HEAP\0\0\0\0":
        raise ValueError(f"there are no names at {heap}")
    names = cut(data, place, size)
    found: dict[str, int | None] = {}
    nodes, left, letters = [tree], len(data), len(names)
    for node in nodes:  # They become more on the way.
        mark, amount = struct.unpack("<6sH", cut(data, node, 8))
        left = spend(left, 8 + 16 * amount)
        if mark[:5] == b"TREE\0":
            words = struct.unpack(f"<{2 * amount}Q", cut(data, node + 24, 16 * amount))
            nodes.extend(words[1::2])
        elif mark == b"SNOD\x01\0":
            entries = struct.iter_unpack("<QQI20x", cut(data, node + 8, 40 * amount))
            for start, target, cache in entries:
                end = names.index(0, start)
                letters = spend(letters, end - start)
                found[names[start:end].decode()] = None if cache == 2 else target
        else:
            raise ValueError(f"there are no children at {node}")
    return found


def spend(left: int, size: int) -> int:
    """Return what is left of a file's bytes; raise if more are claimed than it has."""
    if size > left:
        raise ValueError("its parts overlap, or lead in a circle")
    return left - size


def _link(body: bytes) -> tuple[str, int | None]:
    version, flags = body[:2]
    if version != 1:
        raise ValueError(f"version {version} of a link is unknown")
    kind = body[2] if flags & 0x08 else 0
    place = 2 + bool(flags & 0x08) + (8 if flags & 0x04 else 0) + bool(flags & 0x10)
    width = 1 << (flags & 3)
    length = int.from_bytes(cut(body, place, width), "little")
    name = cut(body, place + width, length).decode()
    if kind != 0:
        return name, None
    return name, struct.unpack_from("<Q", body, place + width + length)[0]


def heap(data: Data, address: int) -> tuple[int, dict[int, tuple[int, int]]]:
    """Return the size of a place for strings of variable length, and where and how long each is."""
    mark, size = struct.unpack("<8sQ", cut(data, address, 16))
    if mark != b"GCOL\x01\0\0\0":
        raise ValueError(f"there are no strings at {address}")
    found: dict[int, tuple[int, int]] = {}
    place, end = address + 16, min(address + size, len(data))
    while place + 16 <= end:
        number, length = struct.unpack("<H6xQ", cut(data, place, 16))
        if number == 0:  # Free space, up to the end.
            break
        if number in found:
            raise ValueError(f"there are two strings {number} at {address}")
        found[number] = place + 16, length
        place += 16 + -(-length // 8) * 8
    return size, found
