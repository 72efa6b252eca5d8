"""TensorBoard's event files, written in the thread that has the numbers.

A writer with a thread of its own may die where the disk is full, and nobody hears of it. And the
libraries that bring one import PyTorch where it is installed, which takes longer than all else.

record   length: u64; its checksum; an event; its checksum
Event    1 wall_time: double, 2 step: int64, 3 file_version: string, 5 summary: Summary
Summary  1 value, repeated: Value; here one
Value    1 tag: string, 2 simple_value: float
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

import google_crc32c

_PREFIX = "events.out.tfevents."


def _varint(value: int) -> bytes:
    """Return an integer >= 0, seven bits a byte, the lowest ones first.

    >>> _varint(300).hex()
    'ac02'
    """
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _field(number: int, value: float | int | bytes, kind: str = "") -> bytes:
    """Return a field of a message in the wire format of Protocol Buffers.

    Args:
      number: of the field, below 16.
      value: an integer >= 0; text or a message as bytes; or with a `kind`, a number.
      kind: how `struct` packs it: "d" or "f".
    """
    if kind:
        return bytes([number << 3 | {"d": 1, "f": 5}[kind]]) + struct.pack(f"<{kind}", value)
    if isinstance(value, bytes):
        return bytes([number << 3 | 2]) + _varint(len(value)) + value
    return bytes([number << 3]) + _varint(int(value))


def _checksum(data: bytes) -> bytes:
    """Return the CRC-32C as these files have it: rotated, with a number added to it."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def event_files(folder: Path) -> list[Path]:
    """Return the event files in a folder."""
    return sorted(folder.glob(f"{_PREFIX}*"))


class EventFile:
    """One event file: records of a length, its checksum, a proto and its checksum."""

    def __init__(self, folder: Path) -> None:
        """Make a file in a folder, beside those that are there.

        Raises:
          OSError: it cannot be written; so `add`.
        """
        now = time.time_ns()
        path = folder / f"{_PREFIX}{now // 10**9}.{socket.gethostname()}.{os.getpid()}.{now}"
        self._file = path.open("xb", buffering=0)
        self._write(_field(1, now / 1e9, "d") + _field(3, b"brain.Event:2"))

    def _write(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        record = memoryview(length + _checksum(length) + event + _checksum(event))
        while record:  # a disk that is full may take a part of it first
            record = record[self._file.write(record) :]

    def add(self, step: int, walltime: float, values: Mapping[str, float]) -> None:
        """Write the values of a step by their names."""
        for name, value in values.items():
            one = _field(1, name.encode()) + _field(2, value, "f")
            summary = _field(5, _field(1, one))
            self._write(_field(1, walltime, "d") + _field(2, step) + summary)

    def size(self) -> int:
        """Return how many bytes were written."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
