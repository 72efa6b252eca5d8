"""How good a network's answers are: the field's measures for each task, by scikit-learn."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from flax_sepconv.training.config import TaskName

_COUNTED = 0.5  # a label whose probability is larger is predicted


def of(
    task: TaskName, outputs: np.ndarray, targets: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """Return the measures of N answers, ready for JSON.

    Args:
      task: "classification", "regression" or "multilabel".
      outputs: what `tasks.answers` returns: the probabilities of the classes (N, classes), values
        in the unit of the data (N,), or the probability of each label (N, labels).
      targets: as `Split.targets`: the numbers of the true classes (N,), values in the unit of the
        data (N,), or which labels hold (N, labels).
      classes: their names, or those of the labels.

    Returns:
      For classification: ``accuracy``, ``balanced_accuracy`` (the mean recall of the true classes),
      ``macro_f1``, ``precision`` and ``recall`` by the class's name (0 of one that is never
      predicted, or never true), and ``confusion_matrix`` (a row for each true class, a column for
      each predicted one). For regression: ``rmse`` and ``mae`` in the unit of the data, and ``r2``;
      None for one value, where it is undefined. For multilabel: ``accuracy`` (of series whose
      labels are all right), ``macro_f1``, ``micro_f1``, and ``f1`` by the label's name.

    >>> of("regression", np.array([1.0, 2.0]), np.array([1.0, 4.0]), ("value",))["mae"]
    1.0
    """
    if task == "regression":
        return _of_values(outputs.reshape(-1), targets.reshape(-1))
    if task == "multilabel":
        return _of_labels(outputs > _COUNTED, targets > _COUNTED, classes)
    from sklearn import metrics as sk  # late: it takes its time

    predicted, numbers = outputs.argmax(-1), np.arange(len(classes))
    each = {"labels": numbers, "average": None, "zero_division": 0.0}
    recall = sk.recall_score(targets, predicted, **each)
    precision = sk.precision_score(targets, predicted, **each)
    return {
        "accuracy": float(sk.accuracy_score(targets, predicted)),
        "balanced_accuracy": float(recall[np.isin(numbers, targets)].mean()),
        "macro_f1": float(sk.f1_score(targets, predicted, average="macro", zero_division=0.0)),
        "precision": dict(zip(classes, precision.tolist(), strict=True)),
        "recall": dict(zip(classes, recall.tolist(), strict=True)),
        "confusion_matrix": sk.confusion_matrix(targets, predicted, labels=numbers).tolist(),
    }


def _of_values(values: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    from sklearn import metrics as sk  # late: it takes its time

    return {
        "rmse": float(sk.root_mean_squared_error(targets, values)),
        "mae": float(sk.mean_absolute_error(targets, values)),
        "r2": float(sk.r2_score(targets, values)) if len(targets) > 1 else None,
    }


def _of_labels(predicted: np.ndarray, truth: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    from sklearn import metrics as sk  # late: it takes its time

    # One label after another: scikit-learn takes a table of a single label for two classes.
    each = [
        float(sk.f1_score(truth[:, i], predicted[:, i], zero_division=0.0))
        for i in range(len(names))
    ]
    return {
        "accuracy": float((predicted == truth).all(-1).mean()),
        "macro_f1": float(np.mean(each)),
        "micro_f1": float(sk.f1_score(truth.ravel(), predicted.ravel(), zero_division=0.0)),
        "f1": dict(zip(names, each, strict=True)),
    }


def headline(task: TaskName, found: dict[str, Any]) -> str:
    """Return the measures that matter most as words for a line or a title.

    >>> headline("classification", {"accuracy": 0.975})
    'accuracy 0.9750'
    """
    names = ("rmse", "mae", "r2") if task == "regression" else ("accuracy", "macro_f1")
    told = {name: found[name] for name in names if found.get(name) is not None}
    return ", ".join(f"{words(n)} {number(task, v)}" for n, v in told.items())


def words(name: str) -> str:
    """Return what a measure is called in a text.

    >>> words("macro_f1"), words("rmse")
    ('macro F1', 'RMSE')
    """
    return (
        name.upper()
        if name in ("rmse", "mae", "r2")
        else name.replace("_f1", "_F1").replace("_", " ")
    )


def number(task: TaskName, value: float) -> str:
    """Return a measure as it is written in a text."""
    return f"{value:.4g}" if task == "regression" else f"{value:.4f}"
