"""Damaged, hostile and merely unusual files of Keras end in InteropError, or are read."""

import functools
import io
import json
import os
import pathlib
import random
import struct
import types
import zipfile
from collections.abc import Callable
from typing import Any

import h5py
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from flax_sepconv.interop import InteropError, Layer, keras2, keras3
from tests import settings

SHAPES = {"depthwise_kernel": (3, 4, 2), "pointwise_kernel": (1, 8, 5), "bias": (5,)}
CONFIG = {"name": "a", "filters": 5, "kernel_size": [3], "depth_multiplier": 2}
MODEL = {
    "class_name": "Sequential",
    "config": {"name": "m", "layers": [{"class_name": "SeparableConv1D", "config": CONFIG}]},
}


def weights(dtype: Any = "float32") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}


def in_memory(fill: Callable[[Any], None], **options: Any) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w", **options) as file:
        fill(file)
    return stream.getvalue()


def keras_2(file: Any) -> None:
    group = file.create_group("model_weights/a/a")
    for name, weight in weights().items():
        group[f"{name}:0"] = weight
    file["model_weights"].attrs["layer_names"] = [b"a"]
    file.attrs["model_config"] = json.dumps(MODEL)


def keras_3(file: Any) -> None:
    group = file.create_group("layers/separable_conv1d/vars")
    group.attrs["name"] = "a"
    for number, weight in enumerate(weights().values()):
        group[str(number)] = weight


def archive(h5: bytes, config: bytes | None = None, packed: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packed) as file:
        file.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        file.writestr("config.json", json.dumps(MODEL) if config is None else config)
        file.writestr("model.weights.h5", h5)
    return stream.getvalue()


READERS: dict[str, types.ModuleType] = {"m.h5": keras2, "m.weights.h5": keras3, "m.keras": keras3}
EVERY = pytest.mark.parametrize("name", READERS)


@functools.cache
def sound(name: str) -> bytes:
    if name == "m.h5":
        return in_memory(keras_2)
    content = in_memory(keras_3)
    return archive(content) if name == "m.keras" else content


def read(folder: pathlib.Path, name: str, content: bytes) -> list[Layer]:
    path = folder / name
    path.write_bytes(content)
    return READERS[name].read(path)


def assert_sound(layers: list[Layer], name: str) -> None:
    (layer,) = layers
    assert layer.path == "a"
    assert (layer.config is None) == (name == "m.weights.h5")
    for weight, expected in zip(keras3.keras_weights(layer), weights().values(), strict=True):
        np.testing.assert_array_equal(weight, expected)


@EVERY
def test_every_prefix(name, tmp_path):
    content = sound(name)
    assert_sound(read(tmp_path, name, content), name)
    # Beyond its signature, each prefix of an HDF5 file costs a process.
    step = 1 if name == "m.keras" else 1800
    for end in (*range(len(content) - 1, 8, -step), *range(8, -1, -1)):
        os.truncate(tmp_path / name, end)
        with pytest.raises(InteropError, match="or a damaged one"):
            READERS[name].read(tmp_path / name)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Change some bytes, most of them where there are some: the files are full of zeros."""
    changed = bytearray(content)
    full = [place for place, byte in enumerate(content) if byte]
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.choice(full) if rng.random() < 0.7 else rng.randrange(len(content))
        width = rng.choice((1, 1, 2, 4, 8, 64))
        if rng.random() < 0.25:
            start = rng.randrange(len(content))
            new = content[start : start + width]
        else:
            new = bytes([rng.choice((0, 1, 127, 255, rng.randrange(256)))]) * width
        changed[place : place + width] = new
    return bytes(changed[: rng.randrange(len(changed))] if rng.random() < 0.05 else changed)


def check_damaged(folder: pathlib.Path, name: str, content: bytes) -> None:
    try:
        layers = read(folder, name, content)
    except InteropError:
        return
    assert all(isinstance(layer, Layer) for layer in layers)


@EVERY
def test_damaged_files(name, tmp_path):
    for seed in range(100 if name == "m.keras" else 16):
        check_damaged(tmp_path, name, damaged(sound(name), random.Random(seed)))


@settings.examples(20)
@hypothesis.given(seed=st.integers(0, 2**64 - 1))
def test_damaged_parts_of_a_sound_archive(tmp_path_factory, seed):
    rng = random.Random(seed)
    h5, config = in_memory(keras_3), json.dumps(MODEL).encode()
    parts = (h5, damaged(config, rng)) if rng.random() < 0.5 else (damaged(h5, rng), config)
    folder = tmp_path_factory.getbasetemp()
    check_damaged(folder, "m.keras", archive(*parts, packed=rng.choice((0, 8))))


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110", "latest"])
@EVERY
def test_every_version_of_the_format(name, libver, tmp_path):
    fill = keras_2 if name == "m.h5" else keras_3
    content = in_memory(fill, libver=libver)
    assert_sound(read(tmp_path, name, archive(content) if name == "m.keras" else content), name)


def test_packed_archives(tmp_path):
    content = archive(in_memory(keras_3), packed=zipfile.ZIP_DEFLATED)
    assert_sound(read(tmp_path, "m.keras", content), "m.keras")
    content = archive(in_memory(keras_3), packed=zipfile.ZIP_LZMA)
    with pytest.raises(InteropError, match=r"config.json is packed in a way"):
        read(tmp_path, "m.keras", content)


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"])
def test_number_formats(dtype, tmp_path):
    def fill(file: Any) -> None:
        for number, weight in enumerate(weights(dtype).values()):
            file[f"layers/separable_conv1d/vars/{number}"] = weight

    (layer,) = read(tmp_path, "m.weights.h5", in_memory(fill))
    assert layer.dtype == np.dtype(dtype).newbyteorder("=")
    for weight, expected in zip(keras3.keras_weights(layer), weights(dtype).values(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_many_children_and_long_names(tmp_path):
    """Enough of them for trees of more than one level."""

    def fill(file: Any) -> None:
        for number in range(700):
            file.create_group(f"layers/{'long' * 20}_{number}/vars").attrs["name"] = f"n{number}"
        keras_3(file)

    assert_sound(read(tmp_path, "m.weights.h5", in_memory(fill)), "m.weights.h5")


VARIABLE = "layers/separable_conv1d/vars/0"


def replaced(make: Callable[[Any], None]) -> bytes:
    """Return weights in which the depthwise kernel is something else."""

    def fill(file: Any) -> None:
        keras_3(file)
        del file[VARIABLE]
        make(file)

    return in_memory(fill)


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout(SHAPES["depthwise_kernel"], "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", SHAPES["depthwise_kernel"])
    file.create_virtual_dataset(VARIABLE, layout)


def outside(file: Any) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_external(b"/etc/hostname", 0, 96)
    space = h5py.h5s.create_simple(SHAPES["depthwise_kernel"])
    h5py.h5d.create(file.id, VARIABLE.encode(), h5py.h5t.IEEE_F32LE, space, properties)


def unwritten(shape: tuple[int, ...]) -> Callable[[Any], None]:
    return lambda file: file.create_dataset(VARIABLE, shape, "f4")


def stored(value: Any, **options: Any) -> Callable[[Any], None]:
    return lambda file: file.create_dataset(VARIABLE, data=value, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: file.__setitem__(VARIABLE, h5py.SoftLink("/x")), "'0' in it leads elsewhere"),
        (
            lambda file: file.__setitem__(VARIABLE, h5py.ExternalLink("other.h5", "/x")),
            "vars cannot be read: '0' in it leads elsewhere",
        ),
        (lambda file: file.create_group(VARIABLE), "it is no array"),
        (outside, "in another file"),
        (virtual, "in another file"),
        (unwritten(SHAPES["depthwise_kernel"]), "never been written"),
        (unwritten((2**20, 2**20, 2**10)), "it claims 4503599627370496 bytes; of "),
        (stored(np.ones((3, 4, 2), "i4")), "floating-point numbers, got datatype class 0"),
        (stored(np.ones((3, 4, 2), np.longdouble)), "of an unknown kind"),
        (stored(h5py.Empty("f4")), "never been written|no values"),
        (stored("text"), "floating-point numbers, got datatype class 3"),
        (stored(np.ones((3, 5, 2), "f4")), r"axis 1 \(C\*M\) of pointwise_kernel must be 5\*2"),
        (stored(np.ones((3, 4, 2), "f8")), "one dtype"),
        (stored(np.ones((3, 0, 2), "f4")), "never been written|must be|itemsize"),
    ],
)
def test_what_is_no_kernel(make, message, tmp_path):
    with pytest.raises(InteropError, match=message):
        read(tmp_path, "m.weights.h5", replaced(make))


def test_compact_arrays(tmp_path):
    def compact(file: Any) -> None:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple(SHAPES["depthwise_kernel"])
        h5py.h5d.create(file.id, VARIABLE.encode(), h5py.h5t.IEEE_F32LE, space, properties)
        file[VARIABLE][:] = weights()["depthwise_kernel"]

    assert_sound(read(tmp_path, "m.weights.h5", replaced(compact)), "m.weights.h5")


def test_circles_of_groups(tmp_path):
    def fill(file: Any) -> None:
        keras_3(file)
        file["layers/again"] = file["layers"]
        file["layers/separable_conv1d/top"] = file["/"]

    assert_sound(read(tmp_path, "m.weights.h5", in_memory(fill)), "m.weights.h5")


def test_deep_groups(tmp_path):
    content = in_memory(lambda file: file.create_group("/".join("x" * 200)))
    with pytest.raises(InteropError, match="more than 100 deep"):
        read(tmp_path, "m.weights.h5", content)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (b"[" * 100_000, "its config cannot be read"),
        (b'{"class_name": "A", "config": {"layer": ' * 400 + b"1" + b"}}" * 400, "50 deep"),
        (b"7", "not that of a Keras model"),
        (b"\xff", "its config cannot be read"),
        (b"1" * 5000, "its config cannot be read"),
    ],
)
def test_configs_that_are_none(config, message, tmp_path):
    with pytest.raises(InteropError, match=message):
        read(tmp_path, "m.keras", archive(in_memory(keras_3), config))


@pytest.mark.parametrize("member", ["metadata.json", "config.json", "model.weights.h5"])
def test_archives_without_a_part(member, tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(sound("m.keras"))) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            if name != member:
                new.writestr(name, old.read(name))
    with pytest.raises(InteropError, match=f"no .keras archive.*{member}"):
        read(tmp_path, "m.keras", stream.getvalue())


@pytest.mark.parametrize("metadata", ["{}", "[]", '{"keras_version": 3}', '{"keras_version": "x"}'])
def test_archives_without_a_version(metadata, tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("metadata.json", metadata)
        file.writestr("config.json", json.dumps(MODEL))
        file.writestr("model.weights.h5", in_memory(keras_3))
    with pytest.raises(InteropError, match="does not tell Keras' version"):
        read(tmp_path, "m.keras", stream.getvalue())


def test_size_bombs(tmp_path):
    """A megabyte of zeros in a kilobyte; and a size that is a lie."""
    content = archive(bytes(2**24), packed=zipfile.ZIP_DEFLATED)
    with pytest.raises(InteropError, match=r"model.weights.h5 claims 16777216 bytes"):
        read(tmp_path, "m.keras", content)
    lie = bytearray(sound("m.keras"))
    entry = lie.rfind(b"PK\x01\x02")
    struct.pack_into("<I", lie, entry + 24, 2**32 - 2)
    with pytest.raises(InteropError, match=r"model.weights.h5 claims 4294967294 bytes"):
        read(tmp_path, "m.keras", bytes(lie))


@EVERY
def test_empty_and_foreign_files(name, tmp_path):
    for content in (b"", b"x", b"text " * 1000, b"PK\x03\x04" + bytes(100), bytes(2000)):
        with pytest.raises(InteropError, match="damaged"):
            read(tmp_path, name, content)
