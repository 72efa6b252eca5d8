"""Runs with several seeds, and sweeps: what they leave, how they go on, what is refused."""

import json
import pathlib
import re
import signal

import numpy as np
import pytest

from flax_sepconv.training import data, loop, seeds, series, sweep
from flax_sepconv.training.config import Config, DataConfig, UserError, from_config_dict
from flax_sepconv.training.datasets import places
from flax_sepconv.training.search_plots import of_seeds, of_sweep
from tests.pictures import check, drawn

__all__ = ["drawn"]

pytestmark = [
    pytest.mark.usefixtures("compiled_once"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]

ITALY = str(places.folder(DataConfig()) / "ItalyPowerDemand")
CONFIG = from_config_dict(
    {
        "data": {"path": ITALY, "validation_fraction": 0.3},  # not that of config.data.name
        "model": {"width": 4, "blocks": 1, "kernel_size": 3},
        "train": {"epochs": 4, "batch_size": 16, "learning_rate": 0.03, "ema_decay": 0.5},
        "mesh": {"data": 1},
    }
)
STEPS = 4 * 2  # 47 of 67 series, batches of 16


def read(folder, name="summary.json"):
    return json.loads((folder / name).read_text())


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """Return the folder of a series that was stopped in its second run, and what was said."""
    workdir, said = tmp_path_factory.mktemp("seeds") / "series", []
    batches = data.train_batches

    def interrupted(split, size, seed, *others):
        for number, batch in enumerate(batches(split, size, seed, *others), 1):
            if (seed, number) == (2, 3):
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "train_batches", interrupted)
        with pytest.raises(loop.InterruptedRunError, match=f"seed-2 stopped at step . of {STEPS}"):
            seeds.run(CONFIG, workdir, (0, 2), False, said.append)
    assert not said
    assert not (workdir / "summary.json").exists()
    first = (workdir / "seed-0" / "metrics.jsonl").read_text()
    assert seeds.run(CONFIG, workdir, (0, 2), True, said.append) == 0
    assert (workdir / "seed-0" / "metrics.jsonl").read_text() == first
    return workdir, "\n".join(said)


def test_a_series_goes_on_where_it_was_and_sums_up(of_two):
    workdir, said = of_two
    summary = read(workdir)
    results = {seed: read(workdir / f"seed-{seed}", "results.json") for seed in (0, 2)}
    assert summary["data_set"] == results[0]["data_set"] == "ItalyPowerDemand"
    assert [one["seed"] for one in results.values()] == [0, 2]
    for name in ("test_accuracy", "test_loss", "validation_loss", "validation_accuracy"):
        values = [one[name] for one in results.values()]
        assert values[0] != values[1] or name.endswith("accuracy")
        found = summary["statistics"][name]
        assert found["mean"] == pytest.approx(np.mean(values))
        assert found["standard_deviation"] == pytest.approx(np.std(values, ddof=1))
        assert (found["min"], found["max"]) == (min(values), max(values))
        assert [run[name] for run in summary["runs"].values()] == values
    assert series.read(workdir) == series.Series(CONFIG, (0, 2), {})
    for words in ("seed 2", "standard deviation", "ensemble of 2"):
        assert words in said
    assert summary["ensemble"]["members"] == 2
    assert (workdir / "summary.png").read_bytes().startswith(b"\x89PNG")


def test_the_ensemble_is_the_mean_of_the_probabilities():
    rng = np.random.default_rng(0)
    answers, targets = rng.dirichlet(np.ones(4), (3, 50)), rng.integers(4, size=50)
    results, names = {"task": "classification"}, tuple("abcd")
    outcomes = {
        seed: loop.Outcome(results, probabilities, targets, names)
        for seed, probabilities in enumerate(answers)
    }
    means = [[sum(answers[s][n][c] for s in range(3)) / 3 for c in range(4)] for n in range(50)]
    right = sum(
        max(range(4), key=mean.__getitem__) == t for mean, t in zip(means, targets, strict=True)
    )
    found = series.ensemble(outcomes | {9: None})
    assert (found["members"], found["test_accuracy"]) == (3, right / 50)
    assert series.ensemble({1: None}) is None


def test_a_folder_in_use_and_other_settings_are_refused(of_two, tmp_path):
    workdir, _ = of_two
    other = sweep.changed(CONFIG, {"train.epochs": 5})
    for config, folder, resume, words in (
        (CONFIG, workdir, False, "already holds a series"),
        (other, workdir, True, r"config\.train\.epochs was 4 and is now 5"),
        (CONFIG, tmp_path, True, "holds no series of runs"),
    ):
        with pytest.raises(UserError, match=words):
            seeds.run(config, folder, (0,), resume, print)
    (tmp_path / "series.json").write_text("{}")
    with pytest.raises(UserError, match="is not the record of a series"):
        seeds.run(CONFIG, tmp_path, (0,), True, print)
    with pytest.raises(UserError, match="cannot write"):
        seeds.run(CONFIG, pathlib.Path("/proc/none"), (0,), False, print)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "like 0..4"),
        ("a", "like 0..4"),
        ("1,,2", "like 0..4"),
        ("-1", "like 0..4"),
        ("1.5", "like 0..4"),
        ("4..0", "must rise"),
        ("0..3,2", "2 twice"),
        ("3000000000", "each must be in"),
        ("0..5000", "at most 1000"),
    ],
)
def test_what_names_no_seeds_is_refused(text, words):
    with pytest.raises(UserError, match=f"--seeds.*{re.escape(words)}"):
        seeds.parse(text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train.epochs"], "must be like"),
        (["epochs=3"], "must be like"),
        (["train.epoch=3"], "did you mean config.train.epochs"),
        (["train.epochs=3,x"], "of type int, got 'x'"),
        (["train.epochs="], "of type int, got ''"),
        (["train.epochs=0"], "config.train.epochs must be > 0"),
        (["model.remat=1"], "of type bool"),
        (["model.padding=valid"], "one of same, causal"),
        (["train.epochs=3,4,3"], "value 3 twice"),
        (["train.epochs=3", "config.train.epochs=4"], "train.epochs twice"),
        (["train.seed=1,2"], "--seeds has it"),
        (["data.name=GunPoint,ArrowHead"], "cannot have data.name"),
        (["data.validation_fraction=0.1,0.2"], "cannot have data.validation_fraction"),
        (["mesh.data=1,2"], "cannot have mesh.data"),
    ],
)
def test_what_cannot_be_swept_is_refused(words, said):
    with pytest.raises(UserError, match=re.escape(said)):
        sweep.parse(words)


def test_values_have_the_type_of_their_setting():
    axes = sweep.parse(["config.model.remat=true,false", "data.standardize=series,none"])
    assert axes == {"model.remat": [True, False], "data.standardize": ["series", "none"]}
    assert [*sweep.combinations(axes)][1] == {"model.remat": True, "data.standardize": "none"}


def test_a_sweep_needs_series_to_validate_with(tmp_path):
    config = sweep.changed(CONFIG, {"data.validation_fraction": 0.0})
    axes = {"train.epochs": [1, 2]}
    with pytest.raises(UserError, match=r"config\.data\.validation_fraction must be > 0"):
        sweep.run(config, tmp_path / "none", axes, (0,), False, print)
    assert not (tmp_path / "none").exists()


def outcome(settings, seed):
    """Return made results: the validation loss is least with 3 taps, the test accuracy with 5."""
    loss = {3: 0.3, 5: 0.5, 7: 0.4}[settings.model.kernel_size] + 0.01 * seed
    loss += 0.05 * (settings.train.epochs == 2)
    accuracy = settings.model.kernel_size / 10
    results = {"validation_loss": loss, "test_accuracy": accuracy, "test_examples": 4}
    results["task"] = "classification"
    return loop.Outcome(results, np.eye(2)[[0, 1, 1, 0]], np.array([0, 1, 1, 1]), ("a", "b"))


def test_the_least_validation_loss_is_chosen_and_no_other_test_score_shown(
    tmp_path, monkeypatch, capsys
):
    trained = []

    def complete(config, folder, *, resume):
        trained.append((folder.relative_to(tmp_path / "sweep").as_posix(), resume))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").touch()
        if config.model.kernel_size == 7 and config.train.seed == 1:
            raise loop.DivergedError("not finite")
        return outcome(config, config.train.seed)

    monkeypatch.setattr(loop, "complete", complete)
    said = []
    axes = {"model.kernel_size": [5, 3, 7], "train.epochs": [2, 1]}
    assert sweep.run(CONFIG, tmp_path / "sweep", axes, (0, 1), False, said.append) == 0
    assert len(set(trained)) == 12
    assert trained[0] == ("model.kernel_size=5,train.epochs=2/seed-0", False)
    summary = read(tmp_path / "sweep")
    assert summary["data_set"] == "ItalyPowerDemand"
    chosen = summary["chosen"]
    assert chosen["settings"] == {"model.kernel_size": 3, "train.epochs": 1}
    assert chosen["statistics"]["test_accuracy"]["mean"] == 0.3
    assert chosen["ensemble"].items() >= {"members": 2, "test_accuracy": 0.75}.items()
    assert "test" not in json.dumps(summary["combinations"])
    losses = [one["statistics"]["validation_loss"]["mean"] for one in summary["combinations"]]
    assert losses[:4] == pytest.approx([0.555, 0.505, 0.355, 0.305])
    assert [one["diverged"] for one in summary["combinations"]] == [[]] * 4 + [[1]] * 2
    table, words, results = "\n".join(said).partition("chosen by validation loss")
    assert "test" not in table
    assert "kernel_size 3, epochs 1" in table
    assert words
    assert "0.75" in results
    assert "training diverged" in capsys.readouterr().err
    # A sweep goes on, with other values and seeds.
    trained.clear()
    axes = {"model.kernel_size": [5], "train.epochs": [1]}
    assert sweep.run(CONFIG, tmp_path / "sweep", axes, (1, 2), True, said.append) == 0
    place = "model.kernel_size=5,train.epochs=1"
    assert trained == [(f"{place}/seed-1", True), (f"{place}/seed-2", False)]
    assert series.read(tmp_path / "sweep") == series.Series(CONFIG, (1, 2), axes)


def test_where_all_diverge_nothing_is_chosen(tmp_path, monkeypatch):
    def complete(*_, **__):
        raise loop.DivergedError("not finite")

    monkeypatch.setattr(loop, "complete", complete)
    axes = {"train.learning_rate": [1e3, 1e4]}
    said = []
    assert sweep.run(CONFIG, tmp_path / "sweep", axes, (0,), False, said.append) == 1
    assert read(tmp_path / "sweep")["chosen"] is None
    assert seeds.run(CONFIG, tmp_path / "seeds", (0, 1), False, said.append) == 1
    assert read(tmp_path / "seeds")["diverged"] == [0, 1]
    assert [text.split().count("diverged") for text in said] == [2, 2]


def made_runs(count, rng):
    return {
        str(seed): {"test_accuracy": rng.uniform(0.9, 1), "validation_loss": rng.uniform(0.2, 0.3)}
        for seed in range(count)
    }


def statistics(runs):
    names = ("test_accuracy", "validation_loss")
    return {name: series.summarise([run[name] for run in runs.values()]) for name in names}


@pytest.mark.parametrize("count", [1, 5, 12])
def test_the_picture_of_seeds_can_be_read(count, drawn, tmp_path):
    runs = made_runs(count, np.random.default_rng(1))
    together = {"members": count, "test_accuracy": 0.985}
    record = {"data_set": "JapaneseVowels", "runs": runs, "ensemble": together}
    of_seeds(record | {"statistics": statistics(runs)}, tmp_path / "a.png")
    ((figure, texts),) = drawn
    check(figure, texts)


@pytest.mark.parametrize(("values", "count"), [(2, 1), (3, 5)])
def test_the_picture_of_a_sweep_can_be_read(values, count, drawn, tmp_path):
    rng = np.random.default_rng(1)
    axes = {
        "train.learning_rate": [1e-3, 3e-3, 0.01][:values],
        "model.kernel_size": [9, 31, 5][:values],
    }
    found = []
    for number, settings in enumerate(sweep.combinations(axes)):
        runs, name = made_runs(count, rng), sweep._name(settings)
        diverged = [0] if number == 1 else []
        one = {"name": name, "settings": settings, "diverged": diverged, "runs": runs}
        found.append(one | {"statistics": statistics(runs)})
    record = {"data_set": "JapaneseVowels", "seeds": list(range(count)), "combinations": found}
    of_sweep(record | {"chosen": {"settings": found[2]["settings"]}}, tmp_path / "a.png")
    ((figure, texts),) = drawn
    check(figure, texts)


def test_a_config_is_changed_by_names_alone():
    changed = sweep.changed(CONFIG, {"model.kernel_size": 9})
    assert changed.model.kernel_size == 9
    assert sweep.changed(changed, {"model.kernel_size": 3}) == CONFIG != Config()
