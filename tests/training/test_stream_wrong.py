"""The command that reads lines, where something is wrong: a run, its flags, its streams."""

import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from flax_sepconv.training import checkpoint
from flax_sepconv.training import stream as training_stream
from flax_sepconv.training.__main__ import main
from flax_sepconv.training.weights import read_weights
from tests.training_runs import stream

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def changed(path, change):
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def without_padding(record):
    """As a run before there was this setting left it."""
    del record["config"]["model"]["padding"], record["data"]


def record(change):
    return lambda workdir: changed(workdir / "config.json", change)


def noted(**data):
    return record(lambda r: r["data"].update(data))


def asked(group, **settings):
    return record(lambda r: r["config"][group].update(settings))


RUNS = {
    "not causal": (
        asked("model", padding="same"),
        "cannot be streamed: config.model.padding is 'same'",
    ),
    "of before": (record(without_padding), "padding is 'same'"),
    "causal, of before": (
        record(lambda r: r.pop("data")), "a version that did not note the data's scaling"
    ),
    "standardised by the whole series": (
        record(
            lambda r: (
                r["data"].update(mean=None, deviation=None),
                r["config"]["data"].update(standardize="series"),
            )
        ),
        "config.data.standardize is 'series'",
    ),
    "no such setting": (
        record(lambda r: r["config"].update(other={})),
        "config.other is not a setting",
    ),
    "no record": (lambda w: (w / "config.json").unlink(), "holds no run"),
    "not a record": (lambda w: (w / "config.json").write_text("[]"), "is not the record of a run"),
    "deep": (lambda w: (w / "config.json").write_text("[" * 100_000), "maximum recursion depth"),
    "no classes": (noted(classes=[]), "data.classes must be a list of strings, got []"),
    "classes are a word": (noted(classes="abcd"), "data.classes must be a list of strings"),
    "classes are numbers": (noted(classes=[1, 2, 3, 4]), "data.classes must be a list of strings"),
    "half a scaling": (noted(mean=None), "data.mean must be a list of numbers, or both null"),
    "no scaling": (noted(mean=None, deviation=None), "data.mean must be null just where"),
    "nested scaling": (noted(mean=[[0.0] * 6]), "data.mean must be a list of numbers"),
    "words for a scaling": (noted(deviation=["1"] * 6), "data.deviation must be a list of numbers"),
    "endless scaling": (noted(mean=[float("inf")] * 6), "data.mean must be finite"),
    "unequal scaling": (noted(mean=[0.0] * 5), "must be equally long"),
    "division by zero": (noted(deviation=[1.0] * 5 + [0]), "data.deviation must be > 0"),
    "another count of channels": (
        noted(mean=[0.0], deviation=[1.0]),
        "averaged/batch_stats/_Norm_0/BatchNorm_0/mean is (12,) in it and (2,) in",
    ),
    "another count of classes": (noted(classes=["a"]), "params/head/bias is (4,) in it and (1,)"),
    "one block less": (asked("model", blocks=1), "in it and nothing in the network of config.json"),
    "one block more": (asked("model", blocks=3), "is nothing in it and (8,) in the network"),
    "narrower": (asked("model", width=4), "is (8,) in it and (4,) in the network of config.json"),
    "no checkpoint": (
        lambda w: shutil.rmtree(w / "checkpoints" / "last"), "holds no checkpoint 'last'"
    ),
    "no metadata": (
        lambda w: [file.unlink() for file in w.rglob("default/_METADATA")],
        "its metadata cannot be read",
    ),
    "damaged checkpoint": (
        lambda w: [file.unlink() for file in w.rglob("default/manifest.ocdbt")],
        "cannot read checkpoint",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RUNS)
def test_a_run_that_will_not_do_is_one_line_and_status_two(
    case, run, tmp_path, monkeypatch, capsys
):
    workdir = tmp_path / "run"
    shutil.copytree(run, workdir)
    change, words = RUNS[case]
    change(workdir)
    before = sorted(workdir.rglob("*"))
    status, out, err = stream(monkeypatch, capsys, workdir, "1 2 3 4 5 6\n")
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1, err
    assert words in err
    assert sorted(workdir.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--workdir DIR is required"),
        (["--workdir=x", "--every=0"], "--every=0"),
        (["--workdir=x", "--every=few"], "few"),
        (["--workdir=x", "--checkpoint=middle"], "<best|last>"),
        (["--workdir=x", "--config=y"], "config"),
        (["--workdir=x", "more"], "unexpected 'more'"),
        (["--workdir=nowhere"], "nowhere holds no run"),
    ],
)
def test_bad_flags_are_one_line_and_status_two(flags, words, capsys):
    assert main(["stream", *flags]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert words in err


def test_the_command_must_come_first(capsys):
    assert main(["train", "--workdir=x", "stream"]) == 2
    assert capsys.readouterr().err == "error: bad arguments: 'stream' must come first\n"


# --- A run that goes on


def saved(folder, step):
    """Save weights of this step, as a run does; return their shapes."""
    weights = {"params": {name: jnp.full((40, 50), step) for name in "abc"}}
    with checkpoint._manager(folder / "checkpoints" / "last") as manager:
        manager.save(step, args=ocp.args.StandardSave({"averaged": weights}), force=True)
    return jax.eval_shape(lambda: weights)


@pytest.mark.parametrize("part", ["__init__", "latest_step", "item_metadata", "restore"])
def test_a_checkpoint_that_is_replaced_while_it_is_read(part, tmp_path, monkeypatch):
    shapes = saved(tmp_path, 1)
    unchanged = getattr(ocp.CheckpointManager, part)

    def replaced(*arguments, **more):
        monkeypatch.setattr(ocp.CheckpointManager, part, unchanged)
        saved(tmp_path, 2)
        if part == "__init__":
            raise NotADirectoryError("it has gone")
        return unchanged(*arguments, **more)

    monkeypatch.setattr(ocp.CheckpointManager, part, replaced)
    weights = read_weights(tmp_path, "last", shapes)
    assert {float(value) for leaf in jax.tree.leaves(weights) for value in np.unique(leaf)} == {2}


# --- Standard streams


def shell(run, redirections, flags=("stream",)):
    """Run the command in a shell; return its status and both its outputs."""
    line = [sys.executable, "-m", "flax_sepconv.training", *flags, f"--workdir={run}"]
    ran = subprocess.run(
        ["bash", "-c", f'"$@" {redirections}', "bash", *line],
        input="1 2 3 4 5 6\n", capture_output=True, text=True,
    )  # fmt: skip
    return ran.returncode, ran.stdout, ran.stderr


STREAMS = {
    "<&-": "cannot read stdin: it is closed",
    "0>written": "cannot read stdin: Bad file descriptor",
    ">/dev/full": "cannot write the output: No space left on device",
    ">&-": "cannot write the output: stdout is closed",
}


@pytest.mark.parametrize("redirections", STREAMS)
def test_a_stream_that_will_not_do_is_one_line_and_status_two(
    redirections, run, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    status, _, err = shell(run, redirections)
    assert (status, err) == (2, f"error: {STREAMS[redirections]}\n")


def test_help_that_nobody_reads(run):
    status, out, err = shell(run, "| true; exit ${PIPESTATUS[0]}", ["--help"])
    assert (status, out, err) == (141, "", "")


def test_a_line_without_an_end_is_not_kept(run, monkeypatch, capsys):
    asked = []

    class Endless:
        def readline(self, limit):
            asked.append(limit)
            return bytes(limit)

    monkeypatch.setattr(sys, "stdin", type("", (), {"buffer": Endless()}))
    monkeypatch.setattr(training_stream, "_network", lambda *_: (None, None))
    assert main(["stream", f"--workdir={run}"]) == 2
    assert capsys.readouterr().err == "error: line 1 is longer than 1048576 bytes\n"
    assert len(asked) == 1


def test_a_byte_order_mark_is_no_number(run, monkeypatch, capsys):
    status, out, err = stream(monkeypatch, capsys, run, "\ufeff1 2 3 4 5 6\n")
    assert (status, err) == (0, "")
    assert len(out.splitlines()) == 2
