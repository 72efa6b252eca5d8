"""What others do to the folder of a run, and to its data: one line each, and nothing is lost."""

import contextlib
import json
import logging
import os
import shutil
import signal
import sys

import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_sepconv.training import console, loop
from flax_sepconv.training import step as steps
from flax_sepconv.training.__main__ import main
from flax_sepconv.training.checkpoint import Checkpoints
from flax_sepconv.training.complaints import silence_logs
from flax_sepconv.training.config import UserError, from_config_dict
from flax_sepconv.training.data import load
from flax_sepconv.training.record import Recorder
from flax_sepconv.training.stop import Stop
from flax_sepconv.training.workdir import open_workdir, write_atomically
from tests.training.test_data import write_set
from tests.training_runs import no_file_beyond, refused

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore:coroutine"
)


@pytest.fixture(autouse=True)
def logs_as_in_the_program():
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    silence_logs()
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- Checkpoints


SGD = optax.sgd(0.1)


def state_at(step):
    """Return a small state; its best weights are those of step 10 or, from 30 on, of step 30."""
    best = 10 if step < 30 else 30
    rng = np.random.default_rng(best)
    weights = {"w": jnp.asarray(rng.normal(size=(40, 50)), jnp.float32)}
    return steps.TrainState.create(
        apply_fn=None,
        params={"w": jnp.full((40, 50), step, jnp.float32)},
        tx=SGD,
        batch_stats={},
        averaged=weights,
        best=weights,
        best_score=jnp.float32(1 / best),
        best_step=jnp.int32(best),
        key=jnp.zeros(2, jnp.uint32),
        sums={"loss": jnp.float32(step)},
        stopping={},
        constraints=None,
    ).replace(step=jnp.int32(step))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a folder with the checkpoints of steps 20 and 30, not to be changed."""
    workdir = tmp_path_factory.mktemp("saved")
    with Checkpoints(workdir) as checkpoints:
        for step in (10, 20, 30):
            checkpoints.save(state_at(step))
    (workdir / "metrics.jsonl").write_text("")
    return workdir


def arrays(folder):
    """Return the file that holds most of a checkpoint."""
    return max((p for p in folder.rglob("d/*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 4
    file.write_bytes(content)


def halved(folder):
    for file in folder.rglob("*"):
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)


def replaced_by_a_file(folder):
    shutil.rmtree(folder)
    folder.write_text("")


# What is done to the folder of checkpoints, the step that is gone on from, and what is said.
CHECKPOINTS = {
    "empty 999": (lambda c: (c / "last/999").mkdir(), 30, "last/999 is damaged"),
    "renamed": (
        lambda c: (c / "last/20").rename(c / "last/40"), 30, "damaged (it is that of step 20)"
    ),
    "cut": (lambda c: halved(c / "last/30"), 20, "last/30 is damaged"),
    "a bit": (lambda c: flip(arrays(c / "last/30"), 0.5), 20, "last/30 is damaged"),
    "no arrays": (lambda c: shutil.rmtree(c / "last/30/default"), 20, "last/30 is damaged"),
    "all cut": (lambda c: halved(c / "last"), UserError, "no checkpoint can be read: "),
    "gone": (lambda c: shutil.rmtree(c), UserError, "lost its checkpoints: there is no "),
    "emptied": (
        lambda c: [shutil.rmtree(p) for p in (c / "last").iterdir()], UserError, "last is empty"
    ),
    "a file": (lambda c: replaced_by_a_file(c / "last"), UserError, "last is not a folder"),
    "no best": (lambda c: shutil.rmtree(c / "best"), 30, "step 30 is not there: written anew"),
    "best cut": (lambda c: halved(c / "best"), 30, "best of step 30 is damaged"),
    "best empty": (lambda c: shutil.rmtree(c / "best/30/default"), 30, "best of step 30 is"),
    "half written": (lambda c: (c / "last/40.orbax-checkpoint-tmp").mkdir(), 30, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_damaged_checkpoints_are_told_and_the_one_before_is_taken(case, saved, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(saved, workdir)
    damage, wanted, words = CHECKPOINTS[case]
    damage(workdir / "checkpoints")
    before = files(workdir)
    if wanted is UserError:
        with (
            pytest.raises(UserError, match=words) as error,
            Checkpoints(workdir) as checkpoints,
        ):
            checkpoints.restore(state_at(0))
        assert "\n" not in str(error.value)
        assert files(workdir) == before
        return
    with Checkpoints(workdir) as checkpoints:
        restored = checkpoints.restore(state_at(0))
        chex.assert_trees_all_equal(restored, state_at(wanted))
        err = capsys.readouterr().err
        assert words in err
        assert bool(err) == bool(words)
        # "best" may still be written, in the background: what is kept is beside it.
        kept = [workdir / "checkpoints/last", *workdir.glob("damaged-*")]
        kept = {content for folder in kept for content in files(folder).values()}
        assert {v for k, v in before.items() if "last" in k.parts} <= kept
        checkpoints.save(state_at(50))  # as the run goes on
    with Checkpoints(workdir) as checkpoints:
        chex.assert_trees_all_equal(checkpoints.restore(state_at(0)), state_at(50))
    assert capsys.readouterr().err == ""  # all is in order again
    assert [p.name for p in (workdir / "checkpoints/best").iterdir()] == ["30"]


@pytest.mark.parametrize("size", [0, 300, 3000])
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(size, tmp_path, capfd):
    def save():
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(state_at(10))
            checkpoints.describe()  # waits for it
            with no_file_beyond(size):
                checkpoints.save(state_at(20))
                checkpoints.describe()

    with pytest.raises(UserError) as error:
        save()
    last = tmp_path / "checkpoints" / "last"
    said = f"cannot write {last.parent}: File too large; last good checkpoint: {last / '10'}"
    assert str(error.value) == said
    assert [p.name for p in last.iterdir()] == ["10"]
    assert capfd.readouterr() == ("", "")
    with Checkpoints(tmp_path) as checkpoints:
        chex.assert_trees_all_equal(checkpoints.restore(state_at(0)), state_at(10))


# --- Rows


def row(step):
    names = ("loss", "accuracy", "steps_per_second", "examples_per_second")
    return {"step": step, "epoch": step / 10, "time": 1.5e9, **dict.fromkeys(names, 0.5)}


def record(workdir, start, rows):
    with Recorder(workdir, start, 100, 10) as recorder:
        for step in rows:
            recorder.add(row(step))


def line(number, content):
    """Return a change of one line of a file, counted from 1."""

    def change(file):
        lines = file.read_bytes().splitlines(keepends=True)
        lines[number - 1] = content
        file.write_bytes(b"".join(lines))

    return change


# What is done to the record of ten rows, which of them are left at step 80, and what is said.
ROWS = {
    "a bad stretch": (line(3, b"\0\0\xff{{\n"), {30}, "1 line is no row (line 3) and 1 of 8 rows"),
    "two bad lines": (line(3, b"{}\n123\n"), {30}, "2 lines are no rows (line 3) and 1 of 8 rows"),
    "a line more": (line(3, json.dumps(row(30)).encode() + b"\n[]\n"), set(), "(line 4); what was"),
    "twice": (line(3, json.dumps(row(20)).encode() + b"\n"), {30}, "(line 3) and 1 of 8"),
    "deep": (line(3, b"[" * 100_000 + b"\n"), {30}, "(line 3)"),
    "not finite": (
        line(3, json.dumps(row(30)).replace("0.5", "NaN", 1).encode() + b"\n"),
        {30},
        "(line 3)",
    ),
    "a line gone": (line(3, b""), {30}, "metrics.jsonl: 1 of 8 rows are not there"),
    "deleted": (os.unlink, {*range(10, 81, 10)}, "8 of 8 rows are not there"),
    "cut by a crash": (line(10, b'{"step": 1'), set(), ""),
    "whole": (line(1, json.dumps(row(10)).encode() + b"\n"), set(), ""),
}


@pytest.mark.parametrize("case", ROWS)
def test_damaged_rows_are_told_and_the_others_kept(case, tmp_path, capsys):
    record(tmp_path, 0, range(10, 101, 10))
    capsys.readouterr()
    change, lost, words = ROWS[case]
    file = tmp_path / "metrics.jsonl"
    change(file)
    damaged = file.read_bytes() if file.exists() else b""
    events = [p.read_bytes() for p in (tmp_path / "tensorboard").iterdir()]
    record(tmp_path, 80, [90, 100])
    err = [text for text in capsys.readouterr().err.splitlines() if not text.startswith("epoch")]
    assert len(err) == bool(words)
    assert words in "".join(err)
    found = [json.loads(text) for text in file.read_text().splitlines()]
    assert found == [row(step) for step in range(10, 101, 10) if step not in lost]
    kept = [p.read_bytes() for p in tmp_path.glob("damaged-1/*")]
    assert (damaged in kept) == ("line" in words)
    assert (events[0] in kept) == bool(lost)
    record(tmp_path, 100, [])  # the same is not kept twice
    assert not (tmp_path / "damaged-2").exists()


def test_records_that_cannot_be_opened_are_refused_and_left(tmp_path):
    record(tmp_path, 0, [10])
    before = files(tmp_path)
    (tmp_path / "metrics.jsonl").rename(tmp_path / "other")
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl is not a regular file"):
        record(tmp_path, 10, [])
    (tmp_path / "metrics.jsonl").rmdir()
    (tmp_path / "other").rename(tmp_path / "metrics.jsonl")
    with no_file_beyond(50), pytest.raises(OSError, match="File too large"):
        record(tmp_path, 10, [])
    assert {name: files(tmp_path)[name] for name in before} == before
    shutil.rmtree(tmp_path / "tensorboard")
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(UserError, match="tensorboard is not a folder"):
        record(tmp_path, 10, [])


def test_a_file_that_cannot_be_written_is_not_half_written(tmp_path):
    write_atomically(tmp_path / "a", "old")
    with no_file_beyond(3), pytest.raises(OSError, match=r"File too large: '.*a'"):
        write_atomically(tmp_path / "a", "new ones")
    assert files(tmp_path) == {(tmp_path / "a").relative_to(tmp_path): b"old"}


# --- Data

TRAIN, TEST = ["1,2:5,6:a", "3:7:b", "4:8:a"], ["1:1:a", "2:2:b"]
HEADER = "@univariate false\n@equalLength false\n@classLabel true a b\n@data\n{rows}"
OTHER = {
    "fewer": ({"train": TRAIN[:2]}, "Tiny_TRAIN.ts: series was 3 and is now 2"),
    "longer": ({"test": ["1,1:1,1:a", "2:2:b"]}, "Tiny_TEST.ts: longest was 1 and is now 2"),
    "a class": ({"header": HEADER.replace("a b", "a b c")}, "is now ['a', 'b', 'c']"),
    "classes reordered": ({"header": HEADER.replace("a b", "b a")}, "is now ['b', 'a']"),
    "values": ({"test": ["1:1:a", "2:2.5:b"]}, "Tiny_TEST.ts: other values than before"),
    "series reordered": ({"train": TRAIN[::-1]}, "Tiny_TRAIN.ts: other values than before"),
    "labels": ({"train": ["1,2:5,6:b", *TRAIN[1:]]}, "Tiny_TRAIN.ts: other labels than before"),
    "no TRAIN": ({"train": []}, "Tiny_TRAIN.ts holds no series"),
    "no TEST": ({"test": []}, "Tiny_TEST.ts holds no series"),
    "no change": ({}, "another trainer is at work in workdir run"),
}  # fmt: skip


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """Begin a run in a folder; return what is to be closed at its end."""
    monkeypatch.chdir(tmp_path)
    data = write_set(tmp_path, TRAIN, TEST, HEADER)
    config = from_config_dict({"data": {"name": data.name, "path": data.path}})
    with contextlib.ExitStack() as stack:
        split, test = load(config.data)
        stack.enter_context(open_workdir(tmp_path / "run", config, split, test, resume=False))
        yield stack


@pytest.mark.parametrize("case", OTHER)
def test_other_data_are_refused(case, begun, tmp_path, capsys):
    change, words = OTHER[case]
    if change:
        begun.close()
    write_set(tmp_path, **{"train": TRAIN, "test": TEST, "header": HEADER, **change})
    before = files(tmp_path / "run")
    refused(["--workdir=run", "--resume"], words, capsys)
    assert files(tmp_path / "run") == before


def test_a_lock_that_cannot_be_taken_is_refused(begun, tmp_path, capsys):
    begun.close()
    (tmp_path / "run" / "lock").unlink()
    (tmp_path / "run" / "lock").mkdir()
    refused(["--workdir=run", "--resume"], "cannot write workdir run: Is a directory", capsys)


# --- Streams and signals


def test_a_fault_of_the_program_is_not_called_divergence(begun, capsys, monkeypatch):
    monkeypatch.setattr(loop, "run", lambda *_, **__: 1 / 0)
    assert main(["train", "--workdir=run", "--resume"]) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("stream", ["none", "closed"])
def test_a_line_that_cannot_be_said_is_no_error(stream, monkeypatch, tmp_path):
    with open(tmp_path / "err", "w") as closed:
        pass
    monkeypatch.setattr(sys, "stderr", None if stream == "none" else closed)
    console.say("anything")
    record(tmp_path, 0, [10])
    console.settle()


def test_the_third_signal_acts_as_before():
    heard = []
    sent = signal.SIGTERM, signal.SIGHUP
    before = {n: signal.signal(n, lambda number, _: heard.append(number)) for n in sent}
    try:
        with Stop() as stop:
            stop.listen()
            for number in sent:
                signal.raise_signal(number)
            assert (stop.number, heard) == (signal.SIGTERM, [])
            signal.raise_signal(signal.SIGTERM)
            assert heard == [signal.SIGTERM]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            stop.listen()
            signal.raise_signal(signal.SIGHUP)
            assert not stop.number
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_pipe_of_a_library_that_breaks_stops_nothing():
    """As a loop of asyncio that closes while a thread wakes it: what is said is still read."""
    reader, writer = os.pipe()
    os.close(reader)
    with Stop() as stop:
        stop.listen()
        with pytest.raises(BrokenPipeError):
            os.write(writer, b"?")
        assert not stop.number
    os.close(writer)
