"""HDF5 in all its forms, read by h5py in a process of its own, which ends with a damaged file."""

import io
import json
import os
import pathlib
import random
import signal
import struct
import subprocess
import sys
import zlib

import h5py
import numpy as np
import pytest

from flax_sepconv import interop
from flax_sepconv.interop import InteropError, hdf5, keras3
from tests.interop.test_keras_files import damaged

SHAPES = {"0": (7, 40, 2), "1": (1, 80, 5), "2": (5,)}
PLACE = "layers/separable_conv1d/vars"
RNG = np.random.default_rng(0)
WEIGHTS = {name: RNG.standard_normal(shape).astype("float32") for name, shape in SHAPES.items()}


def filtered(**options):
    return lambda group, name, value: group.create_dataset(name, data=value, **options)


def compact(group, name, value):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple(value.shape)
    kind = h5py.h5t.IEEE_F32LE
    h5py.h5d.create(group.id, name.encode(), kind, space, properties).write(
        h5py.h5s.ALL, h5py.h5s.ALL, value
    )


def in_pieces(group, name, value):
    """Write what grows, whose chunks do not divide it."""
    dataset = group.create_dataset(name, (0,) * value.ndim, "f4", maxshape=(None,) * value.ndim)
    dataset.resize(value.shape)
    dataset[...] = value


def linked(group, name, value):
    """Keep the numbers elsewhere in the file, under a second name."""
    group.file.require_group("elsewhere")[name] = value
    group[name] = group.file["elsewhere"][name]


CONTIGUOUS = filtered()
FILTERS = {
    "contiguous": CONTIGUOUS,
    "chunked": filtered(chunks=True),
    "gzip": filtered(compression="gzip", compression_opts=9),
    "lzf": filtered(compression="lzf"),
    "shuffle": filtered(shuffle=True, compression="gzip"),
    "fletcher32": filtered(fletcher32=True),
    "all": filtered(shuffle=True, compression="lzf", fletcher32=True),
    "scaleoffset": filtered(scaleoffset=4),
    "big-endian": filtered(dtype=">f4", compression="gzip"),
    "compact": compact,
    "growing": in_pieces,
    "linked": linked,
}
FILES = {
    "old": {},
    "latest": {"libver": "latest"},
    "block": {"userblock_size": 1024},
    "pages": {"fs_strategy": "page", "fs_page_size": 4096},
    "tracked": {"libver": "v110", "track_order": True},
}


def written(path, make=CONTIGUOUS, **options):
    with h5py.File(path, "w", **options) as file:
        group = file.create_group(PLACE)
        group.attrs["name"] = "a"
        for name, value in WEIGHTS.items():
            make(group, name, value)
    return path


def assert_read(path, tolerance=0.0):
    (layer,) = interop.load(path)
    assert layer.path == "a"
    for weight, wanted in zip(keras3.keras_weights(layer), WEIGHTS.values(), strict=True):
        assert weight.dtype == np.float32
        np.testing.assert_allclose(weight, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("stored", "file"),
    [(name, "old") for name in FILTERS] + [(name, "latest") for name in ("gzip", "growing")]
    + [("gzip", file) for file in FILES if file not in ("old", "latest")],
)  # fmt: skip
def test_every_way_to_store_numbers(stored, file, tmp_path):
    tolerance = 1e-4 if stored == "scaleoffset" else 0.0
    assert_read(written(tmp_path / "m.weights.h5", FILTERS[stored], **FILES[file]), tolerance)


def test_groups_and_attributes_that_are_kept_elsewhere(tmp_path):
    """Many links and large attributes have trees of their own in the newer format."""
    path = tmp_path / "m.h5"
    layers = [f"conv_{number}" for number in range(40)]
    with h5py.File(path, "w", libver="latest", track_order=True) as file:
        file.attrs["layer_names"] = layers
        for number in range(40):
            file.attrs[f"more_{number}"] = "text " * 300
        for name in layers:
            for weight, value in zip(keras3.ORDER, WEIGHTS.values(), strict=True):
                file[f"{name}/{name}/{weight}:0"] = value
    assert [layer.path for layer in interop.load(path)] == layers


# Damage


def looping() -> bytes:
    """Return a file with a heap in which an empty stretch is said to have no bytes."""
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.attrs["layer_names"] = ["conv"]
    content = bytearray(stream.getvalue())
    place = content.index(b"GCOL") + 16
    (size,) = struct.unpack_from("<Q", content, place + 8)
    place += 16 + -(-size // 8) * 8
    assert struct.unpack_from("<H", content, place) == (0,)
    struct.pack_into("<Q", content, place + 8, 0)
    return bytes(content)


def test_a_file_that_h5py_never_finishes(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "_SECONDS", 1)
    (tmp_path / "m.h5").write_bytes(looping())
    with pytest.raises(InteropError, match=r"m\.h5 .*damaged one: .* more time .* ended with -"):
        interop.load(tmp_path / "m.h5")


def test_a_small_file_that_unpacks_to_much(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "_ROOM", 2**24)

    def bomb(group, name, value):
        side = 2**26  # of float32: 256 MiB, all of which is unpacked for the first numbers
        dataset = group.create_dataset(
            name, (7,), "f4", maxshape=(None,), chunks=(side,), compression="gzip"
        )
        dataset.id.write_direct_chunk((0,), zlib.compress(bytes(4 * side), 1))

    path = written(tmp_path / "m.weights.h5", bomb)
    assert path.stat().st_size < 2**23
    with pytest.raises(InteropError, match=f"{PLACE}/0 cannot be read"):
        interop.load(path)
    written(path, filtered(chunks=True, compression="gzip"))
    with hdf5.opened(path, path) as store:
        store._left = 3000
        store.array(f"{PLACE}/0")
        with pytest.raises(InteropError, match=r"it claims 1600 bytes; of .* 760 are left"):
            store.array(f"{PLACE}/1")


def test_a_process_that_stands_still(tmp_path, monkeypatch):
    path = written(tmp_path / "m.weights.h5")
    monkeypatch.setattr(hdf5, "_SECONDS", 1)
    monkeypatch.setattr(hdf5, "_PATIENCE", -3)
    with hdf5.opened(path, path) as store:
        os.kill(store._child._process.pid, signal.SIGSTOP)
        with pytest.raises(InteropError, match="ended with -9"):
            store.array(f"{PLACE}/0")


def test_damaged_forms(tmp_path):
    """Each is read or refused; a checksum tells damage, where the file has one."""
    path = tmp_path / "m.weights.h5"
    for options in ({}, {"libver": "latest"}):
        content = written(path, FILTERS["all"], **options).read_bytes()
        for seed in range(8):
            path.write_bytes(damaged(content, random.Random(seed)))
            try:
                layers = interop.load(path)
            except InteropError:
                continue
            assert all(isinstance(layer, interop.Layer) for layer in layers)


# What is in other files, or nowhere


def test_numbers_in_other_files(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4 * 7 * 40 * 2))

    def external(group, name, value):
        group.create_dataset(name, value.shape, "f4", external=[(str(secret), 0, value.nbytes)])

    def virtual(group, name, value):
        layout = h5py.VirtualLayout(value.shape, "f4")
        layout[:] = h5py.VirtualSource(str(secret), "x", value.shape)
        group.create_virtual_dataset(name, layout)

    def outside(group, name, value):
        group[name] = h5py.ExternalLink(str(secret), "x")

    def unwritten(group, name, value):
        dataset = group.create_dataset(name, value.shape, "f4", chunks=(1,) * value.ndim)
        dataset[(0,) * value.ndim] = 1

    for make, message in (
        (external, "in another file, which is not read"),
        (virtual, "in another file, which is not read"),
        (outside, "leads elsewhere, which is not followed"),
        (unwritten, "never been written, or not all of them"),
    ):
        with pytest.raises(InteropError, match=message):
            interop.load(written(tmp_path / "m.weights.h5", make))


# The process


def test_only_h5py_is_imported_there(tmp_path):
    """Neither JAX, which takes seconds, nor a module beside the script or in the working folder."""
    for name in ("json", "numpy", "h5py"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(3)")
    path = written(tmp_path / "m.weights.h5")
    order = {"path": sys.path, "file": str(path), "size": 0, "memory": 2**30, "seconds": 9}
    program = pathlib.Path(hdf5.__file__).with_name("hdf5_child.py")
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "importtime", program],
        input=json.dumps(order).encode() + b"\n",
        capture_output=True,
        cwd=tmp_path,
        check=True,
    )
    assert "nodes" in json.loads(ran.stdout)
    imported = {line.split(b"|")[-1].strip() for line in ran.stderr.splitlines()}
    assert b"h5py" in imported
    assert not imported & {b"jax", b"flax", b"flax_sepconv"}


def test_without_h5py(tmp_path, monkeypatch):
    path = written(tmp_path / "m.weights.h5")
    for program, message in (("/nowhere", "cannot be started"), ("/bin/false", "ended with 1")):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", program)
            with pytest.raises(InteropError, match=message):
                interop.load(path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InteropError, match=r"HDF5 needs h5py: pip install 'flax-sepconv\[interop"):
        interop.load(path)
