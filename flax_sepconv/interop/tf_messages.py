"""The protocol buffers of TensorFlow's checkpoints and SavedModels, as far as they are read."""

import functools
import warnings
from typing import Any

from flax_sepconv.interop.layer import InteropError

# Fields by name: their number, and their type as a .proto file has it. Enums are plain numbers.
_MESSAGES = {
    "BundleHeader": {
        "num_shards": (1, "int32"),
        "endianness": (2, "int32"),
        "version": (3, "Version"),
    },
    "Version": {"producer": (1, "int32"), "min_consumer": (2, "int32")},
    "BundleEntry": {
        "dtype": (1, "int32"),
        "shape": (2, "Shape"),
        "shard_id": (3, "int32"),
        "offset": (4, "int64"),
        "size": (5, "int64"),
        "crc32c": (6, "fixed32"),
        "slices": (7, "repeated Slice"),
    },
    "Shape": {"dim": (2, "repeated Dim"), "unknown_rank": (3, "bool")},
    "Dim": {"size": (1, "int64")},
    "Slice": {"extent": (1, "repeated Extent")},
    "Extent": {"start": (1, "int64"), "length": (2, "optional int64")},
    "ObjectGraph": {"nodes": (1, "repeated Object")},
    "Object": {"children": (1, "repeated Reference"), "attributes": (2, "repeated Attribute")},
    "Reference": {"node_id": (1, "int32"), "local_name": (2, "string")},
    "Attribute": {
        "name": (1, "string"),
        "full_name": (2, "string"),
        "checkpoint_key": (3, "string"),
    },
    "KerasMetadata": {"nodes": (1, "repeated KerasObject")},
    "KerasObject": {"node_path": (3, "string"), "metadata": (5, "string")},
    "CheckpointState": {
        "model_checkpoint_path": (1, "string"),
        "all_model_checkpoint_paths": (2, "repeated string"),
        "all_model_checkpoint_timestamps": (3, "repeated double"),
        "last_preserved_timestamp": (4, "double"),
    },
}


def parse(name: str, data: bytes, what: str) -> Any:
    """Return the message of that name.

    Args:
        name: of the message.
        data: of the message, nothing else.
        what: it is, for the error.

    Raises:
        InteropError: the bytes are no such message, or protobuf is not installed.

    Example:
        >>> parse("Dim", bytes([8, 5]), "this").size
        5
    """
    kinds = _classes()
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return kinds[name].FromString(data)
    except (DecodeError, ValueError) as error:
        raise InteropError(f"{what} is damaged: {error}") from error


def parse_text(name: str, text: str, what: str) -> Any:
    """Return the message of that name, from the form for people.

    Raises:
        InteropError: as `parse`.

    Example:
        >>> parse_text("Dim", "size: 5", "this").size
        5
    """
    kinds = _classes()
    from google.protobuf import text_format  # type: ignore[import-untyped]

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Of "\\q" it only warns.
            return text_format.Parse(text, kinds[name]())
    except (text_format.ParseError, ValueError, DeprecationWarning) as error:
        raise InteropError(f"{what} is damaged: {error}") from error


@functools.cache
def _classes() -> dict[str, Any]:
    """Make the classes, in a pool of their own: TensorFlow may be loaded beside them."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise InteropError(
            "files of TensorFlow are read with protobuf: pip install 'flax-sepconv[interop]'"
        ) from error
    package = "flax_sepconv"
    file = descriptor_pb2.FileDescriptorProto(name=package, package=package, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            label, _, kind = kind.rpartition(" ")
            field = message.field.add(name=field_name, number=number)
            field.label = field.LABEL_REPEATED if label == "repeated" else field.LABEL_OPTIONAL
            if label == "optional":
                field.proto3_optional = True
                field.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field_name}")
            if kind in _MESSAGES:
                field.type, field.type_name = field.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                field.type = getattr(field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in _MESSAGES
    }
