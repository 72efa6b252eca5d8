"""Files that Keras 2 and Keras 3 wrote: their layers compute here what they compute there."""

import contextlib
import json
import pathlib
import types
import zipfile
from typing import Any

import h5py
import jax
import numpy as np
import pytest

import flax_sepconv as fsc
from flax_sepconv.interop import (
    InteropError,
    InteropWarning,
    Layer,
    keras2,
    keras3,
    load,
    to_params,
)
from tests import peers

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning"),
]

LIBRARIES = {"keras": peers.keras, "tf_keras": peers.tf_keras}
READERS = {".keras": keras3.read, ".h5": keras2.read}
BOTH = pytest.mark.parametrize("library", LIBRARIES)
# In every layer K, C, M, F and the length differ.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "first": {"filters": 6, "kernel_size": 3, "depth_multiplier": 2, "strides": 2},
    "inner/b": {
        "filters": 5,
        "kernel_size": 4,
        "depth_multiplier": 3,
        "dilation_rate": 2,
        "padding": "same",
        "activation": "tanh",
        "use_bias": False,
    },
    "inner/c": {"filters": 6, "kernel_size": 3, "padding": "same", "trainable": False},
    "deep/d": {
        "filters": 7,
        "kernel_size": 5,
        "activation": "softmax",
        "bias_constraint": "non_neg",
    },
    "shared": {"filters": 7, "kernel_size": 2, "padding": "same", "depthwise_regularizer": "l2"},
    "only_depthwise": {"kernel_size": 3, "depth_multiplier": 2, "padding": "same"},
    "td/e": {"filters": 3, "kernel_size": 2, "padding": "same", "activation": "relu"},
    "td2/seq/f": {"filters": 2, "kernel_size": 5, "padding": "same", "depth_multiplier": 4},
}


def with_all(keras: types.ModuleType) -> tuple[Any, dict[str, Any]]:
    """Build a model with a layer at each path of ARGUMENTS, and other layers around them."""
    L, made = keras.layers, {}

    def separable(path: str) -> Any:
        make = L.SeparableConv1D if "filters" in ARGUMENTS[path] else L.DepthwiseConv1D
        made[path] = make(name=path.split("/")[-1], **ARGUMENTS[path])
        return made[path]

    inner = keras.Sequential(
        [L.Input((13, 6)), separable("inner/b"), L.Dense(4), separable("inner/c")], name="inner"
    )
    x = L.Input((13, 6))
    deep = keras.Model(x, separable("deep/d")(inner(x)), name="deep")
    sequential = keras.Sequential([L.Input((3, 3)), separable("td2/seq/f")], name="seq")
    y = x = L.Input((28, 4))
    y = separable("first")(y)
    y = deep(inner(L.BatchNormalization()(y)))
    y = L.Lambda(lambda value: 2 * value)(y)
    shared = separable("shared")
    y = L.Reshape((3, 3, 7))(shared(shared(y)))
    y = L.SeparableConv2D(7, 2, padding="same", name="two")(y)
    y = separable("only_depthwise")(L.Reshape((9, 7))(y))
    y = L.TimeDistributed(separable("td/e"), name="td")(L.Reshape((3, 3, 14))(y))
    y = L.TimeDistributed(sequential, name="td2")(y)
    model = keras.Model(x, y, name="model")
    randomize(model)
    return model, made


def randomize(model: Any) -> None:
    rng = np.random.default_rng(len(model.get_weights()))
    model.set_weights([rng.standard_normal(w.shape) for w in model.get_weights()])


def save(model: Any, path: pathlib.Path, weights: bool = False) -> pathlib.Path:
    (model.save_weights if weights else model.save)(path)
    return path


@pytest.fixture(scope="module", params=LIBRARIES)
def trained(request, tmp_path_factory):
    """Return a library, its layers by path, and the files that it wrote of their model."""
    keras = LIBRARIES[request.param]()
    model, made = with_all(keras)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    folder = tmp_path_factory.mktemp(request.param)
    files = {name: save(model, folder / name) for name in ("m.keras", "m.h5")}
    files["m.weights.h5"] = save(model, folder / "m.weights.h5", weights=True)
    if request.param == "tf_keras":
        files["weights_only.h5"] = save(model, folder / "weights_only.h5", weights=True)
    return request.param, made, files


def assert_computes_the_same(layer: Layer, theirs: Any) -> None:
    """Compare outputs, by the config that the layer came with or else by Keras' own."""
    if layer.config is None:
        layer = Layer(layer.path, layer.weights, theirs.get_config())
    x = np.random.default_rng(1).standard_normal((3, 19, layer.sizes["C"])).astype("float32")
    ours = getattr(fsc, type(theirs).__name__)(**layer.arguments() | {"name": None})
    collection = "params" if ours.trainable else "non_trainable"
    output = ours.apply({collection: to_params([layer], {layer.path: ""})}, x)
    expected = np.asarray(theirs(x))
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_whole_models_compute_the_same(trained, name):
    _, made, files = trained
    # Models that share layers have their weights twice in HDF5.
    twice = pytest.warns(InteropWarning, match="'deep/inner/[bc]' are one that two models share")
    with twice if name == "m.h5" else contextlib.nullcontext():
        layers = READERS[files[name].suffix](files[name])
    assert [layer.path for layer in layers] == list(ARGUMENTS)
    for layer in layers:
        assert layer.config["name"] == layer.path.split("/")[-1]
        assert_computes_the_same(layer, made[layer.path])


def test_weights_of_keras_3_are_found_by_their_variables(trained):
    library, made, files = trained
    groups = {
        "layers/depthwise_conv1d": "only_depthwise",
        "layers/functional/layers/separable_conv1d": "deep/d",
        "layers/separable_conv1d": "first",
        "layers/separable_conv1d_1": "shared",
        "layers/sequential/layers/separable_conv1d": "inner/b",
        "layers/sequential/layers/separable_conv1d_1": "inner/c",
        "layers/time_distributed/layer": "td/e",
        "layers/time_distributed_1/layer/layers/separable_conv1d": "td2/seq/f",
    }
    layers = keras3.read(files["m.weights.h5"])
    # tf-keras writes no names.
    paths = groups.values() if library == "keras" else groups
    assert [layer.path for layer in layers] == list(paths)
    for layer, path in zip(layers, groups.values(), strict=True):
        assert layer.config is None
        assert_computes_the_same(layer, made[path])


@pytest.mark.parametrize("name", ["m.weights.h5", "m.keras"])
def test_groups_may_be_chosen(trained, name):
    library, made, files = trained
    groups = ["layers/time_distributed/layer", "/layers/separable_conv1d_1/"]
    layers = keras3.read(files[name], layers=groups)
    if name == "m.keras" or library == "keras":
        assert [layer.path for layer in layers] == ["td/e", "shared"]
    else:
        assert [layer.path for layer in layers] == [group.strip("/") for group in groups]
    for layer, path in zip(layers, ["td/e", "shared"], strict=True):
        assert (layer.config is None) == (name == "m.weights.h5")
        assert_computes_the_same(layer, made[path])
    with pytest.raises(InteropError, match="'layers/lambda' must have the 2 or 3 variables"):
        keras3.read(files[name], layers=["layers/lambda"])
    with pytest.raises(InteropError, match="depthwise_kernel must be"):
        keras3.read(files[name], layers=["layers/separable_conv2d"])


def test_weights_of_keras_2_are_found_by_their_names(trained):
    library, made, files = trained
    if library == "keras":
        pytest.skip("Keras 3 writes no such file")
    with pytest.warns(InteropWarning, match="'inner/[bc]' and 'deep/[bc]' have the same name"):
        layers = {layer.path: layer for layer in keras2.read(files["weights_only.h5"])}
    there = {
        "deep/b": "inner/b",
        "deep/c": "inner/c",
        "deep/d": "deep/d",
        "first": "first",
        "inner/b": "inner/b",
        "inner/c": "inner/c",
        "only_depthwise": "only_depthwise",
        "shared": "shared",
        "td": "td/e",
        "td2/f": "td2/seq/f",
    }
    assert layers.keys() == there.keys()
    for name, path in there.items():
        assert layers[name].config is None
        assert_computes_the_same(layers[name], made[path])


def test_the_formats_are_told_apart(trained):
    _, _, files = trained
    for name, path in files.items():
        if name.endswith(".h5"):
            expected = "keras-weights" if name == "m.weights.h5" else "keras2"
            assert keras2.format_of(path) == expected
    with pytest.raises(InteropError, match="is no Keras 2 file"):
        keras2.read(files["m.weights.h5"])
    with pytest.raises(InteropError, match="has no group with the variables of"):
        keras3.read(files["m.h5"])


@BOTH
def test_shared_layers_do_not_shift_the_numbers(library, tmp_path):
    """The second model's list has the shared layer first; its groups are numbered without it."""
    keras = LIBRARIES[library]()
    L = keras.layers
    shared, own = (L.SeparableConv1D(5, 3, padding="same", name=name) for name in ("shared", "own"))
    plain = keras.Sequential([L.Input((9, 5)), L.Dense(5)], name="plain")
    own_model = keras.Sequential([L.Input((9, 5)), own], name="own_model")
    x = L.Input((9, 5))
    outer = keras.Model(x, own_model(plain(shared(x))), name="outer")
    last = L.SeparableConv1D(4, 2, name="last")
    model = keras.Model(x, last(shared(own_model(outer(shared(plain(x)))))))
    randomize(model)
    made = {"shared": shared, "own_model/own": own, "outer/own_model/own": own, "last": last}
    names = ["last", "own", "shared"]
    for name in ("m.keras", "m.h5"):
        path = save(model, tmp_path / name)
        twice = pytest.warns(InteropWarning, match="are one that two models share")
        with twice if name == "m.h5" else contextlib.nullcontext():
            layers = READERS[path.suffix](path)
        assert sorted(layer.path.split("/")[-1] for layer in layers) == names
        for layer in layers:
            assert_computes_the_same(layer, made[layer.path.removeprefix("outer/")])


@BOTH
def test_models_without_such_a_layer(library, tmp_path):
    keras = LIBRARIES[library]()
    L = keras.layers
    model = keras.Sequential([L.Input((9, 3)), L.Conv1D(2, 3, activation="relu")])
    for name in ("m.keras", "m.h5"):
        with pytest.raises(InteropError, match="has no SeparableConv1D and no Depthwise"):
            load(save(model, tmp_path / name))


def test_names_with_slashes(tmp_path):
    """Keras 2 takes them; in HDF5 they are groups."""
    keras = peers.tf_keras()
    L = keras.layers
    a, b = (L.SeparableConv1D(3, 4, name=name) for name in ("x/a", "y/b"))
    inner = keras.Sequential([L.Input((6, 3)), b], name="z/inner")
    model = keras.Sequential([L.Input((9, 5)), a, inner])
    for weights, name in ((False, "m.h5"), (True, "weights_only.h5"), (False, "m.keras")):
        path = save(model, tmp_path / name, weights)
        layers = {layer.path: layer for layer in READERS[path.suffix](path)}
        assert layers.keys() == {"x/a", "z/inner/y/b"}
        assert_computes_the_same(layers["x/a"], a)
        assert_computes_the_same(layers["z/inner/y/b"], b)


@BOTH
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "mixed_float16"])
def test_dtypes(library, dtype, tmp_path):
    keras = LIBRARIES[library]()
    L = keras.layers
    with jax.enable_x64(dtype == "float64"):
        model = keras.Sequential([L.Input((9, 3)), L.SeparableConv1D(2, 4, name="a", dtype=dtype)])
        randomize(model)
        expected = [np.asarray(weight).astype("float64") for weight in model.get_weights()]
        for name in ("m.keras", "m.h5", "m.weights.h5"):
            path = save(model, tmp_path / name, weights=name == "m.weights.h5")
            if (library, dtype, name) == ("tf_keras", "bfloat16", "m.weights.h5"):
                # Nothing in the file tells bfloat16 from other pairs of bytes.
                with pytest.raises(InteropError, match="2-byte opaque numbers, probably bfloat16"):
                    keras3.read(path)
                continue
            (layer,) = (keras2 if name == "m.h5" else keras3).read(path)
            assert layer.dtype == dtype.replace("mixed_float16", "float32")
            for ours, theirs in zip(keras3.keras_weights(layer), expected, strict=True):
                np.testing.assert_array_equal(ours.astype("float64"), theirs)


@BOTH
def test_what_is_written_is_loaded(library, tmp_path):
    keras = LIBRARIES[library]()
    L = keras.layers

    def build(*further: Any) -> Any:
        convolutions = [L.SeparableConv1D(**ARGUMENTS[path]) for path in ("first", "inner/b")]
        return keras.Sequential([L.Input((28, 4)), *convolutions, *further])

    source, dest = build(), build()
    randomize(source)
    layers = keras3.read(save(source, tmp_path / "m.keras"))
    path = tmp_path / "m.weights.h5"
    keras3.write(path, layers)
    dest.load_weights(path)
    x = np.random.default_rng(0).standard_normal((2, 28, 4)).astype("float32")
    np.testing.assert_array_equal(dest(x), source(x))

    again = build()
    for layer, theirs in zip(layers, again.layers, strict=True):
        theirs.set_weights(keras3.keras_weights(layer))
    np.testing.assert_array_equal(again(x), source(x))

    larger = build(L.Dense(2))
    with pytest.raises(ValueError, match="dense"):
        larger.load_weights(path)
    with pytest.warns(UserWarning, match="(?i)dense"):
        larger.load_weights(path, skip_mismatch=True)
    for ours, theirs in zip(source.get_weights(), larger.get_weights(), strict=False):
        np.testing.assert_array_equal(ours, theirs)


@BOTH
def test_twins_are_two_layers(library, tmp_path):
    """One config, one name, one set of weights: none of it makes them one."""
    keras = LIBRARIES[library]()
    L = keras.layers
    online, target = (
        keras.Sequential([L.Input((9, 3)), L.SeparableConv1D(3, 2, name="conv")], name=name)
        for name in ("online", "target")
    )
    x = L.Input((9, 3))
    model = keras.Model(x, L.Concatenate()([target(x), online(x)]))
    randomize(model)
    target.set_weights(online.get_weights())
    for name in ("m.h5", "m.keras", *(["weights_only.h5"] if library == "tf_keras" else [])):
        path = save(model, tmp_path / name, weights=name == "weights_only.h5")
        # Without a config they might be one.
        said = pytest.warns(InteropWarning, match="nothing tells whether they are one layer")
        with said if name == "weights_only.h5" else contextlib.nullcontext():
            paths = [layer.path for layer in READERS[path.suffix](path)]
        assert paths == [layer.name + "/conv" for layer in model.layers[1:3]]


@BOTH
def test_weights_may_be_nan(library, tmp_path):
    keras = LIBRARIES[library]()
    L = keras.layers
    layers = [L.SeparableConv1D(3, 2, name=name) for name in "ab"]
    model = keras.Sequential([L.Input((9, 3)), *layers])
    model.set_weights([np.full(weight.shape, np.nan) for weight in model.get_weights()])
    for layer in keras2.read(save(model, tmp_path / "m.h5")):
        assert layer.config["name"] == layer.path
        assert all(np.isnan(weight).all() for weight in layer.weights.values())


@BOTH
def test_a_layer_shared_inside_of_one_model_is_given_once(library, tmp_path):
    keras = LIBRARIES[library]()
    L = keras.layers
    shared = L.SeparableConv1D(3, 2, padding="same", name="shared")
    parts = [keras.Sequential([L.Input((9, 3)), shared], name=name) for name in "ab"]
    own = L.SeparableConv1D(3, 4, padding="same", name="own")
    x = L.Input((9, 3))
    outer = keras.Model(x, own(parts[1](parts[0](x))), name="outer")
    model = keras.Model(x, L.Dense(2)(outer(x)))
    randomize(model)
    one, other = keras2.read(save(model, tmp_path / "m.h5"))
    assert (one.path, other.path) == ("outer/a/shared", "outer/own")
    assert_computes_the_same(one, shared)
    assert_computes_the_same(other, own)


def test_names_in_the_order_of_the_model(tmp_path):
    """Also where the list of them is cut, as it is from 64 KB on."""
    keras = peers.tf_keras()
    L = keras.layers
    names = [f"{'long' * 200}/{number}" for number in range(99, 0, -1)]
    layers = [L.SeparableConv1D(2, 1, name=name) for name in names]
    inner = keras.Sequential([L.Input((4, 2)), *layers[:5]], name="inner")
    model = keras.Sequential([L.Input((4, 2)), L.Flatten(), L.Reshape((4, 2)), inner, *layers[5:]])
    path = save(model, tmp_path / "weights_only.h5", weights=True)
    with h5py.File(path) as file:
        assert "layer_names1" in file.attrs
    paths = [layer.path for layer in keras2.read(path)]
    assert paths == [f"inner/{name}" for name in names[:5]] + names[5:]


@BOTH
def test_many_layers_keep_their_order(library, tmp_path):
    """Of equal shapes, so that only the numbers tell; and HDF5 has the tenth before the second."""
    keras = LIBRARIES[library]()
    L = keras.layers

    def build() -> Any:
        layers = [L.SeparableConv1D(3, 2, padding="same", name=f"n{n}") for n in range(12)]
        return keras.Sequential([L.Input((5, 3)), *layers])

    source, dest = build(), build()
    randomize(source)
    layers = keras3.read(save(source, tmp_path / "m.weights.h5", weights=True))
    for layer, theirs in zip(layers, source.layers, strict=True):
        assert_computes_the_same(layer, theirs)
    keras3.write(tmp_path / "again.weights.h5", layers)
    dest.load_weights(tmp_path / "again.weights.h5")
    for ours, theirs in zip(dest.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@BOTH
def test_layers_of_models_in_a_model_are_written_under_their_paths(library, tmp_path):
    """Two have one name in two models; the file has both, and loads into a flat model."""
    keras = LIBRARIES[library]()
    L = keras.layers

    def build() -> list[Any]:
        return [L.SeparableConv1D(3, 2, padding="same", name="conv") for _ in range(2)]

    made = build()
    models = [
        keras.Sequential([L.Input((9, 3)), layer], name=name)
        for layer, name in zip(made, ("enc", "dec"), strict=True)
    ]
    model = keras.Sequential([L.Input((9, 3)), *models])
    randomize(model)
    path = tmp_path / "m.weights.h5"
    keras3.write(path, keras3.read(save(model, tmp_path / "m.keras")))
    assert [layer.path for layer in keras3.read(path)] == ["enc/conv", "dec/conv"]
    for layer, theirs in zip(keras3.read(path), made, strict=True):
        assert_computes_the_same(layer, theirs)
    new = [L.SeparableConv1D(3, 2, padding="same", name=name) for name in "ab"]
    flat = keras.Sequential([L.Input((9, 3)), *new])
    flat.load_weights(path)
    for ours, theirs in zip(flat.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_names_that_the_file_has_twice(small, tmp_path):
    layer = keras3.read(small)[0]
    path = tmp_path / "m.weights.h5"
    keras3.write(path, [layer, layer, Layer("b", layer.weights)])
    paths = [layer.path for layer in keras3.read(path)]
    assert paths == ["layers/separable_conv1d", "layers/separable_conv1d_1", "b"]


def test_bfloat16_is_written_as_keras_3_reads_it(tmp_path):
    keras = peers.keras()
    L = keras.layers
    model = keras.Sequential([L.Input((9, 3)), L.SeparableConv1D(2, 4, dtype="bfloat16")])
    randomize(model)
    layers = keras3.read(save(model, tmp_path / "m.keras"))
    keras3.write(tmp_path / "m.weights.h5", layers)
    expected = model.get_weights()
    model.set_weights([np.zeros_like(weight) for weight in expected])
    model.load_weights(tmp_path / "m.weights.h5")
    for ours, theirs in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def replaced(path: pathlib.Path, contents: dict[str, bytes]) -> pathlib.Path:
    """Change some parts of a .keras file."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (members | contents).items():
            archive.writestr(name, content)
    return path


def edited(path: pathlib.Path, change: Any) -> pathlib.Path:
    """Change the config in a .keras file."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    change(config["config"]["layers"])
    return replaced(path, {"config.json": json.dumps(config).encode()})


@pytest.fixture
def small(tmp_path):
    keras = peers.keras()
    L = keras.layers
    model = keras.Sequential([L.Input((9, 3)), L.SeparableConv1D(2, 4, name="a"), L.Dense(2)])
    return save(model, tmp_path / "m.keras")


def test_lost_layers_are_named_with_the_models_around_them(tmp_path):
    keras = peers.keras()
    L = keras.layers
    inner = keras.Sequential([L.Input((9, 3)), L.SeparableConv1D(2, 4, name="conv")], name="enc")
    part = keras.Sequential([L.Input((9, 3)), inner], name="part")
    path = save(keras.Sequential([L.Input((9, 3)), part]), tmp_path / "m.keras")
    weights = save(part, tmp_path / "m.weights.h5", weights=True)
    with h5py.File(weights, "a") as file:
        file.move("layers/sequential", "layers/gone")
    with pytest.raises(InteropError, match="layer 'part/enc/conv' are not where"):
        keras3.read(replaced(path, {"model.weights.h5": weights.read_bytes()}))


def test_custom_objects_are_named(small):
    def change(layers: list[Any]) -> None:
        layers[1]["config"]["depthwise_initializer"] = {
            "module": "mine",
            "class_name": "Special",
            "config": {},
            "registered_name": "mine>Special",
        }

    with pytest.raises(InteropError, match=r"layer 'a'.*Special"):
        keras3.read(edited(small, change))


def test_a_custom_class_of_that_name_is_not_keras_own(small):
    def change(layers: list[Any]) -> None:
        layers[1] |= {"module": "mine.layers", "registered_name": "mine>SeparableConv1D"}

    # Its weights are taken for what they look like; its config is not.
    told = r"layers/separable_conv1d \(SeparableConv1D\) has .* but is of no class of Keras"
    with pytest.warns(InteropWarning, match=told):
        (layer,) = keras3.read(edited(small, change))
    assert layer.config is None


def test_lambdas_are_passed_over(small):
    def change(layers: list[Any]) -> None:
        code = {"class_name": "__lambda__", "config": {"code": "!", "defaults": None}}
        layers.append({"class_name": "Lambda", "config": {"name": "x", "function": code}})

    assert [layer.path for layer in keras3.read(edited(small, change))] == ["a"]


OLD = "_layer_checkpoint_dependencies"


def as_keras_2_13(group: Any) -> None:
    """Rename twelve layers as it does, which counts every layer with weights twice."""
    group.move("layers", OLD)
    for number in range(11, 0, -1):
        name = f"{OLD}/separable_conv1d"
        group.move(f"{name}_{number}", f"{name}_{2 * number}")


def test_lists_of_keras_2_13(tmp_path):
    """Made from those of tf-keras, after the files that Keras 2.13.1 wrote."""
    keras = peers.tf_keras()
    L = keras.layers
    inner, outer = (
        [L.SeparableConv1D(3, 2, padding="same", name=f"{name}{n}") for n in range(12)]
        for name in ("inner", "outer")
    )
    sequential = keras.Sequential([L.Input((8, 3)), *inner], name="inner")
    other = (L.Flatten(), L.Reshape((8, 3)), sequential)
    model = keras.Sequential([L.Input((8, 3)), *outer[:6], *other, *outer[6:]])
    randomize(model)
    weights = save(model, tmp_path / "m.weights.h5", weights=True)
    with h5py.File(weights, "a") as file:
        as_keras_2_13(file["layers/sequential"])
        as_keras_2_13(file)
    whole = save(model, tmp_path / "m.keras")
    layers = keras3.read(replaced(whole, {"model.weights.h5": weights.read_bytes()}))
    names = {layer.name: layer for layer in outer} | {f"inner/{one.name}": one for one in inner}
    assert names.keys() == {layer.path for layer in layers}
    for layer in layers:
        assert_computes_the_same(layer, names[layer.path])
    for layer, theirs in zip(keras3.read(weights), [*outer, *inner], strict=True):
        assert_computes_the_same(layer, theirs)


def renamed(layer: dict[str, Any], name: str) -> dict[str, Any]:
    return layer | {"config": layer["config"] | {"name": name}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layers: layers.append(renamed(layers[1], "z")), "'z' are not where its config"),
        (lambda layers: layers[1]["config"].update(name="b"), "says that it is 'a'"),
        (lambda layers: layers[1]["config"].update(filters=3), "filters=3.*F=2"),
        (lambda layers: layers[1]["config"].update(use_bias=False), "use_bias=False"),
    ],
)
def test_configs_must_fit_the_weights(small, change, message):
    with pytest.raises(InteropError, match=message):
        keras3.read(edited(small, change))
