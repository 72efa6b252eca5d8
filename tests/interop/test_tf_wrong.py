"""Checkpoints that were never damaged, but say what cannot be: the error tells what."""

import sys
import tracemalloc

import numpy as np
import pytest

from flax_sepconv.interop import InteropError, saved_model, tf_checkpoint, tf_messages, tf_table
from tests import peers, tf_tables

K, C, M, F = 3, 4, 2, 5
NAMES = ("depthwise_kernel", "pointwise_kernel", "bias")
SHAPES = dict(zip(NAMES, [(K, C, M), (1, C * M, F), (F,)], strict=True))
HUGE = 1 << 40


def arrays(scope="a", **shapes):
    rng = np.random.default_rng(0)
    return {
        f"{scope}/{name}": rng.standard_normal(shape).astype("float32")
        for name, shape in (SHAPES | shapes).items()
    }


@pytest.fixture
def prefix(tmp_path):
    peers.tf()
    return tmp_path / "model.ckpt"


def test_checkpoints_made_here_are_tensorflows(prefix):
    """So that the ones below are wrong in one thing only."""
    made = arrays()
    tf_tables.save(prefix, made)
    reader = peers.tf().train.load_checkpoint(str(prefix))
    (layer,) = tf_checkpoint.read(prefix)
    for name, array in made.items():
        np.testing.assert_array_equal(reader.get_tensor(name), array)
        np.testing.assert_array_equal(layer.weights[name.removeprefix("a/")], array)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("a/bias", {"size": HUGE}, "truncated: b'a/bias' would end at byte"),
        ("a/bias", {"offset": HUGE}, "truncated: b'a/bias' would end at byte"),
        ("a/bias", {"offset": -1}, "truncated: b'a/bias'"),
        ("a/bias", {"size": -1}, "truncated: b'a/bias'"),
        ("a/bias", {"size": 40, "offset": 10}, "'a/pointwise_kernel' shares bytes with another"),
        ("a/bias", {"size": 4}, r"'a/bias' is float32 of shape \(5,\), but has 4 bytes"),
        ("a/bias", {"crc32c": 1}, "checksum of 'a/bias' is wrong"),
        ("a/bias", {"shard_id": 1}, "in no data file"),
        ("a/bias", {"shard_id": -1}, "in no data file"),
        ("a/bias", {"dtype": 3}, "'a/bias' has TensorFlow's dtype 3; known are 1"),
        ("a/bias", {"dtype": 2}, "'a/bias' is float64"),
        ("a/bias", {"shape": {"dim": [{"size": HUGE}]}}, "but has 20 bytes"),
        ("a/bias", {"shape": {"dim": [{"size": 1}]}}, r"bias must be \(F\), got shape \(5, 1\)"),
        ("a/bias", {"shape": {"dim": [{"size": 1}] * 4}}, "at most 4 axes"),
        ("a/bias", {"shape": {"dim": [{"size": -1}] * 2}}, "none that is empty"),
        ("a/bias", {"shape": {"dim": [{"size": 0}, {"size": HUGE}]}}, "none that is empty"),
        ("a/bias", {"shape": {"unknown_rank": True}}, "at most 4 axes"),
        ("a/bias", {"slices": [{"extent": [{"start": 0}]}]}, r"slices of 'a/bias' do not make"),
        ("", {"endianness": 1}, "big-endian"),
        ("", {"version": {"min_consumer": 2}}, "version 1, for readers of 2"),
        ("", {"num_shards": 2}, "data-00000-of-00002 does not exist"),
        ("", {"num_shards": -1}, "in no data file"),
    ],
)
def test_wrong_message(prefix, name, fields, message):
    tf_tables.save(prefix, arrays(), {name: fields})
    tracemalloc.start()
    with pytest.raises(InteropError, match=message):
        tf_checkpoint.read(prefix)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"pointwise_kernel": (1, 9, F)}, r"layer 'a': axis 1 \(C\*M\) of pointwise_kernel"),
        ({"depthwise_kernel": (K, 1, C, M)}, "depthwise_kernel must be"),
        ({"bias": (1, F)}, "bias must be"),
    ],
)
def test_wrong_shape(prefix, shapes, message):
    tf_tables.save(prefix, arrays(**shapes))
    with pytest.raises(InteropError, match=message):
        tf_checkpoint.read(prefix)


def test_missing_kernel(prefix):
    made = arrays()
    del made["a/depthwise_kernel"]
    tf_tables.save(prefix, made)
    with pytest.raises(InteropError, match="layer 'a': depthwise_kernel is missing"):
        tf_checkpoint.read(prefix)


def test_slices_that_do_not_fit(prefix):
    """Two slices of one part of the bias, as many bytes as both parts have."""
    made = arrays(pointwise_kernel=(1, C * M, 6), bias=(6,))
    tf_tables.save(prefix, made)
    items = tf_table.read(prefix.with_name("model.ckpt.index").read_bytes())
    half = {"dtype": 1, "shape": {"dim": [{"size": 3}]}, "size": 12}
    data = prefix.with_name("model.ckpt.data-00000-of-00001").read_bytes()
    from tensorflow.core.protobuf import tensor_bundle_pb2

    def entry(**fields):
        return tensor_bundle_pb2.BundleEntryProto(**fields).SerializeToString()

    half["crc32c"] = tf_tables.checksum(data[:12])
    for start in (3, 0):
        slices = [{"extent": [{"start": at, "length": 3}]} for at in (0, start)]
        shape = {"dim": [{"size": 6}]}
        items[b"a/bias"] = entry(dtype=1, shape=shape, slices=slices)
        for at in (b"\x80", b"\x83"):
            items[b"\0a/bias\0\1\1\1" + at + b"\x83"] = entry(**half)
        prefix.with_name("model.ckpt.index").write_bytes(tf_tables.table(items))
        if start:
            assert tf_checkpoint.read(prefix)[0].sizes["F"] == 6
        else:
            with pytest.raises(InteropError, match="slices of 'a/bias'"):
                tf_checkpoint.read(prefix)


LONG = tf_tables.entry(b"k" * 50_000, b"")
GROWING = LONG + b"".join(
    tf_tables.entry(i.to_bytes(2, "big"), b"", shared=50_000) for i in range(20_000)
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tf_tables.file(tf_tables.entry(b"b", b"") + tf_tables.entry(b"a", b"")), "not in order"),
        (tf_tables.file(*[tf_tables.entry(b"a", b"")] * 2), "not in order"),
        (tf_tables.file(tf_tables.entry(b"", b""), kind=1), r"compressed \(kind 1\)"),
        (tf_tables.file(tf_tables.entry(b"a", b"", shared=1)), "outside of its block"),
        (tf_tables.file(b"\0\1\7a"), "outside of its block"),
        (tf_tables.file(b"\xff" * 12), "does not end"),
        (tf_tables.file(b"\0\0"), "does not end"),
        (tf_tables.file(b"", where=[(0, HUGE)]), "outside of the file"),
        (tf_tables.file(b"", where=[(0, 3)]), "outside of the file"),
        (tf_tables.file(b"", where=[(0, 4)]), "checksum"),
        (tf_tables.file(tf_tables.entry(b"a", b""), where=[(0, 12)] * 2), "overlap"),
        (tf_tables.file(GROWING), "too long for its size"),
        (tf_tables.file(), "version 0"),
        (tf_tables.table({b"": b"\x08\x01\x1a\x02\x08\x01", b"\xff": b""}), "no UTF-8"),
        (b"\0" * 40 + tf_tables.MAGIC, "outside of the file"),
        (b"\xff" * 40 + tf_tables.MAGIC, "does not end"),
        (tf_tables.MAGIC, "truncated"),
        (b"no table" * 10, "no table"),
    ],
)
def test_wrong_table(prefix, data, message):
    prefix.with_name("model.ckpt.data-00000-of-00001").touch()
    prefix.with_name("model.ckpt.index").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(InteropError, match=message) as caught:
        tf_checkpoint.read(prefix)
    assert tracemalloc.get_traced_memory()[1] < 100 * len(data) + (1 << 20)
    tracemalloc.stop()
    assert "model.ckpt.index" in str(caught.value)


def test_schema_is_tensorflows():
    """The fields that are read have the numbers and types that TensorFlow and Keras give them."""
    peers.tf()
    peers.tf_keras()
    from google.protobuf.descriptor import FieldDescriptor
    from tensorflow.core.framework import tensor_shape_pb2, tensor_slice_pb2, versions_pb2
    from tensorflow.core.protobuf import tensor_bundle_pb2, trackable_object_graph_pb2
    from tensorflow.python.training import checkpoint_state_pb2
    from tf_keras.protobuf import saved_metadata_pb2

    objects = trackable_object_graph_pb2.TrackableObjectGraph
    theirs = {
        "BundleHeader": tensor_bundle_pb2.BundleHeaderProto,
        "Version": versions_pb2.VersionDef,
        "BundleEntry": tensor_bundle_pb2.BundleEntryProto,
        "Shape": tensor_shape_pb2.TensorShapeProto,
        "Dim": tensor_shape_pb2.TensorShapeProto.Dim,
        "Slice": tensor_slice_pb2.TensorSliceProto,
        "Extent": tensor_slice_pb2.TensorSliceProto.Extent,
        "ObjectGraph": objects,
        "Object": objects.TrackableObject,
        "Reference": objects.TrackableObject.ObjectReference,
        "Attribute": objects.TrackableObject.SerializedTensor,
        "KerasMetadata": saved_metadata_pb2.SavedMetadata,
        "KerasObject": saved_metadata_pb2.SavedObject,
        "CheckpointState": checkpoint_state_pb2.CheckpointState,
    }
    for name, message in theirs.items():
        ours = tf_messages.parse(name, b"", "").DESCRIPTOR
        for field in ours.fields:
            same = message.DESCRIPTOR.fields_by_name[field.name]
            assert field.number == same.number
            if same.type != FieldDescriptor.TYPE_ENUM:
                assert field.type == same.type
            else:
                assert field.type == FieldDescriptor.TYPE_INT32
            assert field.is_repeated == same.is_repeated
    assert {m.name for m in ours.file.message_types_by_name.values()} == theirs.keys()


NAMES_OF_NONE = [
    "x",
    "",
    "/",
    "..",
    "/x/y",
    "x" * 5_000,
    "a\\000b",
    "\\377",
    "\\355\\240\\200",
    "\\q",
]
STATES = [b'model_checkpoint_path: "%s"' % name.encode() for name in NAMES_OF_NONE]


@pytest.mark.parametrize("state", [None, b"", b"what?", b"\xff", *STATES])
def test_folder_without_a_latest_checkpoint(tmp_path, state):
    if state is not None:
        (tmp_path / "checkpoint").write_bytes(state)
    with pytest.raises(InteropError, match=str(tmp_path)):
        tf_checkpoint.read(tmp_path)


@pytest.mark.parametrize("name", ["none", "none.index", "text.txt", "empty"])
def test_no_checkpoint(tmp_path, name):
    (tmp_path / "text.txt").write_text("no checkpoint at all")
    (tmp_path / "empty").touch()
    with pytest.raises(InteropError, match=r"does not exist|is no checkpoint"):
        tf_checkpoint.read(tmp_path / name)


def test_saved_model_without_variables(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(InteropError, match=r"variables\.index does not exist"):
        saved_model.read(tmp_path)


@pytest.mark.parametrize(
    ("module", "library"), [("google_crc32c", "google-crc32c"), ("google.protobuf", "protobuf")]
)
def test_library_is_not_installed(prefix, monkeypatch, module, library):
    tf_tables.save(prefix, arrays())
    tf_messages._classes.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InteropError, match=rf"{library}: pip install 'flax-sepconv\[interop\]'"):
        tf_checkpoint.read(prefix)
