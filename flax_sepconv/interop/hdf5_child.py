"""Reads one HDF5 file with h5py, in a process of its own: `hdf5.py` starts this file as a script.

It imports nothing of this package, and so not JAX either. The first line of its input is a JSON
object: `path` for imports, the `file` or the `size` of the content that follows, and the limits
`memory` (bytes) and `seconds` of CPU. Its output starts with what `_index` found. Each further line
of input is the path of an array as JSON; the answer is an object, with the array's `size` and then
so many bytes, or with an `error`.
"""

import contextlib
import json
import math
import os
import sys
from typing import Any

# Bytes, sign's place; first bit and bits of all; bits of exponent and mantissa, with their first
# bits; the exponent's bias.
_FLOATS = {
    (2, 15, 0, 16, 10, 5, 0, 10, 15): "float16",
    (2, 15, 0, 16, 7, 8, 0, 7, 127): "bfloat16",
    (4, 31, 0, 32, 23, 8, 0, 23, 127): "float32",
    (8, 63, 0, 64, 52, 11, 0, 52, 1023): "float64",
}


def _main() -> None:
    order = json.loads(sys.stdin.buffer.readline())
    content = sys.stdin.buffer.read(order["size"])
    # What the C library may print must not get among the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.path[:] = order["path"]
    try:
        file = _opened(order, content)
        _answer(answers, _index(file))
        for line in sys.stdin.buffer:
            try:
                numbers = _numbers(file[json.loads(line)])
            except Exception as error:
                _answer(answers, {"error": _told(error)})
            else:
                _answer(answers, {"size": numbers.nbytes})
                answers.write(numbers)
                answers.flush()
    except Exception as error:  # Whatever h5py meets in a damaged file.
        _answer(answers, {"error": _told(error)})


def _opened(order: dict[str, Any], content: bytes) -> Any:
    import h5py  # type: ignore[import-untyped]

    _limit(order["memory"], order["seconds"])
    if order["file"] is None:
        return h5py.File(h5py.h5f.open_file_image(content))
    return h5py.File(order["file"], "r", locking=False)


def _limit(memory: int, seconds: int) -> None:
    """Limit what reading may take beside what starting took, as far as the system can."""
    import resource

    used = math.ceil(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_CPU: used + seconds}
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:  # Linux alone has it.
        mapped = int(file.read().split()[0]) * resource.getpagesize()
        limits[resource.RLIMIT_AS] = mapped + memory
    for which, most in limits.items():
        with contextlib.suppress(ValueError):  # It has a lower one.
            resource.setrlimit(which, (most, most))


def _index(file: Any) -> dict[str, Any]:
    """Return what is in a file: by its address, each group or array."""
    import h5py

    def address(group: Any, name: str) -> int:
        found: int = h5py.h5o.get_info(group.id, name.encode()).addr
        return found

    root = address(file, "/")
    pending, nodes = {root: file["/"]}, {}
    while pending:
        here, found = pending.popitem()
        node: dict[str, Any] = {}
        nodes[here] = node
        try:
            node["attributes"] = _attributes(found)
            if isinstance(found, h5py.Dataset):
                node["array"] = _array(found)
            elif isinstance(found, h5py.Group):
                node["children"] = {}
                for name in found:
                    if type(found.get(name, getlink=True)) is not h5py.HardLink:
                        raise ValueError(f"{name!r} in it leads elsewhere, which is not followed")
                    there = node["children"][name] = address(found, name)
                    if there not in nodes and there not in pending:
                        pending[there] = found[name]
        except Exception as error:
            raise ValueError(f"{found.name} cannot be read: {_told(error)}") from error
    return {"root": root, "nodes": nodes}


def _attributes(found: Any) -> dict[str, Any]:
    """Return the attributes that are strings, or lists of them; of others their datatype's class.

    An empty list may have any datatype.
    """
    import h5py

    told: dict[str, Any] = {}
    for name in found.attrs:
        attribute = found.attrs.get_id(name)
        kind = attribute.get_type().get_class()
        if attribute.get_space().get_simple_extent_type() == h5py.h5s.NULL:
            told[name] = {"error": "it has no values"}
        elif 0 in attribute.shape:
            told[name] = {"texts": []}
        elif kind != h5py.h5t.STRING:
            told[name] = {"error": f"it must be a string, got datatype class {kind}"}
        else:
            value = found.attrs[name]
            texts = [value] if attribute.shape == () else value.ravel().tolist()
            told[name] = {
                "single": attribute.shape == (),
                "texts": [t if isinstance(t, str) else t.decode() for t in texts],
            }
    json.dumps(told, ensure_ascii=False).encode()  # Raises where they are no UTF-8.
    return told


def _array(found: Any) -> dict[str, Any]:
    """Return what an array claims to be; "opaque" may be bfloat16."""
    import h5py

    numbers, shape = found.id.get_type(), found.shape
    kind = numbers.get_class()
    if shape is None:
        return {"error": "it has no values"}
    if kind == h5py.h5t.OPAQUE and numbers.get_size() == 2:
        return {"shape": shape, "dtype": "opaque"}
    if kind != h5py.h5t.FLOAT:
        return {"error": f"it must hold floating-point numbers, got datatype class {kind}"}
    sign, exponent, exponent_bits, mantissa, mantissa_bits = numbers.get_fields()
    dtype = _FLOATS.get(
        (
            *(numbers.get_size(), sign, numbers.get_offset(), numbers.get_precision()),
            *(exponent, exponent_bits, mantissa, mantissa_bits, numbers.get_ebias()),
        )
    )
    orders = h5py.h5t.ORDER_LE, h5py.h5t.ORDER_BE
    implied = numbers.get_norm() == h5py.h5t.NORM_IMPLIED
    if dtype is None or numbers.get_order() not in orders or not implied:
        return {"error": "its floating-point numbers are of an unknown kind"}
    return {"shape": shape, "dtype": dtype}


def _numbers(found: Any) -> Any:
    """Return an array's numbers as integers of as many bytes, in the machine's byte order."""
    import h5py
    import numpy as np

    properties = found.id.get_create_plist()
    if properties.get_external_count() or properties.get_layout() == h5py.h5d.VIRTUAL:
        raise ValueError("its numbers are in another file, which is not read")
    if properties.get_layout() == h5py.h5d.CHUNKED:
        pairs = zip(found.shape, found.chunks, strict=True)
        chunks = math.prod(-(-size // chunk) for size, chunk in pairs)
        written = found.id.get_num_chunks() == chunks
    else:
        written = found.id.get_space_status() == h5py.h5d.SPACE_STATUS_ALLOCATED
    if not written:  # The library would make up zeros.
        raise ValueError("its numbers have never been written, or not all of them")
    stored = found.id.get_type()
    numbers = np.empty(found.shape, f"u{stored.get_size()}")
    # As the type that they have in the file: nothing is converted.
    found.id.read(h5py.h5s.ALL, h5py.h5s.ALL, numbers, stored)
    if stored.get_class() == h5py.h5t.FLOAT:
        big = stored.get_order() == h5py.h5t.ORDER_BE
        if big != (sys.byteorder == "big"):
            numbers.byteswap(inplace=True)
    return numbers


def _answer(answers: Any, told: dict[str, Any]) -> None:
    answers.write(json.dumps(told).encode() + b"\n")
    answers.flush()


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


if __name__ == "__main__":
    _main()
