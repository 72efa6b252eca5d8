"""SavedModels whose metadata or graph of objects say what cannot be: the error tells what."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from flax_sepconv.interop import InteropError, saved_model
from flax_sepconv.interop.object_graph import GRAPH
from flax_sepconv.interop.tensor_bundle import Bundle
from tests import peers, tf_tables

C, F = 4, 5


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A SavedModel of one layer, with Keras' metadata."""
    keras = peers.tf_keras()
    folder = tmp_path_factory.mktemp("saved")
    net = keras.Sequential([keras.layers.SeparableConv1D(F, 3, name="conv")])
    net(np.ones((2, 9, C), "float32"))
    net.save(folder, save_format="tf")
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return pathlib.Path(shutil.copytree(saved, tmp_path / "copy"))


def change_metadata(folder, change):
    """Replace what Keras says of the layer by what `change` returns, given it and its message."""
    from tf_keras.protobuf import saved_metadata_pb2

    path = folder / "keras_metadata.pb"
    metadata = saved_metadata_pb2.SavedMetadata.FromString(path.read_bytes())
    (node,) = (node for node in metadata.nodes if '"SeparableConv1D"' in node.metadata[:500])
    node.metadata = change(json.loads(node.metadata), node)
    path.write_bytes(metadata.SerializeToString())


def change_graph(saved, copy, change):
    """Let `change` change the nodes of the graph."""
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    source, destination = (folder / "variables" / "variables" for folder in (saved, copy))
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
        Bundle(source.with_name(source.name + ".index")).string(GRAPH)
    )
    change(graph.nodes)
    tf_tables.replace_string(source, destination, GRAPH, graph.SerializeToString())


def given(**fields):
    return lambda said, node: json.dumps(said | {"config": said["config"] | fields})


def nested(depth):
    """Let strides and dilation be lists in lists."""
    return lambda said, node: json.dumps(said).replace("[1]", "[" * depth + "]" * depth)


def elsewhere(said, node):
    node.node_path = "root.nowhere"
    return node.metadata


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (given(activation="my_activation"), "layer 'conv': .*my_activation"),
        (given(filters=F + 1), "its config says filters=6, its weights have F=5"),
        (given(use_bias=False), "its config says use_bias=False"),
        (given(padding=3), "padding"),
        (lambda said, node: json.dumps(said | {"config": 5}), "must be the dict of a Keras layer"),
        (lambda said, node: json.dumps(said | {"config": None}), "must have 'filters'"),
        (lambda said, node: "5", "must be a dict, got int"),
        (lambda said, node: "[" * 900 + "]" * 900, "must be a dict, got list"),
        (lambda said, node: "{", r"keras_metadata\.pb: root.* is damaged"),
        (elsewhere, r"has a layer root\.nowhere without variables"),
    ],
)
def test_wrong_metadata(copy, change, message):
    change_metadata(copy, change)
    with pytest.raises(InteropError, match=message):
        saved_model.read(copy)


def test_metadata_of_any_depth(copy):
    for depth in (2, 300, 5_000, 200_000, *range(700, 1000, 2)):
        shutil.copy(copy / "keras_metadata.pb", copy / "kept")
        change_metadata(copy, nested(depth))
        with pytest.raises(InteropError, match=r"strides|is damaged|inside each other"):
            saved_model.read(copy)
        shutil.copy(copy / "kept", copy / "keras_metadata.pb")


def test_objects_that_hold_themselves(saved, copy):
    def tangle(nodes):
        for node in nodes:
            for name, child in (("a", 0), ("a.a", 0), ("a.a.a", 1)):
                node.children.add(local_name=name, node_id=child)

    def far(said, node):
        node.node_path = "root" + ".a" * 2_000
        return node.metadata

    change_graph(saved, copy, tangle)
    (layer,) = saved_model.read(copy)
    assert layer.path == "conv"
    change_metadata(copy, far)
    with pytest.raises(InteropError, match=r"layer '.*': depthwise_kernel is missing"):
        saved_model.read(copy)


@pytest.mark.parametrize("number", [-1, 10_000])
def test_object_that_is_not_there(saved, copy, number):
    change_graph(saved, copy, lambda nodes: nodes[0].children.add(local_name="a", node_id=number))
    with pytest.raises(InteropError, match="lacks an object"):
        saved_model.read(copy)


def test_weight_without_a_value(saved, copy):
    def clear(nodes):
        for node in nodes:
            del node.attributes[:]

    change_graph(saved, copy, clear)
    with pytest.raises(InteropError, match="has no value of object"):
        saved_model.read(copy)


def test_weight_without_a_tensor(saved, copy):
    def rename(nodes):
        for node in nodes:
            for attribute in node.attributes:
                attribute.checkpoint_key += "?"

    change_graph(saved, copy, rename)
    with pytest.raises(InteropError, match=r"has no tensor '.*\?'"):
        saved_model.read(copy)


def test_no_objects_at_all(saved, copy):
    def clear(nodes):
        del nodes[:]

    change_graph(saved, copy, clear)
    with pytest.raises(InteropError, match="lacks an object"):
        saved_model.read(copy)
