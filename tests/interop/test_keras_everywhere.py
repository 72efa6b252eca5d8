"""Wherever a model of Keras has a SeparableConv1D, its files give it: all of them, and no other."""

import json
import pathlib
import types
import warnings
from typing import Any

import numpy as np
import pytest

from flax_sepconv.interop import InteropError, InteropWarning, keras2, keras3, load
from tests import peers
from tests.interop.test_keras import BOTH, LIBRARIES, randomize, save

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning"),
]
SHAPE = (9, 4)


def separable(keras: types.ModuleType, name: str | None = None, **given: Any) -> Any:
    return keras.layers.SeparableConv1D(4, 3, padding="same", name=name, **given)


def classes(keras: types.ModuleType) -> types.SimpleNamespace:
    """Return classes that Keras does not know, made of layers that it does."""

    class Model(keras.Model):
        """Hold layers as attributes, and call them in turn."""

        def __init__(self, **parts: Any) -> None:
            super().__init__()
            self.order = list(parts)
            for name, part in parts.items():
                setattr(self, name, part)

        def call(self, x: Any) -> Any:
            return called([getattr(self, name) for name in self.order], x)

    class Block(keras.layers.Layer):
        """The same as a layer, with nothing in its config."""

        def __init__(self, name: str | None = None, **parts: Any) -> None:
            super().__init__(name=name)
            self.order = list(parts)
            for part_name, part in parts.items():
                setattr(self, part_name, part)

        def build(self, shape: Any) -> None:
            for part in every([getattr(self, name) for name in self.order]):
                part.build(shape)
            self.built = True

        def call(self, x: Any) -> Any:
            return called([getattr(self, name) for name in self.order], x)

        def get_config(self) -> dict[str, Any]:
            return {"name": self.name}

    @keras.saving.register_keras_serializable("mine")
    class Told(Block):
        """With its parts in its config, by names of which those with "_" are no attributes."""

        def __init__(self, name: str | None = None, **parts: Any) -> None:
            super().__init__(name=name, **{key.replace("_", "x"): p for key, p in parts.items()})
            self.told = parts.items  # No dict, whose layers would be saved by it.

        def get_config(self) -> dict[str, Any]:
            serialize = keras.saving.serialize_keras_object
            return {"name": self.name} | {key: serialize(p) for key, p in self.told()}

    return types.SimpleNamespace(Model=Model, Block=Block, Told=Told)


def every(part: Any) -> list[Any]:
    if isinstance(part, dict):
        part = list(part.values())
    if isinstance(part, list | tuple):
        return [layer for item in part for layer in every(item)]
    return [part]


def called(part: Any, x: Any) -> Any:
    for layer in every(part):
        x = layer(x)
    return x


def models(keras: types.ModuleType) -> dict[str, Any]:
    """Build every model, with what its layers are to be called."""
    L, own = keras.layers, classes(keras)

    def s(name: str | None = None) -> Any:
        return separable(keras, name)

    def functional(*layers: Any, shape: tuple[int, ...] = SHAPE) -> Any:
        x = L.Input(shape)
        return keras.Model(x, called(list(layers), x))

    in_time = [
        L.TimeDistributed(keras.Sequential([L.Input(SHAPE), s("a"), s("b")]), name="two"),
        L.TimeDistributed(s("c"), name="one"),
    ]
    nested = own.Model(conv=s("deep"), more=own.Model(a=s("deeper"), z=s("deepest")))
    return {
        "attributes around `layers`": own.Model(conv=s("first"), out=s("second"), dense=L.Dense(4)),
        "lists and dicts": own.Model(many=[s("a"), L.Dense(4), s("b")], named={"y": s(), "x": s()}),
        "one name": own.Model(a=s("same"), z=s("same"), middle=[s("same")]),
        "wrappers": functional(*in_time, shape=(2, *SHAPE)),
        "two directions": functional(own.Block(forward_layer=s("f"), backward_layer=s("b"))),
        "blocks": functional(s("known"), own.Block(a=s("same"), c=s("same"), conv=L.Conv1D(4, 1))),
        "models in models": functional(nested, s("last")),
        "a block in a list": own.Model(blocks=[own.Block(c=[s("u"), s("v")]), own.Block(c=s())]),
    }


def assert_all_given(layers: list[Any], model: Any) -> None:
    """Check that each layer of a model is given once, by its weights, which are random."""
    live = [layer for layer in model._flatten_layers() if type(layer).__name__ == "SeparableConv1D"]
    weights = {layer.path: keras3.keras_weights(layer) for layer in layers}
    assert len(weights) == len(layers) == len(live) > 0
    for theirs in live:
        expected = [np.asarray(weight) for weight in theirs.get_weights()]
        found = [p for p, w in weights.items() if all(map(np.array_equal, w, expected))]
        assert len(found) == 1, (theirs.name, list(weights))


@BOTH
def test_every_layer_is_given(library, tmp_path):
    keras = LIBRARIES[library]()
    for name, model in models(keras).items():
        model(np.zeros((1, *(model.input_shape[1:] if "wrap" in name else SHAPE)), "float32"))
        randomize(model)
        for file in ("m.keras", "m.weights.h5"):
            path = save(model, tmp_path / file, weights=file == "m.weights.h5")
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always", InteropWarning)
                layers = load(path)
            assert_all_given(layers, model)
            lacking = file == "m.keras" and any(layer.config is None for layer in layers)
            assert any("does not tell the arguments" in str(w.message) for w in told) == lacking
            if library == "keras" and name == "attributes around `layers`":
                assert [layer.path for layer in layers] == ["first", "second"]
            if name == "one name":
                assert all("same" not in layer.path for layer in layers)


@BOTH
def test_configs_of_parts_of_other_classes(library, tmp_path):
    """They are used where one group can be theirs, and told where several can."""
    keras = LIBRARIES[library]()
    L, own = keras.layers, classes(keras)

    def build(**parts: Any) -> Any:
        x = L.Input(SHAPE)
        model = keras.Model(x, own.Told(name="told", **parts)(x))
        randomize(model)
        return model, save(model, tmp_path / "m.keras")

    model, path = build(
        conv=separable(keras, "a", activation="relu"),
        other_conv=L.SeparableConv1D(4, 5, padding="same", name="b", activation="tanh"),
    )
    layers = load(path)
    assert_all_given(layers, model)
    told = {layer.path: layer.config["activation"] for layer in layers}
    assert told == {"told/a": "relu", "told/b": "tanh"}

    names = ("same", "same") if library == "keras" else ("a", "b")  # tf-keras writes no names
    model, path = build(
        **{f"{n}_x": separable(keras, name) for n, name in zip("pq", names, strict=True)}
    )
    with pytest.warns(
        InteropWarning, match=r"told/.*which of the groups .*pxx.*, .*qxx.* they are"
    ):
        layers = load(path)
    assert_all_given(layers, model)
    assert [layer.config for layer in layers] == [None, None]


def test_a_wrong_group_is_answered_by_those_that_there_are(tmp_path):
    keras = peers.keras()
    own = classes(keras)
    model = own.Model(conv=separable(keras), many=[separable(keras), keras.layers.Dense(4)])
    model(np.zeros((1, *SHAPE)))
    groups = "conv, layers/separable_conv1d_1"
    for name in ("m.keras", "m.weights.h5"):
        path = save(model, tmp_path / name, weights=name == "m.weights.h5")
        with pytest.raises(InteropError, match=f"no group 'sonv'; groups with .*: {groups}$"):
            load(path, layers=["sonv"])
        with pytest.raises(InteropError, match=f"must be .K, C, M., got .*: {groups}$"):
            load(path, layers=["conv", "layers/dense"])
        assert [layer.path for layer in load(path, layers=["/conv"])] == [model.conv.name]


def test_an_einsum_dense_of_such_shapes_is_none(tmp_path):
    """The one layer of Keras whose variables may have them; a config tells it."""
    keras = peers.keras()
    dense = keras.layers.EinsumDense("abc,cde->abde", (1, 4, 1), bias_axes="bde")
    model = keras.Sequential([keras.layers.Input((1, 4)), dense])
    assert [w.shape for w in model.get_weights()] == [(4, 4, 1), (1, 4, 1)]
    with pytest.raises(InteropError, match="has no SeparableConv1D and no"):
        load(save(model, tmp_path / "m.keras"))


@pytest.fixture(scope="module")
def in_parts(tmp_path_factory):
    """A model with four layers, in a folder and in shards, of which one cuts a layer in two."""
    keras = peers.keras()
    inner = keras.Sequential([keras.layers.Input(SHAPE), separable(keras, "b")], name="inner")
    model = keras.Sequential(
        [keras.layers.Input(SHAPE), separable(keras, "a"), inner, separable(keras, "c")]
    )
    randomize(model)
    folder = tmp_path_factory.mktemp("parts")
    model.save(folder / "m", zipped=False)
    model.save_weights(folder / "s.weights.json", max_shard_size=150 / 2**30)
    return model, folder


def test_unpacked_models(in_parts, tmp_path):
    model, folder = in_parts
    layers = load(folder / "m")
    assert [layer.path for layer in layers] == ["a", "inner/b", "c"]
    assert all(layer.config["padding"] == "same" for layer in layers)
    assert_all_given(layers, model)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metadata.json").write_text("{}")
    with pytest.raises(InteropError, match="not that of a Keras model"):
        load(tmp_path)


def test_shards(in_parts, tmp_path):
    model, folder = in_parts
    whole = folder / "s.weights.json"
    shards = sorted(folder.glob("s_*.weights.h5"))
    assert len(shards) >= 3
    assert any(isinstance(n, list) for n in json.loads(whole.read_text())["weight_map"].values())
    layers = load(whole)
    assert [layer.path for layer in layers] == ["a", "c", "inner/b"]
    assert_all_given(layers, model)
    with pytest.raises(InteropError, match=r"is one of several shards: give .*s\.weights\.json"):
        load(shards[0])
    for path in (whole, *shards[:-1]):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InteropError, match=rf"{shards[-1].name}, a shard .* does not exist"):
        load(tmp_path / whole.name)
    (tmp_path / shards[-1].name).write_bytes(shards[0].read_bytes())
    with pytest.raises(InteropError, match=rf"{shards[-1].name} lacks "):
        load(tmp_path / whole.name)
    for text, message in (
        ("{", "does not tell what its shards have"),
        ('{"weight_map": {}}', "names no shard"),
        ('{"weight_map": {"/vars": "../x"}}', r"names a shard '\.\./x', which is no file beside"),
        ('{"weight_map": {"/vars": [3]}}', "names a shard 3"),
    ):
        (tmp_path / whole.name).write_text(text)
        with pytest.raises(InteropError, match=message):
            load(tmp_path / whole.name)


@BOTH
def test_what_models_share_is_given_once_and_told(library, tmp_path):
    """A layer of an inner and the outer model; not a copy with the same name and weights."""
    keras = LIBRARIES[library]()
    L = keras.layers
    shared = separable(keras, "shared")
    x = L.Input(SHAPE)
    inner = keras.Model(x, shared(x), name="inner")
    copies = [keras.Sequential([L.Input(SHAPE), separable(keras, "copy")], name=n) for n in "pq"]
    x = L.Input(SHAPE)
    model = keras.Model(x, called([shared, inner, *copies], x))
    randomize(model)
    copies[1].set_weights(copies[0].get_weights())
    with pytest.warns(InteropWarning, match="'(inner/)?shared' are one that two models share"):
        layers = keras2.read(save(model, tmp_path / "m.h5"))
    assert sorted(layer.path for layer in layers) == ["p/copy", "q/copy", "shared"]
    assert len(load(save(model, tmp_path / "m.keras"))) == 3
    if library == "tf_keras":
        path = save(model, tmp_path / "weights_only.h5", weights=True)
        with pytest.warns(InteropWarning, match="nothing tells whether they are one") as said:
            assert len(keras2.read(path)) == 4
        assert len(said) == 2


def test_folders_are_told_apart(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InteropError, match="no SavedModel and no Keras model"):
        load(tmp_path)
