"""Arrays and texts of an HDF5 file that nobody vouches for.

The HDF5 library believes the sizes in a file before it looks for so many bytes, and in damaged
files version 1.14.6 was seen to walk in a circle, to take 6 GB and to crash. So it works in a
process of its own, `hdf5_child`, under limits of memory and time, and is asked through pipes for
what is in the file. Links to other places and other files are not followed.
"""

import contextlib
import importlib.util
import itertools
import json
import math
import pathlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any

import ml_dtypes
import numpy as np

from flax_sepconv.interop import files, hdf5_child
from flax_sepconv.interop.layer import InteropError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Far more than any model has.
_DEEPEST = 100
# Arrays may be compressed, and zeros shrink a thousandfold: all of them together may have so many
# bytes, and so many times the file's own.
_ROOM, _EXPANSION = 2**28, 8
# Seconds of CPU that reading may take, and bytes of a file for each further one; seconds that it
# may wait beside for a disk or for other processes.
_SECONDS, _SPEED = 10, 2**21
_PATIENCE = 60


@contextlib.contextmanager
def opened(source: pathlib.Path | bytes, name: Any) -> Iterator["Store"]:
    """Open a file, or its content, for reading.

    Args:
        source: where it lies, or all its bytes.
        name: of the file, in errors.

    Raises:
        InteropError: it is no HDF5 file, or a damaged one; h5py is not installed.
    """
    if isinstance(source, bytes):
        content, file, size = source, None, len(source)
        sound = source.startswith(SIGNATURE)
    else:
        content, file, size = b"", str(source.absolute()), files.regular(source).stat().st_size
        sound = is_hdf5(source)
    if not sound:
        raise InteropError(
            f"{name} is no HDF5 file, or a damaged one: its first bytes are of something else"
        )
    if importlib.util.find_spec("h5py") is None:
        raise InteropError(f"{name}: HDF5 needs h5py: pip install 'flax-sepconv[interop]'")
    room = _ROOM + _EXPANSION * size
    seconds = _SECONDS + size // _SPEED
    order = {
        "path": list(filter(None, sys.path)),
        "file": file,
        "size": len(content),
        "memory": _ROOM + 2 * room,
        "seconds": seconds,
    }
    with _started(name) as process:
        assert process.stdin is not None
        clock = threading.Timer(_PATIENCE + 4 * seconds, process.kill)
        clock.start()
        try:
            yield Store(_Child(process, name, order, content), room, name)
        finally:
            clock.cancel()
            process.kill()
            with contextlib.suppress(BrokenPipeError):  # Of what it did not want to read.
                process.stdin.close()


def is_hdf5(path: pathlib.Path) -> bool:
    """Tell an HDF5 file by its first bytes, or by those behind a block of the user's."""
    with files.regular(path).open("rb") as file:
        for place in (0, *(2**power for power in range(9, 24))):
            file.seek(place)
            if file.read(len(SIGNATURE)) == SIGNATURE:
                return True
    return False


def _started(name: Any) -> "subprocess.Popen[bytes]":
    # Neither PYTHON* nor the working folder nor site packages' own code change what it imports.
    command = [sys.executable or "python3", "-I", "-S", hdf5_child.__file__]
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    try:
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere)
    except OSError as error:
        raise InteropError(
            f"{name}: HDF5 is read by another process, and {command[0]} cannot be started: {error}"
        ) from error


class _Child:
    """The process that reads, and what it answers."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", name: Any, order: Any, content: bytes
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._name = process, name
        self._questions: IO[bytes] = process.stdin
        self._answers: IO[bytes] = process.stdout
        self.index = self.ask(order, f"{name} is no HDF5 file, or a damaged one", content)

    def ask(self, question: Any, problem: str, content: bytes = b"") -> dict[str, Any]:
        """Return the answer to a question; raise if it is an error, or none."""
        with contextlib.suppress(BrokenPipeError):  # No answer says the same.
            self._questions.write(json.dumps(question).encode() + b"\n" + content)
            self._questions.flush()
        line = self._answers.readline()
        if not line.endswith(b"\n"):
            raise self._ended(problem)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise InteropError(f"{problem}: {answer['error']}")
        return answer

    def take(self, size: int, problem: str) -> bytes:
        """Return the bytes that follow an answer."""
        found = self._answers.read(size)
        if len(found) != size:
            raise self._ended(problem)
        return found

    def _ended(self, problem: str) -> InteropError:
        code = self._process.wait()
        return InteropError(
            f"{problem}: the HDF5 library crashed, or took more time or memory than such a file "
            f"needs (its process ended with {code})"
        )


class Store:
    """What a file holds, by path: the names of groups joined by "/", "" for its root.

    Raises:
        InteropError: what is asked for is damaged, or in a form that Keras does not write.
    """

    def __init__(self, child: _Child, room: int, name: Any) -> None:
        self._child, self._room, self._left, self._name = child, room, room, name
        self._nodes: dict[str, dict[str, Any]] = child.index["nodes"]
        self._arrays: dict[int, np.ndarray] = {}

    def has(self, path: str) -> bool:
        """Tell whether there is a group or an array."""
        return self.identity(path) is not None

    def children(self, path: str = "") -> list[str]:
        """Return the names in a group: none if it is an array, or not there."""
        return list(self._node(path).get("children", {}))

    def walk(self, path: str = "") -> Iterator[str]:
        """Yield the paths below a group, parents first, whatever stands twice only once."""
        seen: set[int | None] = {self.identity(path)}
        pending = [f"{path}/{name}".lstrip("/") for name in self.children(path)[::-1]]
        while pending:
            found = pending.pop()
            if found.count("/") > _DEEPEST:
                raise InteropError(f"{self._name} has groups more than {_DEEPEST} deep")
            if (address := self.identity(found)) not in seen:
                seen.add(address)
                yield found
                pending.extend(f"{found}/{name}" for name in self.children(found)[::-1])

    def attributes(self, path: str) -> list[str]:
        """Return the names of the attributes of a group or array."""
        return list(self._node(path).get("attributes", {}))

    def text(self, path: str, attribute: str) -> str | None:
        """Return one string among the attributes of a group or array; None if it is not there."""
        if attribute not in self.attributes(path):
            return None
        told = self._attribute(path, attribute)
        if not told.get("single"):
            raise self._unreadable(path, "it must be one string, got several", attribute)
        text: str = told["texts"][0]
        return text

    def texts(self, path: str, attribute: str) -> list[str]:
        """Return a list of strings among the attributes, where there is one.

        A long one is cut into several: layer_names0, layer_names1, ...
        """
        known = self.attributes(path)
        numbered = map(f"{attribute}{{}}".format, itertools.count())
        parts = list(itertools.takewhile(known.__contains__, numbered))
        if attribute in known:
            parts = [attribute]
        return [text for part in parts for text in self._attribute(path, part)["texts"]]

    def identity(self, path: str) -> int | None:
        """Return what two paths have in common only if they lead to one group or array."""
        address: int | None = self._child.index["root"]
        for name in filter(None, path.split("/")):
            address = self._nodes[str(address)].get("children", {}).get(name)
            if address is None:
                return None
        return address

    def shape(self, path: str) -> tuple[int, ...]:
        """Return the shape that an array claims to have."""
        told = self._node(path).get("array", {"error": "it is no array"})
        if "error" in told:
            raise self._unreadable(path, told["error"])
        return tuple(told["shape"])

    def array(self, path: str, bfloat16: bool = False) -> np.ndarray:
        """Return an array of floating-point numbers; the same one if it is asked for again.

        Args:
            path: of the array.
            bfloat16: what two opaque bytes are, even if no attribute says so.
        """
        shape, address = self.shape(path), self.identity(path)
        assert address is not None
        if address not in self._arrays:
            dtype = self._dtype(path, bfloat16)
            size = math.prod(shape) * dtype.itemsize
            if size > self._left:
                raise self._unreadable(
                    path,
                    f"it claims {size} bytes; of {self._room} for such a file {self._left} "
                    "are left",
                )
            self._left -= size
            problem = f"{self._name}: {path} cannot be read"
            if self._child.ask(path, problem)["size"] != size:
                raise self._unreadable(path, "its size is not that of its shape")
            data = bytearray(self._child.take(size, problem))
            self._arrays[address] = np.frombuffer(data, dtype).reshape(shape)
        return self._arrays[address]

    def _dtype(self, path: str, bfloat16: bool) -> np.dtype:
        name = self._node(path)["array"]["dtype"]
        if name == "opaque" and not bfloat16 and self.text(path, "dtype") != "bfloat16":
            raise self._unreadable(
                path, "it has 2-byte opaque numbers, probably bfloat16, and nothing says so"
            )
        return np.dtype(ml_dtypes.bfloat16 if name in ("opaque", "bfloat16") else name)

    def _node(self, path: str) -> dict[str, Any]:
        return self._nodes.get(str(self.identity(path)), {})

    def _attribute(self, path: str, name: str) -> dict[str, Any]:
        told: dict[str, Any] = self._node(path)["attributes"][name]
        if "error" in told:
            raise self._unreadable(path, told["error"], name)
        return told

    def _unreadable(self, path: str, why: str, attribute: str = "") -> InteropError:
        part = f", attribute {attribute}" if attribute else ""
        return InteropError(f"{self._name}: {path or 'its root'}{part} cannot be read: {why}")
