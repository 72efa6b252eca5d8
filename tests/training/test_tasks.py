"""Classes, values and sets of labels: losses, measures, whole runs, streams and pictures."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from flax_sepconv.training import data, loop, metrics, plots, tasks
from flax_sepconv.training import results as finished
from flax_sepconv.training.config import DataConfig, UserError, from_config_dict
from flax_sepconv.training.model import SeparableResNet
from flax_sepconv.training.splits import Scaling
from flax_sepconv.training.workdir import read_record
from tests.pictures import check, drawn
from tests.training_runs import stream

__all__ = ["drawn"]

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.usefixtures("compiled_once"),
]

RNG = np.random.default_rng(0)
NAMES = np.array(["high", "rising"])


def test_each_loss_and_count_is_what_it_is_called():
    logits = RNG.normal(size=(5, 3)).astype(np.float32)
    classes = np.array([0, 2, 1, 1, 0])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    task = tasks.TASKS["classification"]
    entropies = -np.log(p[np.arange(5), classes])
    np.testing.assert_allclose(task.losses(logits, classes, 0.0), entropies, rtol=1e-5)
    smooth = 0.7 * entropies - 0.3 * np.log(p).mean(-1)
    np.testing.assert_allclose(task.losses(logits, classes, 0.3), smooth, rtol=1e-5)
    np.testing.assert_allclose(task.answers(logits), p, rtol=1e-5)
    assert task.counts(logits, classes).tolist() == (p.argmax(-1) == classes).tolist()

    task, values = tasks.TASKS["regression"], RNG.normal(size=5).astype(np.float32)
    np.testing.assert_allclose(
        task.losses(logits[:, :1], values, 0.0), (logits[:, 0] - values) ** 2, rtol=1e-4
    )
    np.testing.assert_allclose(
        task.counts(logits[:, :1], values), np.abs(logits[:, 0] - values), rtol=1e-5
    )
    scaling = Scaling(np.array([3.0]), np.array([2.0]))
    told = tasks.answers("regression", logits[:, :1], scaling)
    np.testing.assert_allclose(told, 3 + 2 * logits[:, 0], rtol=1e-5)

    task, labels = tasks.TASKS["multilabel"], (RNG.random((5, 3)) < 0.5).astype(np.float32)
    q = 1 / (1 + np.exp(-logits))
    for part in (0.0, 0.2):
        wanted = (1 - part) * labels + part / 2
        entropies = -(wanted * np.log(q) + (1 - wanted) * np.log(1 - q)).mean(-1)
        np.testing.assert_allclose(task.losses(logits, labels, part), entropies, rtol=1e-4)
    labels[:2] = q[:2] > 0.5
    right = ((q > 0.5) == labels).all(-1)
    assert task.counts(logits, labels).tolist() == right.tolist()
    assert right.any()
    np.testing.assert_allclose(task.answers(logits), q, rtol=1e-5)


def f1(truth, predicted):
    """Return the harmonic mean of precision and recall of two arrays of bools; 0 for no hit."""
    hits = (truth & predicted).sum()
    return 2 * hits / max(truth.sum() + predicted.sum(), 1)


def test_measures_of_classes_are_those_counted_by_hand():
    truth = np.repeat(np.arange(4), [6, 3, 2, 0])
    scores = RNG.random((11, 4))
    predicted = scores.argmax(-1)
    assert 3 in predicted  # a class that no series has
    found = metrics.of("classification", scores, truth, tuple("abcd"))
    assert found["accuracy"] == pytest.approx(np.mean(predicted == truth))
    matrix = [[int(((truth == t) & (predicted == p)).sum()) for p in range(4)] for t in range(4)]
    assert found["confusion_matrix"] == matrix
    recalls = [matrix[t][t] / sum(matrix[t]) for t in range(3)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    each = [f1(truth == c, predicted == c) for c in range(4)]
    assert found["macro_f1"] == pytest.approx(np.mean(each))
    assert json.loads(json.dumps(found)) == found


def test_measures_of_values_are_those_counted_by_hand():
    truth, values = RNG.normal(5, 2, 20), RNG.normal(5, 2, 20)
    found = metrics.of("regression", values, truth, ("value",))
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((values - truth) ** 2)))
    assert found["mae"] == pytest.approx(np.mean(np.abs(values - truth)))
    rest, whole = ((values - truth) ** 2).sum(), ((truth - truth.mean()) ** 2).sum()
    assert found["r2"] == pytest.approx(1 - rest / whole)
    assert metrics.of("regression", values[:1], truth[:1], ("value",))["r2"] is None


def test_measures_of_labels_are_those_counted_by_hand():
    truth, scores = RNG.random((30, 3)) < 0.4, RNG.random((30, 3))
    truth[:, 2] = scores[:, 2] > 0.5
    scores[:, 1] *= 0.5  # a label that is never predicted
    predicted = scores > 0.5
    found = metrics.of("multilabel", scores, truth.astype(np.float32), tuple("abc"))
    each = [f1(truth[:, i], predicted[:, i]) for i in range(3)]
    assert list(found["f1"]) == ["a", "b", "c"]
    assert list(found["f1"].values()) == pytest.approx(each)
    assert (each[1], each[2]) == (0, 1)
    assert found["macro_f1"] == pytest.approx(np.mean(each))
    assert found["micro_f1"] == pytest.approx(f1(truth, predicted))
    assert found["accuracy"] == pytest.approx((truth == predicted).all(-1).mean())
    one = metrics.of("multilabel", scores[:, :1], truth[:, :1], ("a",))
    assert one["f1"] == {"a": pytest.approx(each[0])}
    none = metrics.of("multilabel", scores[:, 1:2], np.zeros((30, 1)), ("b",))
    assert (none["macro_f1"], none["accuracy"]) == (0, 1)


# --- Runs


def made(count, seed):
    """Return series (count, 12, 1) of some level and slope, and which of them are high, rising."""
    rng = np.random.default_rng(seed)
    level, slope = rng.uniform(-1, 1, (2, count, 1))
    series = level + slope * np.linspace(-1, 1, 12) + 0.02 * rng.normal(size=(count, 12))
    return 10 * series + 50, np.concatenate([level, slope], -1) > 0, 1000 + 30 * level[:, 0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Train a network for each task; return their folders and results."""
    folder = tmp_path_factory.mktemp("tasks")
    for part, count, seed in (("TRAIN", 192, 1), ("TEST", 40, 2)):
        series, labels, values = made(count, seed)
        np.savez(folder / f"levels_{part}.npz", inputs=series, labels=values)
        np.savez(
            folder / f"kinds_{part}.npz", inputs=series, labels=NAMES[labels[:, 1].astype(int)]
        )
        np.savez(folder / f"sets_{part}.npz", inputs=series, labels=labels, label_names=NAMES)
    names = {"classification": "kinds", "regression": "levels", "multilabel": "sets"}
    found = {}
    for task, name in names.items():
        config = from_config_dict(
            {
                "data": {
                    "path": str(folder),
                    "name": name,
                    "task": task,
                    "validation_fraction": 0.125,
                },
                "model": {
                    "width": 8,
                    "blocks": 1,
                    "kernel_size": 3,
                    "padding": "causal",
                    "dropout": 0.0,
                },
                "train": {
                    "epochs": 3,
                    "batch_size": 8,
                    "learning_rate": 0.03,
                    "ema_decay": 0.5,
                    "evaluate": "best",
                    "checkpoint_every": 1,
                },
                "mesh": {"data": 1},
            }
        )
        found[task] = config, folder / f"run-{task}", loop.run(config, folder / f"run-{task}")
    return found


@pytest.mark.parametrize("task", tasks.TASKS)
def test_each_task_learns_and_leaves_its_measures_and_its_picture(task, runs):
    config, workdir, results = runs[task]
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    score = "standardized_mae" if task == "regression" else "accuracy"
    for name in ("loss", score, "validation_loss", f"validation_{score}"):
        assert len([row[name] for row in rows]) == 3
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    best = min(rows, key=lambda row: row["validation_loss"])
    assert rows[-1]["best_step"] == best["step"]
    assert f"best (step {best['step']})" in results["weights"]
    assert json.loads((workdir / "results.json").read_text()) == results
    assert (results["data_set"], results["task"]) == (config.data.name, task)
    pictures = {path.stem for path in workdir.glob("*.png")}
    summary = dict(
        re.split(r"  +", line, maxsplit=1) for line in finished.summary(results).splitlines()
    )
    of_test = [name for name in summary if name.startswith("test ")]
    assert of_test == (
        ["test RMSE", "test MAE", "test R2"]
        if task == "regression"
        else ["test accuracy", "test macro F1"]
    )
    if task == "regression":
        _, test = data.load(config.data)
        np.testing.assert_allclose(test.targets, made(40, 2)[2], rtol=1e-6)
        assert results["test_r2"] > 0.6
        assert results["test_mae"] <= results["test_rmse"] < 0.6 * np.std(test.targets)
        assert pictures == {"learning_curves", "scatter"}
    elif task == "multilabel":
        assert list(results["test_f1"]) == list(NAMES)
        assert results["test_macro_f1"] > 0.8
        assert pictures == {"learning_curves", "labels"}
    else:
        assert results["test_balanced_accuracy"] > 0.65
        assert results["test_errors"] == round(40 * (1 - results["test_accuracy"]))
        assert pictures == {"learning_curves", "confusion_matrix"}


def test_a_regression_goes_on_where_it_was(runs, tmp_path):
    config, workdir, results = runs["regression"]
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "last" / str(63))  # 21 steps an epoch
    again = loop.run(config, tmp_path / "run", resume=True)
    speed = "training_examples_per_second"
    assert {n: v for n, v in again.items() if n != speed} == {
        n: v for n, v in results.items() if n != speed
    }
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, standardize="none"))
    with pytest.raises(UserError, match=r"config\.data\.standardize was 'channel'"):
        loop.run(other, tmp_path / "run", resume=True)


def test_the_scaling_of_values_is_recorded_and_must_be(runs, tmp_path):
    _, workdir, _ = runs["regression"]
    values = made(192, 1)[2]
    scaling = read_record(workdir).target_scaling
    np.testing.assert_allclose([*scaling.mean, *scaling.deviation], [values.mean(), values.std()])
    assert read_record(runs["multilabel"][1]).target_scaling is None
    record = json.loads((workdir / "config.json").read_text())
    del record["data"]["target_mean"], record["data"]["target_deviation"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"data\.target_mean must be null just where"):
        read_record(tmp_path)


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_a_run_is_streamed(task, runs, monkeypatch, capsys):
    """By what the network of the checkpoint says of the whole series."""
    config, workdir, _ = runs[task]
    series = made(2, 3)[0]
    lines = "\n\n".join("\n".join(map(repr, one.tolist())) for one in series)
    status, out, _ = stream(monkeypatch, capsys, workdir, lines, "--every=100")
    assert status == 0
    header, *rows = (line.split("\t") for line in out.splitlines())
    points = made(192, 1)[0]
    x = ((series - points.mean()) / points.std())[..., None].astype(np.float32)
    (step,) = (p for p in (workdir / "checkpoints" / "best").iterdir() if p.name.isdigit())
    with ocp.StandardCheckpointer() as checkpointer:
        weights = checkpointer.restore(step / "default")
    outputs = SeparableResNet(1 if task == "regression" else 2, config.model).apply(
        weights, x, np.full(2, 12)
    )
    if task == "regression":
        assert header == ["series", "step", "value"]
        values = made(192, 1)[2]
        wanted = np.asarray(outputs) * values.std() + values.mean()
    else:
        assert header == ["series", "step", *NAMES]
        wanted = jax.nn.sigmoid(outputs)
    np.testing.assert_allclose(np.array(rows, float)[:, 2:], wanted, rtol=1e-5, atol=1e-5)


def test_smoothing_of_values_and_constant_values_are_refused(tmp_path):
    wrong = {"data": {"task": "regression"}, "train": {"label_smoothing": 0.1}}
    with pytest.raises(UserError, match=r"label_smoothing must be 0 where config\.data\.task=reg"):
        from_config_dict(wrong)
    for part in ("TRAIN", "TEST"):
        np.savez(tmp_path / f"a_{part}.npz", inputs=np.ones((3, 4)), labels=[2, 2, 2])
    with pytest.raises(UserError, match=r"a_TRAIN\.npz: the target of all training series is 2"):
        data.load(DataConfig(path=str(tmp_path), task="regression"))
    np.savez(tmp_path / "a_TEST.npz", inputs=np.ones((2, 4)), labels=["1", "x"])
    with pytest.raises(UserError, match=r"TEST\.npz: the target must be a finite number, got 'x'"):
        data.load(DataConfig(path=str(tmp_path), task="regression"))


def test_a_set_of_values_of_aeon_is_read_as_such():
    for task in ("classification", "multilabel"):
        hint = "task=regression" if task == "classification" else "store the data as csv or npz"
        with pytest.raises(UserError, match=hint):
            data.load(DataConfig(name="Covid3Month", task=task))
    train, test = data.load(DataConfig(name="Covid3Month", task="regression"))
    text = (data.formats.find(DataConfig(name="Covid3Month"))[1].paths["TEST"]).read_text()
    wanted = [float(line.rpartition(":")[2]) for line in text.partition("@data\n")[2].splitlines()]
    np.testing.assert_allclose(test.targets, wanted, atol=1e-6)
    np.testing.assert_allclose([train.labels.mean(), train.labels.std()], [0, 1], atol=1e-5)
    rest, held = data.hold_out(train, 0.25, seed=0)
    assert (len(held), len(rest) + len(held)) == (round(0.25 * len(train)), len(train))


def test_sets_of_labels_are_read_from_tables_and_archives(tmp_path):
    sets = ["b|a", "", "c", "a", "b | c"]
    (tmp_path / "x.csv").write_text("v\n1\n2\n")
    names = [f"x{i}.csv" for i in range(5)]
    for i, name in enumerate(names):
        (tmp_path / name).write_text(f"v\n{i}\n{i * i}\n")
    splits = ["train", "train", "train", "test", "test"]
    rows = [",".join(row) for row in zip(names, sets, splits, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label,split", *rows]))
    table = data.load(DataConfig(path=str(tmp_path), task="multilabel"))
    assert table[0].classes == ("a", "b", "c")
    wanted = [[[1, 1, 0], [0, 0, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]]
    assert [split.labels.tolist() for split in table] == wanted
    assert table[0].labels.dtype == np.float32
    with pytest.raises(UserError, match=r"labels\.csv, line 3: has no label \(and 2 more"):
        data.load(DataConfig(path=str(tmp_path)))

    inputs = np.array([[i, i * i] for i in range(5)], float)
    for part, rows in (("TRAIN", slice(3)), ("TEST", slice(3, 5))):
        labels = np.array(wanted[part == "TEST"])
        np.savez(
            tmp_path / f"n_{part}.npz", inputs=inputs[rows], labels=labels, label_names=list("abc")
        )
    for ours, theirs in zip(
        data.load(DataConfig(path=str(tmp_path), format="npz", task="multilabel")),
        table,
        strict=True,
    ):
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_allclose(ours.inputs, theirs.inputs, rtol=1e-6)
        assert ours.classes == theirs.classes
    np.savez(tmp_path / "n_TEST.npz", inputs=inputs[:2], labels=[[0, 2], [1, 0]])
    with pytest.raises(UserError, match=r"labels must be 0 or 1 \(2, labels\), got int64 \(2, 2\)"):
        data.load(DataConfig(path=str(tmp_path), format="npz", task="multilabel"))


# --- Pictures


def test_the_picture_of_each_outcome_can_be_read(drawn, tmp_path):
    classes = tuple(f"label {i}" for i in range(12))
    truth = RNG.normal(1e4, 300, 50)
    labels = RNG.random((40, 12)) < 0.3
    cases = {
        "regression": (truth + RNG.normal(0, 90, 50), truth, ("value",), "scatter"),
        "multilabel": (0.9 * labels + 0.05, labels.astype(float), classes, "labels"),
        "classification": (np.eye(12), np.arange(12), classes, "confusion_matrix"),
    }
    for task, (outputs, targets, names, stem) in cases.items():
        path = plots.outcome(task, outputs, targets, names, "Made, seed 0", tmp_path)
        assert path == tmp_path / f"{stem}.png"
    assert len(drawn) == 3
    for figure, texts in drawn:
        for axes in figure.axes:
            axes.set_xlabel("is better")  # of no use here
        if figure is not drawn[2][0]:  # whose names are turned; it has a test of its own
            check(figure, texts)
    points = drawn[0][0].axes[0].collections[0].get_offsets()
    np.testing.assert_array_equal(points, np.stack([truth, cases["regression"][0]], -1))


def test_the_curves_of_a_regression_are_in_the_unit_of_the_data(drawn, tmp_path):
    rows = [
        {"epoch": n, "loss": 1 / n, "standardized_mae": 1 / n, "validation_loss": 2 / n}
        | {"validation_standardized_mae": 2 / n}
        for n in range(1, 31)
    ]
    plots.learning_curves(rows, 3.5, 30, "Made", tmp_path / "a.png", unit=40.0)
    ((figure, texts),) = drawn
    check(figure, texts)
    error = figure.axes[1]
    assert error.get_ylabel().startswith("mean absolute error")
    heights = {
        tuple(line.get_ydata()[[0, -1]])
        for line in error.get_lines()
        if len(line.get_ydata()) == 30
    }
    assert heights == {(40.0, 40 / 30), (80.0, 80 / 30)}
    assert "test, at the end: 3.5" in [text.get_text() for text in texts]
