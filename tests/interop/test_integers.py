"""Weights of 8 bits in files: integers with their scales beside them, or nothing."""

import dataclasses

import numpy as np
import pytest

from flax_sepconv import interop
from flax_sepconv.__main__ import main
from flax_sepconv.interop import InteropError, Layer

pytest.importorskip("safetensors")

K, C, M, F = 4, 3, 2, 5


def layer(path="block/conv", pointwise=True, **changes):
    rng = np.random.default_rng(0)
    weights = {"depthwise_kernel": rng.integers(-127, 128, (K, C, M), np.int8)}
    scales = {
        "depthwise_scale": rng.uniform(0.01, 0.02, (C, M)).astype("f"),
        "x_scale": np.float32(0.5),
        "x_zero_point": np.int32(-3),
    }
    config = {"kernel_size": K, "depth_multiplier": M, "padding": "same"}
    if pointwise:
        weights["pointwise_kernel"] = rng.integers(-127, 128, (1, C * M, F), np.int8)
        scales["pointwise_scale"] = rng.uniform(0.01, 0.02, F).astype("f")
        scales |= {"hidden_scale": np.float32(0.25), "hidden_zero_point": np.int32(7)}
        config["filters"] = F
    weights["bias"] = rng.integers(-500, 500, F if pointwise else C * M, np.int32)
    given = {"weights": weights, "config": config, "scales": scales} | changes
    return Layer(path, given["weights"], given["config"], given["scales"])


def assert_same(found, expected):
    assert found.path == expected.path
    for name in ("weights", "scales"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.keys() == theirs.keys()
        for key, array in ours.items():
            np.testing.assert_array_equal(array, theirs[key])
            assert array.dtype == theirs[key].dtype


@pytest.mark.parametrize("pointwise", [True, False])
def test_what_is_written_is_read(tmp_path, pointwise):
    path = tmp_path / "weights.safetensors"
    written = [layer(pointwise=pointwise), layer("", pointwise=pointwise)]
    interop.save(path, written)
    for found, expected in zip(interop.load(path), written, strict=True):
        assert_same(found, expected)
        assert found.config == expected.config


def test_anyone_reads_what_is_written(tmp_path):
    from safetensors.numpy import load_file

    path = tmp_path / "weights.safetensors"
    interop.save(path, [layer()])
    tensors = load_file(path)
    assert tensors["block/conv/pointwise_kernel"].dtype == np.int8
    assert tensors["block/conv/pointwise_scale"].shape == (F,)
    assert tensors["block/conv/hidden_zero_point"] == 7


def test_trees_of_params_and_scales():
    params, scales = interop.to_params([layer()]), interop.to_quantization([layer()])
    assert params["block"]["conv"]["bias"].dtype == np.int32
    (found,) = interop.from_params(params, {"block/conv": layer().config}, scales)
    assert_same(found, layer())
    with pytest.raises(InteropError, match="of int8, and their scales are missing"):
        interop.from_params(params)
    real = layer().dequantized()
    assert interop.to_quantization([real]) == {}


@pytest.mark.parametrize("pointwise", [True, False])
def test_integers_stand_for_real_weights(pointwise):
    own = layer(pointwise=pointwise)
    real = own.dequantized()
    assert real.scales is None
    steps = own.scales["depthwise_scale"]
    np.testing.assert_array_equal(
        real.weights["depthwise_kernel"], own.weights["depthwise_kernel"] * steps
    )
    by = own.scales["pointwise_scale"] * np.float32(0.25) if pointwise else steps.ravel() / 2
    np.testing.assert_array_equal(real.weights["bias"], own.weights["bias"].astype("f") * by)
    assert real.dequantized() is real


def test_one_scale_a_tensor(tmp_path):
    scales = {name: np.float32(0.5) for name in ("depthwise_scale", "pointwise_scale")}
    weights = {**layer().weights, "bias": np.ones(F, "f")}
    own = layer(weights=weights, scales=scales)
    interop.save(tmp_path / "a.safetensors", [own])
    assert_same(interop.load(tmp_path / "a.safetensors")[0], own)
    np.testing.assert_array_equal(own.dequantized().weights["bias"], 1)


def test_trees_of_some_layers_take_the_names_of_all():
    real = dataclasses.replace(layer("b").dequantized(), path="b")
    names = {"a": "m/a", "b": "m/b"}
    both = [layer("a"), real]
    assert list(interop.to_params(both, names)["m"]) == ["a", "b"]
    assert list(interop.to_quantization(both, names)["m"]) == ["a"]
    with pytest.raises(InteropError, match="names has 'c', which is no layer"):
        interop.to_quantization(both, {"c": "m"})


def without(name):
    return {key: value for key, value in layer().scales.items() if key != name}


WRONG = {
    "no scales": ({"scales": None}, "its weights are of int8, and their scales are missing"),
    "one too few": (
        {"scales": without("pointwise_scale")}, "pointwise_scale and pointwise_kernel of int8 must"
    ),
    "another axis": (
        {"scales": layer().scales | {"depthwise_scale": np.ones((M, C), "f")}},
        r"depthwise_scale must be a single number, or \(C, M\), \(3, 2\), got shape \(2, 3\)"
    ),
    "NaN": (
        {"scales": layer().scales | {"x_scale": np.float32("nan")}}, "x_scale must be positive and"
    ),
    "zero": (
        {"scales": layer().scales | {"pointwise_scale": np.zeros(F, "f")}},
        "pointwise_scale must be positive and finite"
    ),
    "far zero point": (
        {"scales": layer().scales | {"x_zero_point": np.int32(300)}}, "from -128 to 127, got 300"
    ),
    "no scale": ({"scales": without("hidden_scale")}, "hidden_zero_point needs a scale"),
    "wide": (
        {"scales": layer().scales | {"x_scale": np.float64(1)}}, "x_scale must be .*float32, got"
    ),
    "real": (
        {"weights": {name: w.astype("f") for name, w in layer().weights.items()}},
        "depthwise_kernel must be of int8 where scales are given"
    ),
    "unknown": ({"scales": layer().scales | {"y": np.float32(1)}}, "y is no scale; they are"),
    "bias": (
        {"weights": {**layer().weights, "bias": np.ones(F, np.int8)}}, "bias must be of int32 or"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_belong_together(case):
    changes, message = WRONG[case]
    with pytest.raises(InteropError, match=message):
        layer(**changes)


def test_other_formats_have_no_place_for_scales(tmp_path, capsys):
    source = tmp_path / "a.safetensors"
    interop.save(source, [layer()])
    for name in ("b.pt", "b.weights.h5"):
        with pytest.raises(InteropError, match="weights of 8 bits, for whose scales"):
            interop.save(tmp_path / name, [layer()])
    assert main(["convert", str(source), str(tmp_path / "b.pt")]) == 2
    assert "(--dequantize)" in capsys.readouterr().err
    real = tmp_path / "real.safetensors"
    assert main(["convert", str(source), str(real), "--dequantize", "--check"]) == 0
    (found,) = interop.load(real)
    assert found.dtype == np.float32
    bare = dataclasses.replace(layer(), scales=without("x_zero_point"))
    assert bare.dequantized().weights.keys() == layer().weights.keys()


def test_inspect_shows_bits(tmp_path, capsys):
    source = tmp_path / "a.safetensors"
    interop.save(source, [layer()])
    assert main(["inspect", str(source)]) == 0
    out = capsys.readouterr().out
    heading, row = out.splitlines()[1:3]
    assert row[: heading.index("bits") + 4].split()[-2:] == ["int8", "8"]
    assert "depthwise_scale (3, 2), pointwise_scale (5,), x_scale 0.5 from -3" in out
