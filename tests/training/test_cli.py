"""The command line and a whole run: results, interruption, resumption, refusals."""

import contextlib
import io
import json
import os
import pathlib
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from flax_sepconv.training import data
from flax_sepconv.training.__main__ import main
from flax_sepconv.training.console import settle
from tests.training_runs import no_file_beyond, refused

pytestmark = [
    pytest.mark.usefixtures("compiled_once"),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore:coroutine"
    ),
]

TINY = """
from flax_sepconv.training.config import default_config

def get_config():
    config = default_config()
    config.data.name = "ItalyPowerDemand"
    config.data.validation_fraction = 0.25
    config.augment.noise = 0.1
    config.model.padding = "causal"
    config.model.width = 8
    config.model.dropout = 0.1
    config.model.blocks = 1
    config.model.kernel_size = 3
    config.train.epochs = 40
    config.train.batch_size = 16
    config.train.learning_rate = 0.05
    config.train.ema_decay = 0.9
    config.train.checkpoint_every = 7
    config.mesh.data = 1
    return config
"""


STEPS = 40 * 3  # 67 series, a quarter held out, batches of 16


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("configs") / "tiny.py"
    file.write_text(TINY)
    return file


@pytest.fixture(scope="module")
def whole_and_said(config_file, tmp_path_factory):
    """Return the folder of a finished run, not to be changed, and what was said to stderr."""
    folder = tmp_path_factory.mktemp("here")
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stderr(io.StringIO()) as said,
    ):
        patch.chdir(folder)
        assert main(["train", f"--config={config_file}"]) == 0
    (workdir,) = (folder / "runs").iterdir()
    return workdir, said.getvalue()


@pytest.fixture(scope="module")
def whole(whole_and_said):
    return whole_and_said[0]


def command(config_file, workdir, *more):
    return ["train", f"--config={config_file}", f"--workdir={workdir}", *more]


def weights(workdir, kind="last"):
    steps = [int(p.name) for p in (workdir / "checkpoints" / kind).iterdir()]
    newest = workdir / "checkpoints" / kind / str(max(steps))
    with ocp.StandardCheckpointer() as checkpointer:
        return max(steps), checkpointer.restore(newest / "default")


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def events(workdir, tag):
    """Read the TensorBoard files by their definition: length, its CRC, a proto, its CRC."""
    found = []
    for file in (workdir / "tensorboard").iterdir():
        raw, versions = file.read_bytes(), []
        while raw:
            (length, its_crc) = struct.unpack("<QI", raw[:12])
            proto, (crc,) = raw[12 : 12 + length], struct.unpack("<I", raw[12 + length :][:4])
            assert (its_crc, crc) == (masked_crc32c(raw[:8]), masked_crc32c(proto))
            event = event_pb2.Event.FromString(proto)
            versions.append(event.file_version)
            values = {value.tag: value.simple_value for value in event.summary.value}
            found += [(event.step, event.wall_time, values[tag])] if tag in values else []
            raw = raw[16 + length :]
        assert versions == ["brain.Event:2"] + [""] * (len(versions) - 1)
    return found


def event_steps(workdir, tag):
    return [step for step, _, _ in events(workdir, tag)]


def same_run(a, b):
    """Check that two runs left the same weights, bit for bit, and the same metrics."""
    for kind in ("last", "best"):
        (step_a, tree_a), (step_b, tree_b) = weights(a, kind), weights(b, kind)
        assert step_a == step_b
        assert len(jax.tree.leaves(tree_a)) > 10
        chex.assert_trees_all_equal(tree_a, tree_b)
    timing = {"time", "steps_per_second", "examples_per_second"}
    metrics = [[{k: v for k, v in r.items() if k not in timing} for r in rows(w)] for w in (a, b)]
    assert metrics[0] == metrics[1]
    assert event_steps(a, "loss") == event_steps(b, "loss") == [r["step"] for r in rows(a)]


def test_a_run_leaves_everything(whole):
    results = json.loads((whole / "results.json").read_text())
    assert results["test_accuracy"] == pytest.approx(1 - results["test_errors"] / 1029)
    assert results["test_accuracy"] > 0.8
    assert results["largest_constraint_violation"] < 1e-6
    for picture in ("learning_curves.png", "confusion_matrix.png"):
        assert (whole / picture).read_bytes().startswith(b"\x89PNG")
    recorded = rows(whole)
    assert [row["step"] for row in recorded] == list(range(3, STEPS + 1, 3))
    assert event_steps(whole, "validation_loss") == list(range(3, STEPS + 1, 3))
    losses = [(row["step"], row["time"], np.float32(row["loss"])) for row in recorded]
    assert events(whole, "loss") == losses
    best = min(recorded, key=lambda row: row["validation_loss"])
    assert weights(whole, "best")[0] == best["step"] == recorded[-1]["best_step"]
    assert weights(whole)[0] == STEPS
    assert not list(whole.rglob("*.tmp"))


@pytest.fixture
def at_step_52(monkeypatch):
    """Have something done in the middle of an epoch, between two checkpoints."""
    batches = data.train_batches

    def do(what):
        def interrupted(split, size, seed, start, stop, rows):
            for step, batch in enumerate(batches(split, size, seed, start, stop, rows), start + 1):
                if step == 52:
                    what()
                yield batch

        monkeypatch.setattr(data, "train_batches", interrupted)
        return lambda: monkeypatch.setattr(data, "train_batches", batches)

    return do


SIGNALS = [(signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM)]


@pytest.mark.parametrize("numbers", SIGNALS)
def test_signals_end_a_run_cleanly_and_it_continues_bit_for_bit(
    config_file, whole, tmp_path, capsys, at_step_52, numbers
):
    workdir = tmp_path / "run"
    before = signal.getsignal(numbers[0])  # SIGINT is ignored where a shell started us with "&"
    undo = at_step_52(lambda: [signal.raise_signal(number) for number in numbers])
    assert main(command(config_file, workdir)) == 128 + numbers[0]
    undo()
    err = capsys.readouterr().err
    done, hint = err.splitlines()[-1].split("; continue with: ")
    assert done == f"stopped at step 52 of {STEPS}"
    assert "Traceback" not in err
    assert signal.getsignal(numbers[0]) == before
    assert weights(workdir)[0] == 52
    assert not (workdir / "results.json").exists()
    if len(numbers) == 1:  # else it would be the same once more
        assert main(shlex.split(hint)[3:]) == 0
        same_run(whole, workdir)


def test_a_run_that_nobody_reads_ends_with_a_checkpoint(
    config_file, tmp_path, at_step_52, monkeypatch
):
    """As in `2>&1 | head -3`: the next line of progress finds the pipe closed."""
    reader, writer = os.pipe()
    at_step_52(lambda: os.close(reader))
    with open(writer, "w", buffering=1) as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        assert main(command(config_file, tmp_path / "run")) == 128 + signal.SIGPIPE
        settle()  # else what could not be written would change the exit status of a process
    assert 52 < weights(tmp_path / "run")[0] < STEPS


def test_a_full_disk_ends_a_run_and_nothing_is_lost(config_file, whole, tmp_path, capsys):
    """While it trains, behind a checkpoint; then in a picture, behind the last step."""
    workdir = tmp_path / "run"
    for limit, place in ((6_000, "last good checkpoint: "), (60_000, "learning_curves.png")):
        with no_file_beyond(limit):
            assert main(command(config_file, workdir, *["--resume"] * (limit > 6_000))) == 2
        err = capsys.readouterr().err.splitlines()[-1]
        assert err.startswith("error: cannot write")
        assert "File too large" in err
        assert place in err
        assert "Traceback" not in err
    assert (workdir / "results.json").exists()
    same_run(whole, workdir)
    assert not list(workdir.glob("damaged*"))


def wait_for_rows(workdir, wanted, process):
    metrics = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < wanted:
        assert process.poll() is None, "the run ended too soon"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_killed_run_continues_bit_for_bit(config_file, whole, tmp_path):
    """SIGKILL at a random moment: nothing the process could do about it."""
    workdir = tmp_path / "run"
    line = [sys.executable, "-m", "flax_sepconv.training", *command(config_file, workdir)[1:]]
    wanted = int(np.random.default_rng().integers(1, 35))
    with subprocess.Popen(line, stderr=subprocess.DEVNULL) as process:
        wait_for_rows(workdir, wanted, process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (workdir / "results.json").exists()
    assert main(command(config_file, workdir, "--resume")) == 0
    same_run(whole, workdir)


def test_a_process_that_is_hung_up_prints_the_command_that_continues_the_run(
    whole, tmp_path, capfd, monkeypatch
):
    """Begun by name, with settings on the line, in a folder whose name a shell would split."""
    python = pathlib.Path(sys.executable)
    monkeypatch.setenv("PATH", os.pathsep.join([str(python.parent), os.environ["PATH"]]))
    monkeypatch.chdir(tmp_path)
    groups = json.loads((whole / "config.json").read_text())["config"]
    flags = [f"--config.{g}.{n}={v}" for g, some in groups.items() for n, v in some.items()]
    workdir = tmp_path / "a run's folder"
    line = [sys.executable, "-m", "flax_sepconv.training", "--config", "italy_power_demand"]
    with subprocess.Popen(
        [*line, "--workdir", workdir.name, *flags], stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for_rows(workdir, 2, process)
        assert main(["train", "--workdir", workdir.name, "--resume"]) == 2
        assert "another trainer is at work" in capfd.readouterr().err
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=300)
    assert process.returncode in (128 + signal.SIGHUP, 128 + signal.SIGTERM)
    assert not (workdir / "results.json").exists()
    done, hint = err.splitlines()[-1].split("; continue with: ")
    assert done.endswith(f" of {STEPS}")
    python, *words = shlex.split(hint)
    assert shutil.which(python) == sys.executable
    assert words[:2] == ["-m", "flax_sepconv.training"]
    assert main(words[2:]) == 0
    same_run(whole, workdir)


def test_a_run_that_diverges_says_so_and_keeps_the_last_good_checkpoint(
    config_file, tmp_path, capsys, monkeypatch
):
    batches = data.train_batches

    def poisoned(split, size, seed, start, stop, rows):
        for step, batch in enumerate(batches(split, size, seed, start, stop, rows), start + 1):
            yield batch | {"inputs": batch["inputs"] * np.float32(np.nan if step > 28 else 1)}

    monkeypatch.setattr(data, "train_batches", poisoned)
    workdir = tmp_path / "run"
    assert main(command(config_file, workdir)) == 1
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("error: training diverged: not finite any more between steps 27 and 30")
    assert str(workdir / "checkpoints" / "last" / "21") in err
    step, tree = weights(workdir)
    assert step == 21
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree["params"]))
    assert [row["step"] for row in rows(workdir)] == list(range(3, 28, 3))


def test_a_finished_run_says_so_and_prints_its_results_again(whole, capsys):
    before = {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    for more in ([], ["--resume"], ["--resume", "--config.mesh.data=2"]):
        assert main(["train", f"--workdir={whole}", *more]) == 0
        out, err = capsys.readouterr()
        assert err == f"the run in {whole} is finished: these are its results\n"
        assert "test accuracy" in out
    assert {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()} == before


def test_a_finished_run_can_be_evaluated_again(config_file, whole, tmp_path, capsys):
    workdir = tmp_path / "copy"
    shutil.copytree(whole, workdir)
    (workdir / "results.json").unlink()
    record = json.loads((workdir / "config.json").read_text())
    # As a version left it that did not have all settings yet, nor noted anything of the data.
    del record["config"]["model"]["stem_multiplier"], record["data"]
    (workdir / "config.json").write_text(json.dumps(record))
    assert main(command(config_file, workdir, "--resume")) == 0
    assert (workdir / "results.json").read_text() == (whole / "results.json").read_text()
    same_run(whole, workdir)
    out = capsys.readouterr().out
    for words in ("test accuracy", "constraint violation", "parameters", "FLOPs", "examples/s"):
        assert words in out


def test_a_causal_run_answers_a_stream_as_it_was_scored(whole, capsys, monkeypatch):
    _, test = data.load(data.DataConfig(name="ItalyPowerDemand", standardize="none"))
    lines = "\n\n".join("\n".join(map(repr, row[:, 0].tolist())) for row in test.inputs)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert main(["stream", f"--workdir={whole}", "--every=24"]) == 0
    header, *answers = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert header == ["series", "step", *test.classes]
    assert [answer[:2] for answer in answers] == [[str(n), "24"] for n in range(1, 1030)]
    chosen = np.array([answer[2:] for answer in answers], float).argmax(-1)
    results = json.loads((whole / "results.json").read_text())
    assert (chosen != test.labels).sum() == results["test_errors"]


BAD = {
    "no config": ([], "--config FILE is required"),
    "missing file": (["--config=nowhere.py"], "nowhere.py"),
    "unknown setting": (["--config={file}", "--config.train.epoch=3"], "epoch"),
    "unknown group": (["--config={file}", "--config.trian.epochs=3"], "trian"),
    "wrong type": (["--config={file}", "--config.train.epochs=many"], "many"),
    "fraction for int": (["--config={file}", "--config.train.epochs=2.5"], "2.5"),
    "out of range": (["--config={file}", "--config.train.epochs=0"], "must be > 0, got 0"),
    "acausal": (["--config={file}", "--config.model.padding=valid"], "one of same, causal"),
    "even kernel": (["--config={file}", "--config.model.kernel_size=4"], "must be odd"),
    "not finite": (["--config={file}", "--config.train.learning_rate=nan"], "must be finite"),
    "warm-up too long": (["--config={file}", "--config.train.warmup=1.0"], "must be in [0, 1)"),
    "unknown choice": (["--config={file}", "--config.train.evaluate=worst"], "one of last, best"),
    "unknown flag": (["--config={file}", "--wrokdir=x"], "wrokdir"),
    "part of a group": (["--config={file}", "--process=1"], "several processes need --coordinator"),
    "process of none": (["--config={file}", "--processes=two"], "two"),
    "no such process": (
        ["--config={file}", "--coordinator=a:1", "--processes=2", "--process=2"],
        "got 2 of 2",
    ),
    "devices": (["--config={file}", "--config.mesh.data=3"], "must divide the number of devices"),
    "mesh of none": (["--config={file}", "--config.mesh.data=0"], "must be -1 or > 0, got 0"),
    "data": (["--config={file}", "--data=x"], "must be --config.data.path=PATH here"),
    "stray word": (["--config={file}", "resume"], "'resume'"),
    "missing data set": (["--config={file}", "--config.data.name=Nothing"], "ItalyPowerDemand"),
    "missing data folder": (
        ["--config={file}", "--config.data.path=/no"],
        "no file or folder '/no'",
    ),
    "path for a name": (["--config={file}", "--config.data.name=../x"], "plain name"),
    "unwritable workdir": (["--config={file}", "--workdir={file}/run"], "cannot write workdir"),
    "workdir is a file": (["--config={file}", "--workdir={file}"], "cannot write workdir"),
    "nothing to resume": (["--config={file}", "--workdir={tmp}/x", "--resume"], "holds no run"),
    "resume what": (["--config={file}", "--resume"], "--resume needs --workdir"),
    "foreign folder": (["--config={file}", "--workdir={folder}"], "is not empty"),
}

BAD_FILES = {
    "syntax error": ("def get_config(:\n", "SyntaxError"),
    "no get_config": ("x = 1\n", "get_config"),
    "raises": ("def get_config():\n    raise RuntimeError('a\\nb')\n", "RuntimeError: a b"),
    "unknown name": ("def get_config():\n    return undefined\n", "undefined"),
    "returns nothing": ("def get_config():\n    pass\n", "None"),
    "returns a number": ("def get_config():\n    return 3\n", "must be a mapping"),
    "unknown setting": (TINY.replace("model.width", "model.widht"), "widht"),
    "wrong type": (TINY.replace("epochs = 40", "epochs = '40'"), "epochs"),
    "extra group": ("def get_config():\n    return {'optimizer': {}}\n", "config.optimizer is not"),
    "bool for int": ("def get_config():\n    return {'train': {'seed': True}}\n", "type int"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_one_line_and_status_two(
    case, config_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments, words = BAD[case]
    names = {"file": config_file, "folder": config_file.parent, "tmp": tmp_path}
    refused([a.format(**names) for a in arguments], words, capsys)


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_config_file_is_one_line_and_status_two(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, words = BAD_FILES[case]
    (tmp_path / "bad.py").write_text(text)
    refused(["--config=bad.py"], words, capsys)


def test_a_run_is_neither_overwritten_nor_resumed_as_another(config_file, whole, capsys):
    before = {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    refused(command(config_file, whole)[1:], "already holds a run", capsys)
    other = command(config_file, whole, "--config.train.epochs=41", "--resume")
    refused(other[1:], "config.train.epochs was 40 and is now 41", capsys)
    refused(other[2:], "config.train.epochs was 40 and is now 41", capsys)  # without a file
    assert {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()} == before


def test_the_default_workdir_is_named_by_set_and_time(whole_and_said):
    workdir, said = whole_and_said
    assert workdir.name.startswith("ItalyPowerDemand-")
    assert f"workdir: runs/{workdir.name}" in said
    assert f"epoch 40  step {STEPS}/{STEPS}  loss" in said
