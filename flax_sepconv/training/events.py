"""TensorBoard's event files, written in the thread that has the numbers.

tensorboardX's own writer hands them to a thread, which dies where the disk is full: from then on
nothing is written, and after some more rows the run stands still.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import scalar

_PREFIX = "events.out.tfevents."


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
        self._write(Event(wall_time=now / 1e9, file_version="brain.Event:2"))

    def _write(self, event: Event) -> None:
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
        record = memoryview(b"".join([length, checksums[0], data, checksums[1]]))
        while record:  # a disk that is full may take a part of it first
            record = record[self._file.write(record) :]

    def add(self, step: int, walltime: float, values: Mapping[str, float]) -> None:
        """Write the values of a step by their names."""
        for name, value in values.items():
            self._write(Event(wall_time=walltime, step=step, summary=scalar(name, value)))

    def size(self) -> int:
        """Return how many bytes were written."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
