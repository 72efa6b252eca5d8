"""Runs that are used: `evaluate` and `predict`, from the run's folder alone."""

import csv
import functools
import io
import json
import shutil
import sys

import jax
import numpy as np
import pytest
from sklearn.metrics import f1_score

from flax_sepconv.training import data
from flax_sepconv.training.__main__ import main
from flax_sepconv.training.datasets import places
from flax_sepconv.training.predicting import table
from flax_sepconv.training.trained import load
from tests.training_runs import make_run, no_file_beyond

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

CLASSES = ["standing", "running", "walking", "badminton"]
LENGTHS = [7, 30, 1, 2, 19, 30, 11, 3, 8, 24]
LABELS = [CLASSES[i % 3] for i in range(10)]  # none is of the last class


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a run, not to be changed; moved from where it was made."""
    folder = tmp_path_factory.mktemp("run")
    make_run(folder / "made")
    return shutil.move(folder / "made", folder / "moved")


def series(channels=6, seed=0):
    """Return ten ragged series (L, C) in the unit of the data."""
    _, test = data.load(data.DataConfig(name="BasicMotions", standardize="none"))
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, 60, len(LENGTHS))
    rows = [test.inputs[i][s : s + n] for i, (s, n) in enumerate(zip(starts, LENGTHS, strict=True))]
    factors = np.linspace(0.5, 30, len(rows))  # so that several classes are predicted
    return [f * row[:, :channels].astype(float) for f, row in zip(factors, rows, strict=True)]


def write_ts(path, rows, labels=None, classes=CLASSES):
    """Write series as a .ts file."""
    lines = [
        "@problemName Other\n@timeStamps false\n@missing false\n@univariate false",
        f"@dimension {rows[0].shape[1]}\n@equalLength false",
        f"@classLabel {'true ' + ' '.join(classes) if labels else 'false'}\n@data",
    ]
    for i, row in enumerate(rows):
        channels = [",".join(map(repr, channel)) for channel in row.T.tolist()]
        lines.append(":".join(channels + ([labels[i]] if labels else [])))
    path.write_text("\n".join(lines) + "\n")
    return path


@functools.cache
def network(run, kind):
    """Return the network of a run as a compiled function of standardised series and lengths."""
    model = load(run, kind)
    return jax.jit(lambda x, n: jax.nn.softmax(model.model.apply(model.weights, x, n)))


def wanted(run, rows, kind="last"):
    """Return the probabilities of series; the statistics are those that were noted."""
    noted = json.loads((run / "config.json").read_text())["data"]
    lengths = np.array([len(row) for row in rows])
    x = np.zeros((len(rows), 103, 6), np.float32)  # another padding than that of the command
    for place, row in zip(x, rows, strict=True):
        place[: len(row)] = (row - np.array(noted["mean"])) / np.array(noted["deviation"])
    return np.asarray(network(run, kind)(x, lengths))


def called(capsys, *words):
    """Run a command that is to be done; return what it printed."""
    capsys.readouterr()
    assert main(list(map(str, words))) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def told(capsys, *words):
    """Run a command that is to be refused; return the one line that it says."""
    capsys.readouterr()
    assert main(list(map(str, words))) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1), err
    return err


def read_table(text):
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["id", "predicted", *(f"probability_{name}" for name in CLASSES)]
    return [row[:2] for row in rows], np.array([row[2:] for row in rows], float)


# --- predict


@pytest.mark.parametrize("kind", ["last", "best"])
def test_predict_says_of_ragged_series_what_the_network_says_of_each_alone(
    run, tmp_path, capsys, monkeypatch, kind
):
    monkeypatch.chdir(tmp_path)
    rows = series()
    file = write_ts(tmp_path / "new.ts", rows)
    words = ["predict", f"--workdir={run}", f"--data={file}", f"--checkpoint={kind}"]
    out = called(capsys, *words)
    names, shares = read_table(out)
    expected = wanted(run, rows, kind)
    np.testing.assert_allclose(shares, expected, rtol=1e-5, atol=1e-5)
    assert len(set(expected.argmax(-1))) > 1  # else the names would show nothing
    assert names == [[str(i), CLASSES[row.argmax()]] for i, row in enumerate(expected, 1)]
    assert called(capsys, *words, "--output=table.csv") == ""
    assert (tmp_path / "table.csv").read_text() == out


def test_predict_does_not_look_at_labels(run, tmp_path, capsys):
    """Of other classes, and some of which are not known."""
    rows = series()
    plain = write_ts(tmp_path / "plain.ts", rows)
    labels = ["?" if i == 3 else "cat" for i in range(10)]
    labelled = write_ts(tmp_path / "labelled.ts", rows, labels, ["cat"])
    tables = [
        called(capsys, "predict", f"--workdir={run}", f"--data={f}") for f in (plain, labelled)
    ]
    assert tables[0] == tables[1]


# --- evaluate


def by_hand(predicted, truth):
    """Return accuracy, balanced accuracy and the confusion matrix, by their definitions."""
    matrix = np.zeros((4, 4), int)
    for p, t in zip(predicted, truth, strict=True):
        matrix[t, p] += 1
    there = matrix.sum(1) > 0
    recall = matrix.diagonal()[there] / matrix.sum(1)[there]
    return matrix.diagonal().sum() / matrix.sum(), recall.mean(), matrix


def check_metrics(folder, predicted, truth):
    found = json.loads((folder / "metrics.json").read_text())
    accuracy, balanced, matrix = by_hand(predicted, truth)
    assert found["series"] == len(truth)
    assert found["accuracy"] == pytest.approx(accuracy)
    assert found["balanced_accuracy"] == pytest.approx(balanced)
    assert found["confusion_matrix"] == matrix.tolist()
    for i, name in enumerate(CLASSES):
        assert found["recall"][name] == pytest.approx(matrix[i, i] / max(matrix[i].sum(), 1))
        assert found["precision"][name] == pytest.approx(matrix[i, i] / max(matrix[:, i].sum(), 1))
    macro = f1_score(truth, predicted, average="macro", zero_division=0.0)
    assert found["macro_f1"] == pytest.approx(macro)
    assert (folder / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    return found


def test_evaluate_scores_the_runs_own_test_series(run, tmp_path, capsys):
    workdir = shutil.copytree(run, tmp_path / "run")
    out = called(capsys, "evaluate", f"--workdir={workdir}")
    _, test = data.load(data.DataConfig(name="BasicMotions", standardize="none"))
    predicted = wanted(run, list(test.inputs.astype(float))).argmax(-1)
    found = check_metrics(workdir / "evaluation", predicted, test.labels)
    assert found["data"] == "BasicMotions_TEST.ts"
    assert f"accuracy           {found['accuracy']:.4f} (40 series of BasicMotions_TEST.ts" in out
    assert f"macro F1           {found['macro_f1']:.4f}\n" in out
    assert not (workdir / "confusion_matrix.png").exists()


def test_evaluate_matches_classes_by_their_names(run, tmp_path, capsys):
    rows = series()
    file = write_ts(tmp_path / "other.ts", rows, LABELS, CLASSES[:3][::-1])
    folder = tmp_path / "new" / "folder"
    called(capsys, "evaluate", f"--workdir={run}", f"--data={file}", f"--output={folder}")
    truth = [CLASSES.index(label) for label in LABELS]
    check_metrics(folder, wanted(run, rows).argmax(-1), truth)
    assert not (run / "evaluation").exists()


def test_pictures_are_titled_as_the_data_set_was_called(run, tmp_path):
    workdir = shutil.copytree(run, tmp_path / "run")
    record = json.loads((workdir / "config.json").read_text())
    folder = places.folder(data.DataConfig()) / "BasicMotions"
    record["config"]["data"] |= {"path": str(folder), "name": "JapaneseVowels"}
    for noted in ("Gone", ""):  # an older version noted no name: that of the files is looked up
        record["data"]["name"] = noted
        (workdir / "config.json").write_text(json.dumps(record))
        assert load(workdir, "best").title == f"{noted or 'BasicMotions'}, seed 0, best weights"


# --- What is predicted


def test_a_table_of_labels():
    answers = np.array([[0.75, 0.25, 0.625], [0.1, 0.5, 0.2]])
    found = table("multilabel", ["x", "y"], answers, ["a", "b", "c"]).splitlines()
    assert found[0] == "id,predicted,probability_a,probability_b,probability_c"
    assert found[1:] == ["x,a|c,0.75,0.25,0.625", "y,,0.1,0.5,0.2"]


def test_series_of_other_formats_are_the_same_series(run, tmp_path, capsys):
    rows = series()
    inputs = np.zeros((len(rows), 30, 6))
    for place, row in zip(inputs, rows, strict=True):
        place[: len(row)] = row
    np.savez(tmp_path / "new.npz", inputs=inputs, lengths=LENGTHS)
    files = write_ts(tmp_path / "new.ts", rows), tmp_path / "new.npz"
    tables = [called(capsys, "predict", f"--workdir={run}", f"--data={file}") for file in files]
    assert read_table(tables[0])[0] == read_table(tables[1])[0]
    np.testing.assert_allclose(*(read_table(each)[1] for each in tables), rtol=1e-5)


# --- What is refused


def bad(name, **settings):
    """Return what writes a bad file."""

    def write(folder):
        rows = series(settings.get("channels", 6))
        if "value" in settings:
            rows[3][0, 0] = settings["value"]
        labels, classes = settings.get("labels"), settings.get("classes", CLASSES)
        return write_ts(folder / name, rows, labels, classes)

    return write


BAD = {
    "no file": (lambda folder: folder / "no.ts", "there is no file"),
    "a folder": (lambda folder: folder, "nor labels.csv in a folder of that name"),
    "another ending": (bad("x.txt"), "must end in .ts, .csv, .npz, .tsv, got"),
    "channels": (bad("x.ts", channels=5, labels=LABELS), "must be 6, as in training, got 5"),
    "missing": (bad("x.ts", value=np.nan, labels=LABELS), "x.ts, line 12: has missing values"),
    "too large": (bad("x.ts", value=1e300, labels=LABELS), "series 4: its numbers are too large"),
}
BAD_LABELS = {
    "unlabelled": (bad("x.ts"), "x.ts"),
    "partly": (bad("x.ts", labels=["?", *LABELS[1:]]), "x.ts, line 9: "),
    "unknown": (
        bad("x.ts", labels=["cat", "dog", *LABELS[2:]], classes=["cat", "dog", *CLASSES]),
        f"x.ts, line 9: label 'cat' is in no training series; there are {', '.join(CLASSES)}",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_are_one_line_and_status_two(case, run, tmp_path, capsys):
    make, words = BAD[case]
    flags = [f"--workdir={run}", f"--data={make(tmp_path)}", f"--output={tmp_path / 'out'}"]
    assert words in told(capsys, "predict", *flags)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", {**BAD_LABELS, "channels": BAD["channels"]})
def test_bad_labels_are_one_line_and_status_two(case, run, tmp_path, capsys):
    make, words = (BAD | BAD_LABELS)[case]
    flags = [f"--workdir={run}", f"--data={make(tmp_path)}", f"--output={tmp_path / 'out'}"]
    assert words in told(capsys, "evaluate", *flags)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["predict", "--data=x"], "--workdir DIR is required"),
        (["predict", "--workdir={run}"], "--data PATH is required"),
        (["evaluate", "--workdir={run}", "--checkpoint=middle"], "<best|last>"),
        (["export", "--workdir={run}", "--format=torch"], "<jax|onnx|litert>"),
        (["evaluate", "--workdir={tmp}"], "holds no run"),
        (["predict", "--workdir={tmp}", "--data=x"], "holds no run"),
        (["predict", "--workdir={run}", "--data=x"], "there is no file 'x'"),
        (["export", "--workdir={tmp}"], "holds no run"),
        (["evaluate", "--workdir={run}", "--config=x"], "config"),
        (["evaluate", "--workdir={run}", "x"], "unexpected 'x'"),
    ],
)
def test_bad_arguments_are_one_line_and_status_two(words, answer, run, tmp_path, capsys):
    assert answer in told(capsys, *(word.format(run=run, tmp=tmp_path) for word in words))


def test_a_run_whose_data_have_changed_is_not_scored_on_them(run, tmp_path, capsys):
    workdir = shutil.copytree(run, tmp_path / "run")
    record = json.loads((workdir / "config.json").read_text())
    record["data"]["files"]["TEST"]["values"] = "0" * 64
    (workdir / "config.json").write_text(json.dumps(record))
    line = told(capsys, "evaluate", f"--workdir={workdir}")
    assert "data have changed: BasicMotions_TEST.ts: other values than before; name them" in line


def test_a_run_of_before_is_told_to_be_trained_again(run, tmp_path, capsys):
    workdir = shutil.copytree(run, tmp_path / "run")
    record = json.loads((workdir / "config.json").read_text())
    del record["data"]
    (workdir / "config.json").write_text(json.dumps(record))
    for command in ("evaluate", "export"):
        assert "train it again" in told(capsys, command, f"--workdir={workdir}")


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(run, tmp_path, capsys):
    file = write_ts(tmp_path / "new.ts", series(), LABELS)
    flags = [f"--workdir={run}", f"--data={file}"]
    for command in ("predict", "evaluate"):
        line = told(capsys, command, *flags, f"--output={file}/x")
        assert f"cannot write {file}/x: Not a directory" in line
    with no_file_beyond(100):
        line = told(capsys, "predict", *flags, f"--output={tmp_path / 'table.csv'}")
        assert f"cannot write {tmp_path / 'table.csv'}: File too large" in line
    with no_file_beyond(5000):
        line = told(capsys, "evaluate", *flags, f"--output={tmp_path / 'out'}")
        assert "confusion_matrix.png: File too large" in line
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["metrics.json", "new.ts", "out"]


def test_an_output_that_is_closed_is_an_error(run, tmp_path, capsys, monkeypatch):
    file = write_ts(tmp_path / "new.ts", series())
    monkeypatch.setattr(sys, "stdout", None)
    assert "stdout is closed" in told(capsys, "predict", f"--workdir={run}", f"--data={file}")
