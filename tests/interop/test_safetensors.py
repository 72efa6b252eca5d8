"""The neutral format, beside safetensors' own reader and writer."""

import json
import struct
import sys

import hypothesis
import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import flax_sepconv as fsc
from flax_sepconv.interop import InteropError, Layer, safetensors_file, to_params
from flax_sepconv.interop.layer import DTYPES

K, C, M, F = 3, 4, 2, 5


def weights(dtype="float32", bias=True, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"depthwise_kernel": (K, C, M), "pointwise_kernel": (1, C * M, F), "bias": (F,)}
    drawn = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    if not bias:
        del drawn["bias"]
    return drawn


def config(**given):
    module = fsc.SeparableConv1D(F, K, depth_multiplier=M, **given)
    return module.to_keras_config(version=2)


def layers():
    return [
        Layer("z/last", weights(), config(padding="causal", activation="gelu", strides=2)),
        Layer("a/first", weights(bias=False, seed=1)),
        Layer(
            "m",
            weights("float16", seed=2),
            config(
                padding="same",
                dilation_rate=3,
                depthwise_constraint=fsc.constraints.MaxNorm(1.5),
                bias_regularizer=fsc.regularizers.L1L2(0.25, 0.5),
                param_dtype="float16",
            ),
        ),
    ]


def assert_same(found, expected):
    assert [layer.path for layer in found] == [layer.path for layer in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.config == b.config
        assert a.weights.keys() == b.weights.keys()
        for name, weight in a.weights.items():
            assert weight.dtype == b.weights[name].dtype
            np.testing.assert_array_equal(weight, b.weights[name])


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "layers.safetensors"
    safetensors_file.write(path, layers())
    return path


def rewritten(path, tensors=None, **metadata):
    """Write a file's tensors and metadata anew by safetensors itself, changed."""
    with safe_open(path, framework="np") as file:
        old = file.metadata()
    changed = load_file(path) if tensors is None else tensors
    save_file(changed, path, metadata={**old, **metadata})
    return path


def test_what_is_written_is_read(file):
    assert_same(safetensors_file.read(file), layers())


def test_anyone_reads_what_is_written(file):
    tensors = load_file(file)
    expected = {f"{a.path}/{name}": w for a in layers() for name, w in a.weights.items()}
    assert tensors.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_array_equal(tensors[name], weight)
    with safe_open(file, framework="np") as opened:
        told = json.loads(opened.metadata()["flax_sepconv"])
    assert told["version"] == 1
    assert list(told["layers"]) == ["z/last", "a/first", "m"]
    assert told["layers"]["a/first"] is None
    assert told["layers"]["z/last"]["padding"] == "causal"


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_layer_without_a_path(tmp_path, dtype):
    path = tmp_path / "one.safetensors"
    dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    layer = Layer("", weights(dtype))
    safetensors_file.write(path, [layer])
    assert load_file(path).keys() == weights().keys()
    assert_same(safetensors_file.read(path), [layer])
    assert safetensors_file.read(path)[0].dtype == dtype


@pytest.mark.parametrize("configured", [False, True])
def test_a_depthwise_layer(tmp_path, configured):
    own = weights()
    own = {"depthwise_kernel": own["depthwise_kernel"], "bias": own["pointwise_kernel"][0, :, 0]}
    module = fsc.DepthwiseConv1D(K, padding="same", depth_multiplier=M, activation="relu")
    layer = Layer("block/dw", own, module.to_keras_config() if configured else None)
    path = tmp_path / "depthwise.safetensors"
    safetensors_file.write(path, [layer])
    (read,) = found = safetensors_file.read(path)
    assert_same(found, [layer])
    if configured:
        assert fsc.DepthwiseConv1D(**read.arguments()).arguments() == module.arguments()
    x = np.random.default_rng(3).standard_normal((2, 11, C)).astype("float32")
    y = fsc.DepthwiseConv1D(**read.arguments()).apply(
        {"params": to_params(found)["block"]["dw"]}, x
    )
    expected = fsc.ops.depthwise_conv1d(x, *own.values(), padding="same" if configured else "valid")
    np.testing.assert_array_equal(y, np.maximum(expected, 0) if configured else expected)
    with pytest.raises(InteropError, match=r"axis 0 \(C\*M\) of bias must be"):
        Layer("a", own | {"bias": np.ones(1, "f")})


def test_strided_weights_are_written_as_they_look(tmp_path):
    turned = {name: np.asfortranarray(weight) for name, weight in weights().items()}
    turned["depthwise_kernel"] = np.repeat(turned["depthwise_kernel"], 2, axis=0)[::2]
    path = tmp_path / "turned.safetensors"
    safetensors_file.write(path, [Layer("a", turned)])
    assert_same(safetensors_file.read(path), [Layer("a", weights())])


def test_params_flattened_by_others(tmp_path):
    """Without our metadata the names say all; a Dense beside is passed over."""
    path = tmp_path / "params.safetensors"
    tensors = {f"block/sep/{name}": weight for name, weight in weights().items()}
    tensors |= weights(seed=1) | {"dense/kernel": np.ones((2, 3), "f"), "block/bias": np.ones(3)}
    save_file(tensors, path)
    assert not safetensors_file.is_neutral(path)
    found = safetensors_file.read(path)
    expected = [Layer("block/sep", weights()), Layer("", weights(seed=1))]
    assert_same(sorted(found, key=lambda layer: -len(layer.path)), expected)


def test_neutral_files_are_told_from_others(file, tmp_path):
    assert safetensors_file.is_neutral(file)
    other = tmp_path / "torch.safetensors"
    save_file({"conv.depthwise.weight": np.ones((4, 1, 3), "f")}, other, metadata={"format": "pt"})
    assert not safetensors_file.is_neutral(other)


def test_nothing_is_told_without_a_whole_header(file):
    file.write_bytes(file.read_bytes()[:30])
    with pytest.raises(InteropError, match="no whole safetensors file"):
        safetensors_file.is_neutral(file)


def told(**changes):
    return json.dumps({"version": 1, "layers": {}} | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no sound JSON"),
        ("[" * 100_000, "no sound JSON"),
        ('{"version": 1, "version": 1, "layers": {}}', "'version' twice"),
        ('{"version": 1, "layers": {"m": {"filters": NaN}}}', "NaN"),
        ("[]", "must be an object with a version"),
        ('{"layers": {}}', "must be an object with a version"),
        (told(version=2), "must be 1, got 2"),
        (told(layers=[]), "layers of its metadata"),
        ('{"version": 1}', "layers of its metadata"),
        (told(layers={"m": 3}), "config of layer 'm'"),
        (told(layers={"m": None}), "belongs to no layer"),
        (
            told(layers={"z/last": None, "a/first": None, "m": None, "gone": None}),
            "layer 'gone': depthwise_kernel is missing",
        ),
        (
            told(layers={"z/last": {"filters": 6, "kernel_size": 3}, "a/first": None, "m": None}),
            "layer 'z/last': its config says depth_multiplier=1, its weights have M=2",
        ),
    ],
)
def test_metadata_that_is_not_of_the_tensors(file, text, message):
    with pytest.raises(InteropError, match=message):
        safetensors_file.read(rewritten(file, flax_sepconv=text))


def test_tensors_that_are_no_layer(file):
    tensors = load_file(file)
    with pytest.raises(InteropError, match="'m/kernel' that belongs to no layer"):
        safetensors_file.read(rewritten(file, tensors | {"m/kernel": np.ones(3)}))
    tensors["m/bias"] = np.ones(F, np.int32)
    with pytest.raises(InteropError, match="dtype of bias must be one of float16"):
        safetensors_file.read(rewritten(file, tensors))
    tensors["m/bias"] = np.ones(F, np.float32)
    with pytest.raises(InteropError, match="layer 'm': its weights must have one dtype"):
        safetensors_file.read(rewritten(file, tensors))
    del tensors["m/bias"], tensors["m/pointwise_kernel"]
    with pytest.raises(InteropError, match="layer 'm': pointwise_kernel is missing"):
        safetensors_file.read(rewritten(file, tensors))


def test_what_cannot_be_written(tmp_path):
    path = tmp_path / "no.safetensors"
    with pytest.raises(InteropError, match="two layers of the name 'a'"):
        safetensors_file.write(path, [Layer("a", weights()), Layer("a", weights())])
    odd = config() | {"activation": np.tanh}
    with pytest.raises(InteropError, match="cannot be written as JSON"):
        safetensors_file.write(path, [Layer("a", weights(), odd)])
    assert not path.exists()


def test_without_safetensors(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for call in (safetensors_file.read, lambda path: safetensors_file.write(path, layers())):
        with pytest.raises(InteropError, match=r"pip install 'flax-sepconv\[interop\]'"):
            call(file)


def test_a_header_larger_than_the_file(tmp_path):
    path = tmp_path / "large.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(InteropError, match=f"header would have {2**60} bytes, the file has 10"):
        safetensors_file.read(path)


def test_weights_become_params_that_run(file):
    params = to_params(safetensors_file.read(file))
    module = fsc.SeparableConv1D.from_keras_config(safetensors_file.read(file)[0].config)
    x = np.random.default_rng(3).standard_normal((2, 11, C)).astype("float32")
    expected = fsc.SeparableConv1D(
        F, K, strides=2, padding="causal", depth_multiplier=M, activation="gelu"
    ).apply({"params": weights()}, x)
    np.testing.assert_array_equal(module.apply({"params": params["z"]["last"]}, x), expected)


def test_every_prefix_is_refused(tmp_path):
    path = tmp_path / "small.safetensors"
    safetensors_file.write(path, [Layer("a", weights("float16"))])
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InteropError):
            safetensors_file.read(path)


@hypothesis.settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(data=st.data())
def test_damaged_files_are_read_or_refused(tmp_path, data):
    path = tmp_path / "damaged.safetensors"
    safetensors_file.write(path, layers())
    content = bytearray(path.read_bytes())
    end = data.draw(st.sampled_from([8, 8 + int.from_bytes(content[:8], "little"), len(content)]))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    a, b, c = (data.draw(st.integers(0, len(content))) for _ in range(3))
    if data.draw(st.booleans()):
        content = content[:a] + content[b:c] + content[a:]
    path.write_bytes(content)
    for reads in (safetensors_file.read, safetensors_file.is_neutral):
        try:
            reads(path)
        except InteropError:
            hypothesis.event("refused")


KEYS = ("class_name", "config", "module", "registered_name", "name", "alpha", "seed", "axis", "l1")
NAMES = ("relu", "L2", "MaxNorm", "Zeros", "VarianceScaling", "DTypePolicy", "float32", "same")
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from((*NAMES, *KEYS))
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@hypothesis.settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(data=st.data())
def test_odd_configs_are_read_or_refused(tmp_path, data):
    path = tmp_path / "odd.safetensors"
    if not path.exists():
        safetensors_file.write(path, [Layer("a", weights(), config())])
    name = data.draw(st.sampled_from([*config(), "groups", "class_name", "autocast", "unknown"]))
    odd = config() | {name: data.draw(JSON)}
    text = json.dumps({"version": 1, "layers": {"a": odd}})
    tensors = {f"a/{key}": weight for key, weight in weights().items()}
    try:
        safetensors_file.read(rewritten(path, tensors, flax_sepconv=text))
    except InteropError:
        hypothesis.event("refused")
