"""Damaged and wrong checkpoints: one kind of error, in little memory, or what is there."""

import pathlib
import shutil

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from flax_sepconv.interop import InteropError, object_graph, saved_model, tf_checkpoint, tf_table
from flax_sepconv.interop.tensor_bundle import Bundle
from tests import peers, settings, tf_tables

K, C, M, F = 3, 4, 2, 5
INDEX, DATA = "model.ckpt.index", "model.ckpt.data-00000-of-00001"
GRAPH = object_graph.GRAPH


def weights(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"depthwise_kernel": (K, C, M), "pointwise_kernel": (1, C * M, F), "bias": (F,)}
    return {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}


def in_scope(scope, **arrays):
    return {f"{scope}/{name}": array for name, array in arrays.items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a checkpoint of two layers, by TF1."""
    v1 = peers.tf().compat.v1
    folder = tmp_path_factory.mktemp("saved")
    with peers.tf().Graph().as_default(), v1.Session() as session:
        for scope in ("a", "b/c"):
            for name, array in in_scope(scope, **weights(len(scope))).items():
                v1.get_variable(name, initializer=array)
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(save_relative_paths=True)
        saver.save(session, str(folder / "model.ckpt"), write_meta_graph=False)
    return folder


@pytest.fixture(scope="module")
def saved_by_keras(tmp_path_factory):
    """A SavedModel of one layer, with Keras' metadata."""
    keras = peers.tf_keras()
    folder = tmp_path_factory.mktemp("keras")
    net = keras.Sequential([keras.layers.SeparableConv1D(F, K, name="conv")])
    net(np.ones((2, 9, C), "f"))
    net.save(folder, save_format="tf")
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    """The checkpoint again, to be damaged; hypothesis shares it among its examples."""
    return pathlib.Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture
def copy_by_keras(saved_by_keras, tmp_path):
    """The SavedModel again."""
    return pathlib.Path(shutil.copytree(saved_by_keras, tmp_path / "copy"))


def same_or_refused(read, path, layers):
    try:
        found = read(path)
    except InteropError:
        return
    assert [layer.path for layer in found] == [layer.path for layer in layers]
    for a, b in zip(found, layers, strict=True):
        assert a.weights.keys() == b.weights.keys()
        for name in a.weights:
            np.testing.assert_array_equal(a.weights[name], b.weights[name])


def refused_or_not(read, path):
    """Whatever can be read of damage that no checksum covers: nothing else may be raised."""
    try:
        return read(path)
    except InteropError:
        return None


@pytest.mark.parametrize("name", [INDEX, DATA])
def test_every_prefix(copy, name):
    whole = (copy / name).read_bytes()
    for size in range(len(whole)):
        (copy / name).write_bytes(whole[:size])
        with pytest.raises(InteropError, match=r"truncated|damaged"):
            tf_checkpoint.read(copy)
    (copy / name).write_bytes(whole)
    assert len(tf_checkpoint.read(copy)) == 2


def test_every_prefix_of_the_state_file(copy):
    whole, layers = (copy / "checkpoint").read_bytes(), tf_checkpoint.read(copy)
    for size in range(len(whole)):
        (copy / "checkpoint").write_bytes(whole[:size])
        same_or_refused(tf_checkpoint.read, copy, layers)


def test_every_prefix_of_keras_metadata(copy_by_keras):
    path = copy_by_keras / "keras_metadata.pb"
    whole = path.read_bytes()
    for size in range(1, len(whole), 7):
        path.write_bytes(whole[:size])
        found = refused_or_not(saved_model.read, copy_by_keras)
        # Where it ends between two objects, those that follow have no names.
        assert found is None or found[0].path in ("conv", "layer_with_weights-0")


# Bytes to change, remove or repeat: where, as a part of the whole, how many, and by what.
DAMAGE = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 9), st.binary(max_size=4)),
    min_size=1,
    max_size=3,
)


def damaged(data, damage):
    for place, removed, put in damage:
        at = int(place * len(data))
        data = data[:at] + put + data[at + removed :]
    return data


@pytest.mark.parametrize("name", [INDEX, DATA, "checkpoint"])
@settings.examples(300)
@hypothesis.given(damage=DAMAGE)
def test_random_damage(saved, copy, name, damage):
    (copy / name).write_bytes(damaged((saved / name).read_bytes(), damage))
    same_or_refused(tf_checkpoint.read, copy, tf_checkpoint.read(saved))


@settings.examples(300)
@hypothesis.given(damage=DAMAGE)
def test_random_damage_of_keras_metadata(saved_by_keras, copy_by_keras, damage):
    whole = (saved_by_keras / "keras_metadata.pb").read_bytes()
    (copy_by_keras / "keras_metadata.pb").write_bytes(damaged(whole, damage))
    refused_or_not(saved_model.read, copy_by_keras)


@settings.examples(400)
@hypothesis.given(damage=DAMAGE, inside=st.booleans())
def test_random_damage_with_right_checksums(saved, copy, damage, inside):
    """Damage of the table's entries, or of the messages in them, sealed anew."""
    items = tf_table.read((saved / INDEX).read_bytes())
    if inside:
        whole = b"\xff\xfe".join(items.values())
        items = dict(zip(items, damaged(whole, damage).split(b"\xff\xfe"), strict=False))
        made = tf_tables.table(items)
    else:
        entries = b"".join(tf_tables.entry(key, value) for key, value in items.items())
        made = tf_tables.file(damaged(entries, damage))
    (copy / INDEX).write_bytes(made)
    refused_or_not(tf_checkpoint.read, copy)


@settings.examples(200)
@hypothesis.given(damage=DAMAGE)
def test_random_damage_of_the_graph_of_objects(saved_by_keras, copy_by_keras, damage):
    source, copy = (f / "variables" / "variables" for f in (saved_by_keras, copy_by_keras))
    graph = Bundle(source.with_name(source.name + ".index")).string(GRAPH)
    tf_tables.replace_string(source, copy, GRAPH, graph)
    assert saved_model.read(copy_by_keras)
    tf_tables.replace_string(source, copy, GRAPH, damaged(graph, damage))
    refused_or_not(saved_model.read, copy_by_keras)
