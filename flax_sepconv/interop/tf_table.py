"""The sorted table of keys and values in a checkpoint's `.index` file, laid out as in LevelDB.

file    block ... block, index block (values: where each block is), footer
footer  where an unused block and the index block are, filled up to 40 bytes, magic number
block   entry ... entry, u32 ... u32 (not needed here), their number: u32; kind: u8, CRC: u32
entry   three varints: bytes that the key shares with the last one, bytes of the rest of the
        key, bytes of the value; then the rest of the key and the value
"""

from collections.abc import Iterator

from flax_sepconv.interop.layer import InteropError

MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER = 48
# Names share prefixes, so that they are longer than the file; but in no honest file by so much.
_LONGEST = 64


def read(data: bytes) -> dict[bytes, bytes]:
    """Return what the table holds.

    Raises:
        InteropError: it is no table, it is damaged, or google-crc32c is not installed.
    """
    if len(data) < _FOOTER or not data.endswith(MAGIC):
        raise InteropError("the file is truncated, or no table of TensorFlow's")
    footer = data[-_FOOTER : -len(MAGIC)]
    _, position = _handle(footer, 0)
    index, _ = _handle(footer, position)
    found: dict[bytes, bytes] = {}
    last, end, length = None, 0, 0
    for _, where in _entries(_block(data, *index)):
        (start, size), _ = _handle(where, 0)
        if start < end:
            raise InteropError("the table's blocks overlap")
        end = start + size
        for key, value in _entries(_block(data, start, size)):
            if last is not None and key <= last:
                raise InteropError("the table's keys are not in order")
            last, length = key, length + len(key)
            if length > _LONGEST * len(data):
                raise InteropError("the table's keys are too long for its size")
            found[key] = value
    return found


def crc(data: bytes, after: int = 0) -> int:
    """Return the CRC-32C of bytes, or of those that `after` is of and these.

    Raises:
        InteropError: google-crc32c is not installed.

    Example:
        >>> hex(crc(b"123456789"))
        '0xe3069283'
    """
    try:
        import google_crc32c
    except ImportError as error:
        raise InteropError(
            "files of TensorFlow are read with google-crc32c: pip install 'flax-sepconv[interop]'"
        ) from error
    return google_crc32c.extend(after, data)


def masked(crc: int) -> int:
    """Return the number that is stored for a checksum.

    Example:
        >>> hex(masked(0xE3069283))
        '0xc78ab0e5'
    """
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the number that starts at a position, and the position after it.

    Raises:
        InteropError: the bytes end within the number, or it has more than 64 bits.

    Example:
        >>> varint(bytes([0, 0b1_0000001, 0b0_0000010, 0]), 1)
        (257, 3)
    """
    value = 0
    for i, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80 and value < 1 << 64:
            return value, position + i + 1
    raise InteropError("a number in it does not end")


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Return a block's offset and size, and the position after them."""
    offset, position = varint(data, position)
    size, position = varint(data, position)
    return (offset, size), position


def _block(data: bytes, offset: int, size: int) -> bytes:
    """Return a block's entries."""
    end = offset + size
    if size < 4 or end + 5 > len(data) - _FOOTER:
        raise InteropError("a block of the table lies outside of the file")
    if masked(crc(data[offset : end + 1])) != int.from_bytes(data[end + 1 : end + 5], "little"):
        raise InteropError("a checksum of the table is wrong")
    if data[end] != 0:
        raise InteropError(f"the table is compressed (kind {data[end]}), as no checkpoint is")
    numbers = int.from_bytes(data[end - 4 : end], "little")
    if 4 * (numbers + 1) > size:
        raise InteropError("a block of the table is too short")
    return data[offset : end - 4 * (numbers + 1)]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    key, position = b"", 0
    while position < len(block):
        shared, position = varint(block, position)
        rest, position = varint(block, position)
        size, position = varint(block, position)
        if shared > len(key) or position + rest + size > len(block):
            raise InteropError("an entry of the table lies outside of its block")
        key = key[:shared] + block[position : position + rest]
        position += rest
        yield key, block[position : position + size]
        position += size
