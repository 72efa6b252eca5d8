"""`python -m flax_sepconv`, and the table of formats behind it."""

import pathlib
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest

import flax_sepconv as fsc
from flax_sepconv import interop
from flax_sepconv.interop import checking, formats, pytorch, tf_table
from flax_sepconv.interop.command import main
from tests import peers

X = np.random.default_rng(0).standard_normal((2, 21, 3)).astype("float32")


def layer(path="block/conv", K=4, C=3, M=2, F=5, **config):
    rng = np.random.default_rng(1)
    features = C * M if F is None else F
    shapes = {"depthwise_kernel": (K, C, M), "pointwise_kernel": (1, C * M, F), "bias": (features,)}
    if F is None:
        del shapes["pointwise_kernel"]
    weights = {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}
    arguments = {"filters": F, "kernel_size": K, "depth_multiplier": M, **config}
    if F is None:
        del arguments["filters"]
    return interop.Layer(path, weights, arguments if config else None)


def run(*argv, capsys):
    """Return the exit status and what was printed and told."""
    status = main(list(map(str, argv)))
    printed = capsys.readouterr()
    return status, printed.out, printed.err


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    interop.save(path, [layer(padding="causal", dilation_rate=2), layer("second", K=3)])
    return path


@pytest.fixture
def with_depthwise(weights, tmp_path):
    """A file in which a DepthwiseConv1D stands between others."""
    path = tmp_path / "mixed.safetensors"
    first, second = interop.load(weights)
    alone = layer("alone", F=None, padding="causal", strides=2, activation="relu")
    interop.save(path, [first, alone, second])
    return path


@pytest.fixture
def keras_file(tmp_path):
    keras = peers.keras()
    model = keras.Sequential(
        [
            keras.layers.SeparableConv1D(6, 5, padding="same", activation="relu", name="first"),
            keras.layers.SeparableConv1D(4, 3, strides=2, depth_multiplier=2, name="second"),
        ]
    )
    model.build(X.shape)
    model.layers[1].bias.assign(np.arange(4.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras' own, about NumPy
        model.save(tmp_path / "model.keras")
    return tmp_path / "model.keras", np.asarray(model(X))


def test_convert_from_keras_and_check(keras_file, tmp_path, capsys):
    source, theirs = keras_file
    dest = tmp_path / "weights.safetensors"
    status, out, err = run("convert", source, dest, "--check", capsys=capsys)
    assert (status, err) == (0, "")
    assert out.splitlines()[0].startswith("2 layers, 127 parameters: ")
    assert out.splitlines()[-1] == "all within 1e-05: good"
    y = X
    for found in interop.load(dest):
        module = fsc.SeparableConv1D.from_keras_config(found.config)
        y = module.apply({"params": dict(found.weights)}, y)
    np.testing.assert_allclose(y, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["copy.pt", "copy.weights.h5", "copy.safetensors"])
def test_every_format_that_is_written_is_read_and_checked(name, with_depthwise, tmp_path, capsys):
    if name == "copy.pt":
        peers.torch()
    if name == "copy.weights.h5":
        peers.keras()
    dest = tmp_path / name
    status, out, err = run("convert", with_depthwise, dest, "--check", capsys=capsys)
    assert (status, err) == (0, ""), out
    assert interop.format_of(dest) == next(
        form for form in formats.WRITABLE if name.endswith(formats.FORMATS[form].endings)
    )
    found, wanted = (
        {each.path: each.weights for each in interop.load(path)} for path in (dest, with_depthwise)
    )
    assert found.keys() == wanted.keys() == {"block/conv", "alone", "second"}
    for path, own in wanted.items():
        assert found[path].keys() == own.keys()
        for key, weight in own.items():
            np.testing.assert_array_equal(found[path][key], weight)


def test_to_says_more_than_the_ending(weights, tmp_path, capsys):
    dest = tmp_path / "state.safetensors"
    status, _, _ = run("convert", weights, dest, "--to", "torch", capsys=capsys)
    assert (status, interop.format_of(dest)) == (0, "torch")
    assert run("inspect", dest, capsys=capsys)[0] == 0
    again = tmp_path / "again.safetensors"
    pair = "a/b=block.conv.depthwise,block.conv.pointwise,2"
    assert run("convert", dest, again, "--pair", pair, capsys=capsys)[0] == 0
    (found,) = interop.load(again)
    assert found.path == "a/b"
    np.testing.assert_array_equal(
        found.weights["depthwise_kernel"], layer().weights["depthwise_kernel"]
    )


def test_check_finds_a_difference(weights, tmp_path):
    source = checking.Side(weights, "safetensors")
    first, second = interop.load(weights)
    wrong = {**second.weights, "bias": second.weights["bias"] + 0.01}
    interop.save(tmp_path / "wrong.safetensors", [first, interop.Layer("second", wrong)])
    dest = checking.Side(tmp_path / "wrong.safetensors", "safetensors")
    found = checking.differences(source, dest)
    assert found["block/conv"] == 0
    assert found["second"] > 100 * checking.TOLERANCE


def test_check_reads_torch_by_torch(weights, tmp_path, monkeypatch):
    """What our reader makes of a file does not enter the other side's output."""
    torch = peers.torch()
    dest = tmp_path / "copy.pt"
    interop.save(dest, interop.load(weights))
    state = torch.load(dest, weights_only=True)
    state["second.depthwise.weight"] *= 2
    torch.save(state, dest)
    monkeypatch.setattr(pytorch, "read", lambda path: interop.load(weights))
    sides = checking.Side(weights, "safetensors"), checking.Side(dest, "torch")
    found = checking.differences(*sides)
    assert found["block/conv"] < checking.TOLERANCE < 1e-2 < found["second"]


def test_check_fails_on_numbers_that_are_none(tmp_path, capsys):
    first, second = layer("first"), layer("second")
    second.weights["bias"][0] = np.nan
    interop.save(tmp_path / "nan.safetensors", [first, second])
    argv = "convert", tmp_path / "nan.safetensors", tmp_path / "copy.safetensors", "--check"
    status, out, _ = run(*argv, capsys=capsys)
    assert (status, out.splitlines()[-1]) == (1, "all within 1e-05: BAD")


def test_interrupted_after_it_was_written(weights, tmp_path, monkeypatch, capsys):
    def differences(*sides):
        raise KeyboardInterrupt

    monkeypatch.setattr(checking, "differences", differences)
    dest = tmp_path / "copy.safetensors"
    status, _, err = run("convert", weights, dest, "--check", capsys=capsys)
    assert (status, err) == (130, f"interrupted: {dest} is written\n")


def test_nothing_in_a_checked_model_runs(tmp_path, capsys):
    """Keras 2 would run the Lambda of a `.h5` file when it loads the model."""
    keras = peers.tf_keras()
    ran = tmp_path / "ran"
    conv = keras.layers.SeparableConv1D(4, 3, trainable=False, name="block/conv")
    model = keras.Sequential([keras.Input((9, 3)), conv])
    place = str(ran)
    touch = lambda x: (open(place, "w").close(), x)[1]  # noqa: E731
    model.add(keras.layers.Lambda(touch))
    ran.unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the format is old
        model.save(tmp_path / "model.h5")
    argv = "convert", tmp_path / "model.h5", tmp_path / "copy.safetensors", "--check"
    status, out, err = run(*argv, capsys=capsys)
    assert (status, err) == (0, ""), out
    assert "block/conv: outputs differ by at most" in out
    assert not ran.exists()


def test_weights_of_a_layer_that_cannot_be_had(tmp_path, capsys):
    keras = peers.keras()
    own = keras.saving.register_keras_serializable("mine")(lambda x: x)
    model = keras.Sequential([keras.layers.SeparableConv1D(4, 3, activation=own, name="conv")])
    model.build((2, 9, 3))
    path, dest = tmp_path / "model.keras", tmp_path / "copy.safetensors"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras' own, about NumPy
        model.save(path)
    status, _, err = run("convert", path, dest, capsys=capsys)
    assert status == 2
    assert "activation" in err
    assert "--weights-only" in err
    assert run("convert", path, dest, "--weights-only", capsys=capsys)[0] == 0
    (found,) = interop.load(dest)
    assert found.config is None
    assert found.weights["depthwise_kernel"].shape == (3, 3, 1)


def test_what_a_state_dict_cannot_say_is_told(weights, tmp_path, capsys):
    peers.torch()
    _, out, _ = run("convert", weights, tmp_path / "copy.pt", capsys=capsys)
    assert "  weights for Conv1d(3, 6, 4, groups=3, bias=False, dilation=2) on an input " in out
    assert "padded by 6 zeros on the left" in out
    assert "second: strides, padding and activation are not in" in out


def test_order_is_told_where_it_counts(weights, tmp_path, capsys):
    _, out, _ = run("convert", weights, tmp_path / "copy.weights.h5", capsys=capsys)
    assert out.splitlines()[-1] == "the order, which counts: block/conv, second"


def test_what_may_be_one_layer_is_told_once(tmp_path, capsys):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"a", b"b"]
        for model in "ab":
            for name, weight in layer("conv").weights.items():
                file[f"{model}/conv/{name}:0"] = weight
    argv = "convert", path, tmp_path / "a.safetensors", "--weights-only"
    _, out, err = run(*argv, capsys=capsys)
    assert out.startswith("2 layers")
    assert err == (
        f"note: {path}: layers 'a/conv' and 'b/conv' have the same name and weights; nothing tells "
        "whether they are one layer that two models share: both are given\n"
    )


def test_inspect(weights, capsys):
    status, out, err = run("inspect", weights, capsys=capsys)
    assert (status, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert rows[2][0] == "block/conv"
    assert rows[2][-2:] == ["59", "113"]  # 24 + 30 + 5 weights; 2*24 + 2*30 + 5 FLOPs
    assert rows[4][-2:] == ["112", "214"]
    calls = out.splitlines()[-2:]
    assert calls[0] == (
        "block/conv: SeparableConv1D(5, 4, padding='causal', dilation_rate=2, depth_multiplier=2)"
    )
    assert calls[1].startswith("second: SeparableConv1D(5, 3, depth_multiplier=2)  # strides,")


def test_inspect_a_depthwise_layer(with_depthwise, capsys):
    _, out, _ = run("inspect", with_depthwise, capsys=capsys)
    (row,) = (line for line in out.splitlines() if line.startswith("alone "))
    assert re.split(" {2,}", row)[1:4] == ["(4, 3, 2)", "none", "(6,)"]
    assert row.split()[-2:] == ["30", "54"]  # 24 + 6 weights; 2*24 + 6 FLOPs
    (call,) = (line for line in out.splitlines() if line.startswith("alone: "))
    assert call == (
        "alone: DepthwiseConv1D(4, strides=2, padding='causal', depth_multiplier=2, "
        "activation='relu')"
    )


def test_inspect_shows_what_can_be_typed(tmp_path, capsys):
    path = tmp_path / "one.safetensors"
    activation = {"class_name": "leaky_relu", "config": {"negative_slope": 0.1}}
    interop.save(path, [layer("", activation=activation, pointwise_constraint="max_norm")])
    _, out, _ = run("inspect", path, capsys=capsys)
    call = out.splitlines()[-1].removeprefix("(root): ")
    names = {"SeparableConv1D": fsc.SeparableConv1D, "MaxNorm": fsc.constraints.MaxNorm}
    assert eval(call, names).pointwise_constraint == fsc.constraints.MaxNorm()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.h5", None, "none.h5 does not exist"),
        ("empty.keras", b"", "empty.keras is empty"),
        ("text.h5", b"weights: 1, 2, 3", "text.h5 is of no known format"),
        ("short.h5", b"\x89HDF\r\n\x1a\n123", "short.h5"),
        ("torn.keras", b"PK\x03\x04torn", "torn.keras is a damaged zip archive"),
        ("model.ckpt.data-00000-of-00001", b"123", "but model.ckpt.index is not there"),
        ("old.pt", b"\x80\x02\x8a\nl\xfc\x9c", "by PyTorch before 1.6"),
        ("v1.ckpt", b"variables" + tf_table.MAGIC, "first format, V1"),
        ("torn.safetensors", b"\x90\x00\x00\x00\x00\x00\x00\x00{", "torn.safetensors"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_bad_files_are_one_line(command, name, content, message, tmp_path, capsys):
    path, dest = tmp_path / name, tmp_path / "dest.safetensors"
    if content is not None:
        path.write_bytes(content)
    argv = (path,) if command == "inspect" else (path, dest)
    status, out, err = run(command, *argv, capsys=capsys)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not dest.exists()


def test_folders_that_are_no_model(tmp_path, capsys):
    status, _, err = run("inspect", tmp_path, capsys=capsys)
    assert status == 2
    assert "no SavedModel" in err


def test_forced_format_is_heeded(weights, capsys):
    status, _, err = run("inspect", weights, "--from", "keras2", capsys=capsys)
    assert status == 2
    assert str(weights) in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--layer", "a"), r"layers (--layer) says nothing about"),
        (("--pair", "a="), "--pair must be PATH=DEPTHWISE,POINTWISE"),
        (("--pair", "a=b,c,d,e"), "--pair must be PATH=DEPTHWISE,POINTWISE"),
        (("--pair", "a=b,,c"), "--pair must be PATH=DEPTHWISE,POINTWISE"),
        (("--fold-norms",), r"fold_norms (--fold-norms) says nothing about"),
        (("--pair", "a=b,c", "--pair", "a=d,e"), "--pair must name each layer once"),
    ],
)
def test_options_of_other_formats(argv, message, weights, capsys):
    status, _, err = run("inspect", weights, *argv, capsys=capsys)
    assert status == 2
    assert message in err


def test_nothing_is_overwritten_unless_forced(weights, tmp_path, capsys):
    dest = tmp_path / "there.safetensors"
    dest.write_text("mine")
    status, _, err = run("convert", weights, dest, capsys=capsys)
    assert status == 2
    assert "there.safetensors exists already" in err
    assert dest.read_text() == "mine"
    assert run("convert", weights, dest, "--force", capsys=capsys)[0] == 0
    assert len(interop.load(dest)) == 2


def test_source_is_not_dest(weights, capsys):
    before = weights.read_bytes()
    status, _, err = run("convert", weights, weights, "--force", capsys=capsys)
    assert (status, err) == (2, f"error: SOURCE and DEST are one file: {weights}\n")
    assert weights.read_bytes() == before


def test_a_link_to_nothing_is_there(weights, tmp_path, capsys):
    dest = tmp_path / "link.safetensors"
    dest.symlink_to(tmp_path / "nothing")
    assert run("convert", weights, dest, capsys=capsys)[0] == 2
    assert dest.is_symlink()


@pytest.mark.parametrize("name", ["new.safetensors", "new.weights.h5"])
def test_modes_are_those_of_any_file(name, weights, tmp_path):
    (tmp_path / "any").touch()
    interop.save(tmp_path / name, interop.load(weights))
    assert (tmp_path / name).stat().st_mode == (tmp_path / "any").stat().st_mode
    (tmp_path / name).chmod(0o640)
    interop.save(tmp_path / name, interop.load(weights), overwrite=True)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["a" * 252, "b" * 300])
def test_long_names(name, weights, tmp_path, capsys):
    if len(name) < 256:
        (tmp_path / name).write_bytes(weights.read_bytes())
        assert run("inspect", tmp_path / name, capsys=capsys)[0] == 0
    else:
        status, _, err = run("inspect", tmp_path / name, capsys=capsys)
        assert status == 2
        assert "cannot be read: File name too long" in err
        assert run("convert", weights, tmp_path / f"{name}.pt", capsys=capsys)[0] == 2


def test_paths_that_no_terminal_should_see(tmp_path, capsys):
    interop.save(tmp_path / "odd.safetensors", [layer("a\x1b[2J")])
    _, out, _ = run("inspect", tmp_path / "odd.safetensors", capsys=capsys)
    assert "\x1b" not in out
    with pytest.raises(interop.InteropError, match="surrogates not allowed"):
        layer("\ud800")


@pytest.mark.parametrize(
    ("dest", "message"),
    [
        ("nowhere/dest.safetensors", "cannot be written"),
        ("dest.xyz", "no format is written to names like"),
        ("dest.keras", "no format is written to names like"),
    ],
)
def test_what_cannot_be_written(dest, message, weights, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    status, _, err = run("convert", weights, tmp_path / dest, capsys=capsys)
    assert status == 2
    assert message in err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_what_fails_half_way_leaves_the_old_file(error, weights, tmp_path, monkeypatch, capsys):
    from flax_sepconv.interop import safetensors_file

    def write(path, layers):
        path.write_text("half")
        raise error

    dest = tmp_path / "dest.safetensors"
    dest.write_text("old")
    monkeypatch.setattr(safetensors_file, "write", write)
    status, _, err = run("convert", weights, dest, "--force", capsys=capsys)
    interrupted = isinstance(error, KeyboardInterrupt)
    assert status == (130 if interrupted else 2)
    assert err == (
        "interrupted: nothing was written\n"
        if interrupted
        else f"error: {dest} cannot be written: no space left\n"
    )
    assert dest.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [dest.name, weights.name]


def test_a_format_that_is_only_read(weights, tmp_path):
    with pytest.raises(interop.InteropError, match="'keras' is read only"):
        interop.save(tmp_path / "a.keras", interop.load(weights), "keras")


def test_layers_of_one_path(tmp_path):
    with pytest.raises(interop.InteropError, match="two layers of the name 'a'"):
        interop.save(tmp_path / "a.safetensors", [layer("a"), layer("a", K=7)])
    assert not list(tmp_path.iterdir())


def test_output_that_nobody_reads(weights):
    command = f"{sys.executable} -m flax_sepconv inspect {weights} > /dev/full"
    ran = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (2, "error: cannot print: No space left on device\n")


def test_as_a_program(weights):
    command = [sys.executable, "-m", "flax_sepconv", "inspect"]
    good = subprocess.run([*command, str(weights)], capture_output=True, text=True)
    assert (good.returncode, good.stderr) == (0, "")
    bad = subprocess.run([*command, "nothing.h5"], capture_output=True, text=True)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == "error: nothing.h5 does not exist\n"


def test_help_names_every_format(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["convert", "--help"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in formats.FORMATS)


def test_modules_of_the_table_are_there():
    folder = pathlib.Path(formats.__file__).parent
    for form in formats.FORMATS.values():
        assert (folder / f"{form.module}.py").exists()
