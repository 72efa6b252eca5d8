"""Runs with several seeds, and sweeps, from the command line: begun and continued."""

import json

import pytest

from flax_sepconv.training import seeds, sweep
from flax_sepconv.training.__main__ import main
from tests.training_runs import refused

pytestmark = [
    pytest.mark.usefixtures("compiled_once"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]

CONFIG = """
def get_config():
    return {
        "data": {"name": "ItalyPowerDemand", "validation_fraction": 0.25},
        "model": {"width": 4, "blocks": 1, "kernel_size": 3},
        "train": {"epochs": 1, "batch_size": 16},
        "mesh": {"data": 1},
    }
"""


@pytest.fixture
def begin(tmp_path):
    (tmp_path / "tiny.py").write_text(CONFIG)
    return ["train", f"--config={tmp_path / 'tiny.py'}", f"--workdir={tmp_path / 'several'}"]


def test_runs_with_several_seeds_are_continued_by_their_folder_alone(begin, tmp_path, capsys):
    assert main([*begin, "--seeds=0..1"]) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "several"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["seeds"] == [0, 1]
    (folder / "summary.json").unlink()
    (tmp_path / "tiny.py").unlink()
    assert main(["train", f"--workdir={folder}"]) == 0
    assert capsys.readouterr().out == out
    assert json.loads((folder / "summary.json").read_text()) == summary
    refused([f"--workdir={folder}", "--config.train.epochs=2"], "config.train.epochs was 1", capsys)


def test_a_sweep_is_begun_and_continued(begin, tmp_path, monkeypatch):
    asked = []

    def run(config, workdir, axes, several, resume, write):
        asked.append((config.train.epochs, workdir, axes, several, resume))
        return 0

    monkeypatch.setattr(sweep, "run", run)
    axes = {"train.learning_rate": [1e-3, 3e-3], "model.width": [4, 8]}
    folder = tmp_path / "several"
    flags = ["--sweep=train.learning_rate=1e-3,3e-3", "--sweep", "model.width=4,8"]
    assert main([*begin, *flags]) == 0
    assert asked.pop() == (1, folder, axes, (0,), False)
    assert main([*begin, *flags, "--seeds=3,4"]) == 0
    assert asked.pop() == (1, folder, axes, (3, 4), False)
    folder.mkdir()
    noted = {"config": {"train": {"epochs": 7}}, "seeds": [3, 4], "sweep": axes}
    (folder / "series.json").write_text(json.dumps(noted))
    assert main(["train", f"--workdir={folder}"]) == 0
    assert asked.pop() == (7, folder, axes, (3, 4), True)
    assert main(["train", f"--workdir={folder}", "--seeds=3..5"]) == 0
    assert asked.pop() == (7, folder, axes, (3, 4, 5), True)


def test_wrong_seeds_and_sweeps_are_one_line_and_status_two(begin, capsys):
    refused([*begin[1:], "--seeds=4..0x"], "--seeds must be like", capsys)
    refused([*begin[1:], "--sweep=train.epoch=1,2"], "epoch", capsys)
    assert seeds.parse("0..2") == (0, 1, 2)
