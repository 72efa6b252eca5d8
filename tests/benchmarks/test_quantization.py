"""The benchmark of integers made of trained networks: what it compares, keeps and shows."""

import json
import subprocess

import numpy as np
import pytest

from benchmarks import machine, timing
from benchmarks.quantization import measure, picture, table, trial, versions
from benchmarks.quantization.versions import FLOAT, VERSIONS
from benchmarks.worker import WorkerError
from flax_sepconv.training import trained
from tests import pictures
from tests.pictures import drawn  # noqa: F401 - a fixture
from tests.training_runs import make_run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def row(name, seed):
    rng = np.random.default_rng(seed)
    facts = {
        version: {
            "accuracy": 0.9 + 0.01 * rng.integers(5),
            "bytes": 1000 if version == FLOAT else 300,
            "milliseconds": 2.0 if version == FLOAT else 1.0 + rng.random(),
        }
        for version in table.TITLES
    }
    return {
        "set": name, "seed": seed, "training_series": 9, "test_series": 8, "versions": facts
    }  # fmt: skip


def test_versions_of_a_run_are_compared(tmp_path, monkeypatch):
    make_run(tmp_path / "run")
    some = {name: VERSIONS[name] for name in ("ptq", "qat_learned")}
    monkeypatch.setattr(versions, "VERSIONS", some)
    monkeypatch.setattr(versions, "EPOCHS", 0.01)
    monkeypatch.setattr(
        timing, "interleaved", lambda clocks, _: {n: [c(1)[0]] for n, c in clocks.items()}
    )
    found = trial.compared(trained.load(tmp_path / "run", None))
    told = found["versions"]
    assert list(told) == [FLOAT, *some]
    assert all(0 <= facts["accuracy"] <= 1 < 1e6 * facts["milliseconds"] for facts in told.values())
    assert 2 < told[FLOAT]["bytes"] / told["ptq"]["bytes"] < 4
    # Converted, the network is the one that was trained.
    learned = told["qat_learned"]
    assert learned["accuracy"] == learned["accuracy_while_training"]
    json.dumps(found)


def test_sets_are_summed_up():
    rows = [row(name, seed) for name in ("a", "b") for seed in range(3)]
    sets = measure.summarize(rows)
    accuracies = [r["versions"]["ptq"]["accuracy"] for r in rows[:3]]
    assert sets["a"]["versions"]["ptq"]["accuracy"] == pytest.approx(np.mean(accuracies))
    assert sets["b"]["seeds"] == [0, 1, 2]
    lines = table.text(sets).strip().splitlines()
    assert len(lines) == 2 + len(table.TITLES)
    assert len({line.count("|") for line in lines}) == 1
    assert "0.30" in lines[-1]


def test_the_picture_can_be_read(drawn, tmp_path):  # noqa: F811
    rows = [row(name, seed) for name in measure.SETS for seed in range(5)]
    record = {**machine.facts("jax"), "sets": measure.summarize(rows)}
    picture.draw(record, tmp_path / "quantization.png")
    pictures.check(*drawn[0])


def test_a_run_that_fails_is_told(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "first\nlast")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(WorkerError, match="GunPoint, seed 3: first"):
        measure.run(tmp_path, "GunPoint", 3, None)


def test_what_is_there_is_kept(tmp_path):
    folder = measure.folder_of(tmp_path, "GunPoint", 3)
    folder.mkdir()
    (folder / "found.json").write_text('{"versions": {}}')
    assert measure.run(tmp_path, "GunPoint", 3, None) == {
        "set": "GunPoint", "seed": 3, "versions": {}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "message"), [(["--sets=X"], "--sets: must be of ACSF1"), (["--seeds=0"], "positive")]
)
def test_unusable_flags(flags, message, capsys, tmp_path):
    with pytest.raises(SystemExit):
        measure.parse([*flags, f"--output={tmp_path / 'x.json'}"])
    assert message in capsys.readouterr().err
