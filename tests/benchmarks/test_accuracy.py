"""The benchmark of the trainer's recipes: what it trains, keeps, averages and shows."""

import json
import subprocess

import numpy as np
import pytest

from benchmarks import machine
from benchmarks.accuracy import measure, picture, published, table
from benchmarks.worker import WorkerError
from tests import pictures
from tests.pictures import drawn  # noqa: F401 - a fixture

SETS = list(measure.RECIPES)


def record_of(sets, seeds=5):
    """Return a record of made-up runs."""
    rng = np.random.default_rng(3)
    facts = {}
    for place, name in enumerate(sets):
        accuracies = np.clip(0.93 + rng.normal(0, 0.03, seeds), 0, 1)
        facts[name] = {
            "accuracies": accuracies.tolist(),
            "mean": float(accuracies.mean()),
            "averaged": 0.95 + place / 200,
            "parameters": 10_000 + place,
            "training_series": 40,
            "test_series": 100,
            "seconds": 10.0 * (place + 1),
        }
    return {**machine.facts("jax"), "load_average_after": [0.5, 0.5, 0.5], "sets": facts}


def test_every_set_has_its_recipe_and_published_figures():
    """The means are those of the sources' numbers, added up by hand."""
    assert set(SETS) == set(published.METHODS["lite"].accuracies)
    for name in table.SHOWN:
        assert set(published.METHODS[name].accuracies) == set(SETS)
    means = [table.mean_over(SETS, published.METHODS[n].accuracies) for n in table.SHOWN]
    np.testing.assert_allclose(means, [0.9413, 0.9481, 0.9428, 0.9515], atol=6e-5)


@pytest.mark.parametrize("sets", [SETS, SETS[-1:]])
def test_the_picture_can_be_read(sets, drawn, tmp_path):  # noqa: F811
    picture.draw(record_of(sets), tmp_path / "accuracy.png")
    pictures.check(*drawn[0])
    for axes in drawn[0][0].axes[:2]:
        pictures.points(axes)


def test_the_table_has_the_means():
    record = record_of(SETS)
    lines = table.text(record["sets"], published.METHODS).strip().splitlines()
    assert len(lines) == 2 + len(SETS) + 1
    assert len({line.count("|") for line in lines}) == 1
    mean = np.mean([np.mean(facts["accuracies"]) for facts in record["sets"].values()])
    assert f"**{mean:.4f}**" in lines[-1]


def test_probabilities_are_averaged_and_not_votes(tmp_path):
    """Two networks are hardly for the wrong class of the first series, the third is sure."""
    columns = ([0.6, 0.9], [0.6, 0.2], [0.0, 0.9])  # of class 0; the labels are 1 and 0
    rows = [{"set": "GunPoint", "seed": seed} for seed in range(3)]
    for row, shares in zip(rows, columns, strict=True):
        folder = measure.folder_of(tmp_path, row["set"], row["seed"])
        folder.mkdir()
        both = np.stack([shares, 1 - np.array(shares)], -1)
        np.savez(folder / "probabilities.npz", probabilities=both, labels=np.array([1, 0]))
    assert measure.averaged(tmp_path, rows) == 1.0


def small(name, seed):
    return {
        "data": {"name": name},
        "model": {"width": 4, "blocks": 1, "kernel_size": 3},
        "train": {"seed": seed, "epochs": 2, "batch_size": 20},
    }


def test_what_is_done_is_kept(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(measure, "settings", small)
    output = tmp_path / "accuracy.json"
    flags = [f"--output={output}", f"--runs={tmp_path / 'runs'}", "--sets=BasicMotions"]
    measure.main([*flags, "--seeds=0", "--workers=1"])
    first = json.loads(output.read_text())
    assert first["complete"]
    (row,) = first["rows"]
    assert row["errors"] == round(40 * (1 - row["accuracy"]))
    assert first["sets"]["BasicMotions"]["averaged"] == row["accuracy"]  # of one, its own
    assert output.with_suffix(".png").exists()
    assert "BasicMotions" in capsys.readouterr().out

    def fail(*_, **__):
        return subprocess.CompletedProcess([], 1, "", "killed")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(WorkerError, match="BasicMotions, seed 1: killed"):
        measure.main([*flags, "--seeds=0,1", "--workers=1"])
    stopped = json.loads(output.read_text())
    assert stopped["rows"] == [row]
    assert not stopped["complete"]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--sets=Nothing", "--sets: must be of ACSF1"),
        ("--seeds=a", "--seeds: must be integers, got a"),
        ("--seeds=1,1", "--seeds: must be different and >= 0"),
        ("--workers=0", "--workers: must be positive, got 0"),
    ],
)
def test_bad_flags_are_refused(flag, words, capsys):
    with pytest.raises(SystemExit) as end:
        measure.parse([flag])
    assert end.value.code == 2
    assert words in capsys.readouterr().err
