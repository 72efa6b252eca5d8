"""One run on several devices and processes, whatever becomes of them."""

import json
import signal
import sys
import textwrap
import time

import numpy as np
import pytest

from flax_sepconv.training.__main__ import main
from tests.processes import Processes

pytestmark = [
    pytest.mark.usefixtures("compiled_once"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]

TINY = """
from flax_sepconv.training.config import default_config

def get_config():
    config = default_config()
    config.data.name = "BasicMotions"
    config.augment.noise = 0.1
    config.model.width = 8
    config.model.blocks = 1
    config.model.kernel_size = 3
    config.model.stem_multiplier = 1
    config.train.epochs = 60
    config.train.batch_size = 8
    config.train.learning_rate = 0.01
    config.train.checkpoint_every = 15
    return config
"""
PER_EPOCH = 40 // 8
TOTAL = 60 * PER_EPOCH


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("configs") / "tiny.py"
    file.write_text(TINY)
    return file


def rows(workdir):
    file = workdir / "metrics.jsonl"
    return list(map(json.loads, file.read_text().splitlines())) if file.exists() else []


def losses(workdir, count):
    return [row["loss"] for row in rows(workdir)[:count]]


@pytest.fixture(scope="module")
def alone(config_file, tmp_path_factory):
    """Return the folder of a run on one device."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    sys.modules.pop("config_config", None)
    line = ["train", f"--config={config_file}", f"--workdir={workdir}", "--config.mesh.data=1"]
    assert main(line) == 0
    return workdir


def begin(count, config_file, workdir, *more):
    def arguments(group):
        flags = zip(("--coordinator", "--processes", "--process"), map(str, group), strict=True)
        where = [f"--config={config_file}", f"--workdir={workdir}", *more]
        return ["-m", "flax_sepconv.training", *where, *(word for pair in flags for word in pair)]

    return Processes(count, arguments, JAX_DISABLE_MOST_OPTIMIZATIONS="1")


def wait_for_row(workdir, number, processes):
    deadline = time.monotonic() + 300
    while len(rows(workdir)) < number:
        assert processes[0].poll() is None, processes.wait() and processes.said()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def last_step(workdir):
    return max(int(path.name) for path in (workdir / "checkpoints" / "last").glob("[0-9]*"))


def test_a_run_goes_on_with_other_processes_whatever_ends_them(
    config_file, alone, tmp_path, capsys
):
    """Four processes, of which one gets SIGTERM; two, of which one is killed; then one."""
    workdir = tmp_path / "run"
    with begin(4, config_file, workdir) as processes:
        wait_for_row(workdir, 2, processes)
        processes[2].send_signal(signal.SIGTERM)
        assert processes.wait() == [128 + signal.SIGTERM] * 4, processes.said()
    first, *others = processes.said()
    assert others == ["", "", ""]
    assert "mesh: data 4, sequence 1, model 1; 4 of 4 devices" in first
    done = first.splitlines()[-1]
    stopped = last_step(workdir)
    assert done.startswith(f"stopped at step {stopped} of {TOTAL}; continue with: ")
    assert processes.printed() == [""] * 4
    before = (stopped - 1) // PER_EPOCH  # rows that are not written again

    with begin(2, config_file, workdir, "--resume") as processes:
        wait_for_row(workdir, before + 5, processes)
        processes[1].kill()
        killed = time.monotonic()
        ended, status = processes.wait()
        assert time.monotonic() - killed < 60
    assert (ended, status) == (75, -signal.SIGKILL)
    assert "error: another process of the run was lost (" in processes.said()[0]
    assert "continue with: " in processes.said()[0]
    assert last_step(workdir) >= stopped

    line = ["train", f"--workdir={workdir}", "--resume", "--config.mesh.data=1"]
    assert main(line) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert [row["step"] for row in rows(workdir)] == [row["step"] for row in rows(alone)]
    # Of four processes, of two and of one; later rounding grows, as it does in any run.
    np.testing.assert_allclose(losses(workdir, 2), losses(alone, 2), rtol=1e-6)
    np.testing.assert_allclose(losses(workdir, before + 5), losses(alone, before + 5), rtol=1e-4)
    assert json.loads((workdir / "results.json").read_text())["test_accuracy"] > 0.8


DEVICES = """
    import pathlib
    import signal
    import sys

    import jax

    from flax_sepconv.training import data
    from flax_sepconv.training.__main__ import main

    batches = data.train_batches

    def interrupted(split, size, seed, start, stop, rows):
        for step, batch in enumerate(batches(split, size, seed, start, stop, rows), start + 1):
            if step == 16:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    data.train_batches = interrupted
    config, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    assert jax.device_count() == 8
    for count in (2, -1):
        sys.modules.pop("config_config", None)
        flags = [f"--workdir={folder / str(count)}", f"--config.mesh.data={count}"]
        assert main(["train", f"--config={config}", *flags]) == 128 + signal.SIGTERM
"""


def test_one_two_and_eight_devices_have_the_same_losses(config_file, alone, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(DEVICES))
    line = [str(program), str(config_file), str(tmp_path)]
    with Processes(1, lambda _: line, devices=8) as processes:
        assert processes.wait() == [0], processes.said()
    for words in ("data 2, sequence 1, model 1; 2 of 8 devices", "data 8, sequence 1, model 1; 8"):
        assert words in processes.said()[0]
    one = losses(alone, 3)
    assert len(set(one)) == 3
    for count in ("2", "-1"):
        np.testing.assert_allclose(losses(tmp_path / count, 3), one, rtol=1e-6)
    # What was begun on eight goes on on one.
    assert last_step(tmp_path / "-1") == 16
    line = ["train", f"--workdir={tmp_path / '-1'}", "--resume", "--config.mesh.data=1"]
    assert main(line) == 0
    assert len(rows(tmp_path / "-1")) == len(rows(alone))
    np.testing.assert_allclose(losses(tmp_path / "-1", 10), losses(alone, 10), rtol=1e-4)
