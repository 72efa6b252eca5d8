"""`export`: files that run without this package, and agree with `predict`."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sepconv.training import converting, exporting
from flax_sepconv.training.config import from_config_dict
from flax_sepconv.training.model import SeparableResNet
from flax_sepconv.training.splits import Scaling
from flax_sepconv.training.trained import Trained
from flax_sepconv.training.workdir import Record
from tests import peers
from tests.training.test_using import CLASSES, called, read_table, series, told, write_ts
from tests.training_runs import random_like

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def predicted(run, folder, capsys):
    file = write_ts(folder / "new.ts", series())
    return called(capsys, "predict", f"--workdir={run}", f"--data={file}")


def padded(period=1):
    """Return the series in one array whose length is a multiple of `period`, and their lengths."""
    rows = series()
    lengths = np.array([len(row) for row in rows], np.int32)
    inputs = np.full((len(rows), -(-lengths.max() // period) * period, 6), np.nan, np.float32)
    for place, row in zip(inputs, rows, strict=True):
        place[: len(row)] = row
    return inputs, lengths


ALONE = """
import runpy
import sys

class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("flax", "flax_sepconv"):
            raise ImportError(f"{name} is not on this machine")

sys.meta_path.insert(0, Nowhere())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not {"flax", "flax_sepconv"} & set(sys.modules)
"""


def alone(runner, file, folder):
    """Run what was exported where neither Flax nor this package can be imported."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-P", "-c", ALONE, str(runner), str(file)],
        cwd=folder,
        env=environment | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


def test_jax_runs_without_flax_as_predict_says(run, tmp_path, capsys):
    workdir = shutil.copytree(run, tmp_path / "run")
    out = called(capsys, "export", f"--workdir={workdir}")
    assert re.search(r"answers differ by at most \d\.\de-0[78]", out)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("model.jax", "run_model.py"):
        shutil.move(workdir / name, elsewhere)
    blob = bytearray((elsewhere / "model.jax").read_bytes())
    exported = jax.export.deserialize(blob)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert [str(aval.shape) for aval in exported.in_avals] == ["(b, l, 6)", "(b,)"]
    names, shares = read_table(predicted(workdir, tmp_path, capsys))
    np.testing.assert_allclose(exported.call(*padded()), shares, rtol=1e-5, atol=1e-5)

    text = "\n\n".join("\n".join(",".join(map(repr, s)) for s in row.tolist()) for row in series())
    (elsewhere / "series.txt").write_text(text)
    ran = alone(elsewhere / "run_model.py", "series.txt", elsewhere)
    assert ran.returncode == 0, ran.stderr
    assert read_table(ran.stdout)[0] == names
    np.testing.assert_allclose(read_table(ran.stdout)[1], shares, rtol=1e-5, atol=1e-5)

    inputs, lengths = padded()
    np.savez(elsewhere / "series.npz", inputs=np.nan_to_num(inputs), lengths=lengths)
    assert alone(elsewhere / "run_model.py", "series.npz", elsewhere).stdout == ran.stdout
    (elsewhere / "series.txt").write_text("1 2 3")
    ran = alone(elsewhere / "run_model.py", "series.txt", elsewhere)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "error: series 1: the shape must be (L, 6), got (1, 3)\n"


def test_onnx_answers_as_predict_says(run, tmp_path, capsys):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    file = tmp_path / "model.onnx"
    out = called(capsys, "export", f"--workdir={run}", "--format=onnx", f"--output={file}")
    assert "any batch, padded to length 102" in out  # the longest of the run has 100, pooled by 3
    session = onnxruntime.InferenceSession(file)
    inputs, lengths = padded(102)
    names = [each.name for each in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, (inputs, lengths), strict=True)))
    _, shares = read_table(predicted(run, tmp_path, capsys))
    np.testing.assert_allclose(found, shares, rtol=1e-5, atol=1e-5)


def test_litert_answers_as_predict_says(run, tmp_path, capsys):
    tf = peers.tf()
    file = tmp_path / "model.tflite"
    out = called(capsys, "export", f"--workdir={run}", "--format=litert", f"--output={file}")
    assert "any batch, padded to a multiple of 3 steps" in out
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the interpreter's successor is a package of its own
        interpreter = tf.lite.Interpreter(str(file))
    given = {3: padded(3)[0], 1: padded(3)[1]}
    for each in interpreter.get_input_details():
        value = given[len(each["shape_signature"])]
        interpreter.resize_tensor_input(each["index"], value.shape)
    interpreter.allocate_tensors()
    for each in interpreter.get_input_details():
        interpreter.set_tensor(each["index"], given[len(each["shape_signature"])])
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    _, shares = read_table(predicted(run, tmp_path, capsys))
    np.testing.assert_allclose(found, shares, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("offset", [0, 1e3])
def test_each_series_is_standardised_by_itself_inside(offset):
    """Also where its mean is large, and what pads it is no number."""
    rows = [row + offset for row in series()]
    lengths = np.array([len(row) for row in rows], np.int32)
    inputs = np.zeros((len(rows), 31, 6), np.float32)
    for place, row in zip(inputs, rows, strict=True):
        place[: len(row)] = row
    inside = (np.arange(31) < lengths[:, None])[..., None]
    found = converting._scaled(jnp.asarray(inputs), jnp.asarray(inside), None)
    for scaled, row, n in zip(found, inputs, lengths, strict=True):
        values = row[:n].astype(float)
        np.testing.assert_allclose(scaled[:n], Scaling.like(values)(values), rtol=1e-4, atol=1e-4)
        assert not scaled[n:].any()


TASKS = {
    "classification": (CLASSES, None),
    "regression": (["value"], Scaling(np.array([100.0]), np.array([20.0]))),
    "multilabel": (["indoors", "moving"], None),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("for_tools", [False, True])
def test_each_task_is_answered_in_the_unit_of_the_data(task, for_tools):
    """From series in their unit; as the network itself answers from standardised ones."""
    classes, target_scaling = TASKS[task]
    settings = {"data": {"task": task}, "model": {"width": 8, "blocks": 2, "pool": 3}}
    config = from_config_dict(settings)
    scaling = Scaling(np.linspace(-5, 5, 6), np.linspace(1, 4, 6))
    record = Record(config, tuple(classes), scaling, {}, target_scaling)
    model = SeparableResNet(len(classes), config.model)
    inputs, lengths = padded()
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs, lengths)
    run = Trained(pathlib.Path(), record, "last", model, random_like(shapes, 1), 6)
    function = jax.jit(converting._function(run, for_tools=for_tools))
    wanted = run.answers(run.split(series()))
    assert wanted.shape == ((10,) if task == "regression" else (10, len(classes)))
    assert np.ptp(wanted, axis=0).min() > 0.01
    found = function(run.weights, inputs, lengths)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


# --- Where there is no converter, or it fails


def converted(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["converting", *map(str, words)])
    converting.main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])


class Failing:
    """A converter that fails, as they do: at length."""

    @staticmethod
    def to_onnx(*_):
        raise RuntimeError("no plugin for top_k\nand much more\n")


def test_what_became_of_a_conversion_is_told(run, tmp_path, capsys, monkeypatch):
    words = (run, "last", "onnx", tmp_path / "model")
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    assert "jax2onnx" in converted(monkeypatch, capsys, *words)["missing"]
    monkeypatch.setitem(sys.modules, "jax2onnx", Failing)
    failed = converted(monkeypatch, capsys, *words)
    assert failed == {"failed": "RuntimeError: no plugin for top_k"}
    refused = converted(monkeypatch, capsys, tmp_path, *words[1:])
    assert "holds no run" in refused["error"]
    assert not (tmp_path / "model").exists()


TOLD = {
    "missing": (
        {"missing": "No module named 'jax2onnx'"},
        "--format onnx needs jax2onnx: pip install 'flax-sepconv[tools]'",
    ),
    "failed": (
        {"failed": "RuntimeError: no plugin for top_k"},
        "jax2onnx cannot convert this network: RuntimeError: no plugin for top_k",
    ),
    "another": (
        {"lengths": "any length", "difference": 0.01},
        "jax2onnx made another network: an answer differs by 1.0e-02; nothing is written",
    ),
    "no number": ({"lengths": "any length", "difference": float("nan")}, "differs by nan"),
    "crashed": (None, "jax2onnx cannot convert this network: Segmentation fault"),
}


@pytest.mark.parametrize("case", TOLD)
def test_a_conversion_that_fails_is_one_line_and_status_two(
    case, run, tmp_path, capsys, monkeypatch
):
    said, words = TOLD[case]

    def converting(line, **_):
        with open(line[-1], "wb") as file:
            file.write(b"model")
        out = f"noise\n{json.dumps(said)}\n" if said else ""
        return subprocess.CompletedProcess(line, 0, out, "noise\nSegmentation fault\n")

    monkeypatch.setattr(exporting.subprocess, "run", converting)
    file = tmp_path / "model.onnx"
    flags = ["export", f"--workdir={run}", "--format=onnx", f"--output={file}"]
    assert words in told(capsys, *flags)
    assert not file.exists()


def test_the_runner_says_what_it_is_of(run):
    record = exporting.known(run)
    text = exporting._runner(run / "net.jax", record, 6)
    names = {}
    exec(compile(text, "run_net.py", "exec"), names | {"__name__": "run_net"}, names)
    assert (names["MODEL"], names["CHANNELS"]) == ("net.jax", 6)
    assert names["CLASSES"] == tuple(CLASSES)
    assert "python run_net.py FILE" in names["__doc__"]
