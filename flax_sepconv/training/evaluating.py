"""The command `evaluate`: measures of a run on labelled series, and a picture of them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import metrics

from flax_sepconv.training import data as data_sets
from flax_sepconv.training import saving, trained, unseen
from flax_sepconv.training.config import UserError
from flax_sepconv.training.data import Split
from flax_sepconv.training.plots import confusion_matrix
from flax_sepconv.training.trained import Trained


def _own(run: Trained) -> tuple[Split, str]:
    """Return the test split of a run, and what it is called.

    Raises:
      UserError: it cannot be read, or is no longer what it was.
    """
    config = run.record.config.data
    _, test = data_sets.load(config)
    file = f"{config.name}_TEST.ts"
    then, differences = run.record.contents.get("TEST"), []
    if then and test.contents:
        differences = then.differences(test.contents, file)
    if test.classes != run.record.classes:
        differences.append(f"classes were {run.record.classes} and are now {test.classes}")
    if differences:
        raise UserError(f"the run's data have changed: {'; '.join(differences)}; name them: --data")
    return test, file


def _of(path: Path, found: unseen.Series, run: Trained) -> tuple[Split, str]:
    """Return the series of a file as the run takes them, and what it is called."""
    targets = unseen.numbers(path, found.labels, run.record.classes)
    return run.split(found.series, targets), path.name


def measures(answers: np.ndarray, targets: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Return how good probabilities (N, classes) are for true classes (N,), ready for JSON.

    The balanced accuracy is the mean recall of the classes that the targets have. Precision and
    recall of a class that is never predicted, or never true, count as 0.
    """
    predicted = answers.argmax(-1)
    numbers = np.arange(len(classes))
    settings = {"labels": numbers, "average": None, "zero_division": 0.0}
    recall = metrics.recall_score(targets, predicted, **settings)
    precision = metrics.precision_score(targets, predicted, **settings)
    there = np.isin(numbers, targets)
    macro = metrics.f1_score(targets, predicted, average="macro", zero_division=0.0)
    return {
        "accuracy": float(np.mean(predicted == targets)),
        "balanced_accuracy": float(recall[there].mean()),
        "macro_f1": float(macro),
        "precision": dict(zip(classes, precision.tolist(), strict=True)),
        "recall": dict(zip(classes, recall.tolist(), strict=True)),
        "confusion_matrix": metrics.confusion_matrix(targets, predicted, labels=numbers).tolist(),
    }


def run(
    *,
    workdir: Path,
    data: Path | None,
    checkpoint: str | None,
    output: Path | None,
    write: Callable[[str], None],
) -> int:
    """Leave metrics.json and a confusion matrix in a folder, and print the measures.

    Args:
      workdir: of the run.
      data: a file of labelled series; None: the run's own test series.
      checkpoint: which weights, "last" or "best"; None: those that the run was scored with.
      output: the folder; None: ``evaluation`` in that of the run.
      write: prints.

    Returns:
      The exit status, 0.

    Raises:
      UserError: the run or the data will not do, or the folder cannot be written.
    """
    given = (data, unseen.read(data)) if data else None
    model = trained.load(workdir, checkpoint)
    split, source = _of(*given, model) if given else _own(model)
    answers = model.answers(split)
    found = measures(answers, split.labels, split.classes)
    about = {"data": source, "series": len(split), "weights": model.checkpoint}
    folder = output or workdir / "evaluation"
    saving.make_folder(folder)
    saving.save(folder / "metrics.json", json.dumps(about | found, indent=2) + "\n")
    title = f"{model.title}: {100 * found['accuracy']:.1f} % of {len(split)} series right"
    picture = folder / "confusion_matrix.png"
    with saving.writing(picture):
        confusion_matrix(split.labels, answers.argmax(-1), split.classes, title, picture)
    lines = {
        "accuracy": f"{found['accuracy']:.4f} ({len(split)} series of {source}; weights: "
        f"{model.checkpoint})",
        "balanced accuracy": f"{found['balanced_accuracy']:.4f}",
        "macro F1": f"{found['macro_f1']:.4f}",
        "results": str(folder),
    }
    width = max(map(len, lines)) + 2
    write("\n".join(f"{name:<{width}}{value}" for name, value in lines.items()))
    return 0
