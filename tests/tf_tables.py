"""Index files of TensorFlow's checkpoints, made by hand: with what TensorFlow never writes."""

import pathlib
from collections.abc import Mapping
from typing import Any

import google_crc32c
import numpy as np

from flax_sepconv.interop import tf_table

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")


def checksum(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15) + (crc << 17) + 0xA282EAD8) % 2**32


def varint(value: int) -> bytes:
    out = []
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def entry(key: bytes, value: bytes, shared: int = 0) -> bytes:
    return varint(shared) + varint(len(key)) + varint(len(value)) + key + value


def file(*blocks: bytes, kind: int = 0, where: list[tuple[int, int]] | None = None) -> bytes:
    """Lay out blocks of entries and seal them.

    Args:
        blocks: entries, without the numbers at the end.
        kind: of compression, as it is said.
        where: offset and size of each block, as they are said; None is the truth.
    """
    data, true = b"", []
    for entries in blocks:
        contents = entries + np.array([0, 1], "<u4").tobytes()
        true.append((len(data), len(contents)))
        contents += bytes([kind])
        data += contents + checksum(contents).to_bytes(4, "little")
    said = true if where is None else where
    handles = [varint(offset) + varint(size) for offset, size in said]
    # The keys of the index are no less than those of the blocks.
    index = b"".join(entry(b"\xff" * (i + 1), handle) for i, handle in enumerate(handles))
    contents = index + np.array([0, 1], "<u4").tobytes()
    footer = varint(0) + varint(0) + varint(len(data)) + varint(len(contents))
    contents += b"\0"
    data += contents + checksum(contents).to_bytes(4, "little")
    return data + footer.ljust(40, b"\0") + MAGIC


def table(items: Mapping[bytes, bytes]) -> bytes:
    return file(b"".join(entry(key, value) for key, value in sorted(items.items())))


def save(
    prefix: pathlib.Path,
    arrays: Mapping[str, np.ndarray],
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write a checkpoint by TensorFlow's own messages.

    Args:
        prefix: of its files.
        arrays: the tensors by name, all float32.
        changes: by tensor, "" being the header: fields of its message that are wrong; what is
            repeated is added to what is there.
    """
    from tensorflow.core.framework import types_pb2
    from tensorflow.core.protobuf import tensor_bundle_pb2

    header = tensor_bundle_pb2.BundleHeaderProto(num_shards=1, version={"producer": 1})
    messages, data = {"": header}, b""
    for name, array in arrays.items():
        messages[name] = tensor_bundle_pb2.BundleEntryProto(
            dtype=types_pb2.DT_FLOAT,
            shape={"dim": [{"size": size} for size in array.shape]},
            offset=len(data),
            size=array.nbytes,
            crc32c=checksum(array.tobytes()),
        )
        data += array.tobytes()
    for name, fields in (changes or {}).items():
        messages[name].MergeFrom(type(messages[name])(**fields))
    items = {name.encode(): message.SerializeToString() for name, message in messages.items()}
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(items))
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(data)


def replace_string(source: pathlib.Path, prefix: pathlib.Path, name: str, string: bytes) -> None:
    """Write a checkpoint as another one is, but with another string in it."""
    from tensorflow.core.protobuf import tensor_bundle_pb2

    items = tf_table.read(source.with_name(f"{source.name}.index").read_bytes())
    data = source.with_name(f"{source.name}.data-00000-of-00001").read_bytes()
    length = len(string).to_bytes(4, "little")
    length_crc = checksum(length).to_bytes(4, "little")
    stored = varint(len(string)) + length_crc + string
    entry = tensor_bundle_pb2.BundleEntryProto.FromString(items[name.encode()])
    entry.offset, entry.size = len(data), len(stored)
    entry.crc32c = checksum(length + length_crc + string)
    items[name.encode()] = entry.SerializeToString()
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(items))
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(data + stored)
