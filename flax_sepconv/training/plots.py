"""The two pictures a run ends with."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from flax_sepconv.training.record import Row

_TRAINING, _VALIDATION, _TEST = "#1f6fb4", "#d9622b", "#2f8f4e"


def _save(figure: Figure, path: Path) -> None:
    beside = path.with_name(path.name + ".tmp")
    figure.savefig(beside, format="png", dpi=150)
    os.replace(beside, path)


def _tidy(axes: Axes, label: str) -> None:
    axes.set(xlabel="epoch", ylabel=label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)


def learning_curves(
    rows: Sequence[Row], test_accuracy: float, best_epoch: float, title: str, path: Path
) -> None:
    """Draw loss and error rate by epoch, the best epoch, and the final test error."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title, fontweight="bold")
    loss, error = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    style = {"marker": "o", "markersize": 3} if len(rows) < 15 else {}
    loss.plot(
        epochs, [r["loss"] for r in rows], color=_TRAINING, label="training, regularized", **style
    )
    error.plot(
        epochs,
        [100 * (1 - r["accuracy"]) for r in rows],
        color=_TRAINING,
        label="training (augmented, with dropout)",
        **style,
    )
    if rows and "validation_loss" in rows[0]:
        values = [r["validation_loss"] for r in rows]
        loss.plot(epochs, values, color=_VALIDATION, label="validation", **style)
        values = [100 * (1 - r["validation_accuracy"]) for r in rows]
        error.plot(epochs, values, color=_VALIDATION, label="validation", **style)
    loss.set_yscale("log")
    loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    loss.yaxis.set_major_formatter("{x:g}")
    loss.yaxis.set_minor_formatter(NullFormatter())
    loss.axvline(best_epoch, color="0.5", linewidth=1, linestyle=":", label="best checkpoint")
    final = 100 * (1 - test_accuracy)
    label = f"test, at the end: {final:.1f} %"
    error.axhline(final, color=_TEST, linewidth=1.2, linestyle="--", label=label)
    error.set_ylim(bottom=0)
    _tidy(loss, "loss")
    _tidy(error, "error rate [%]")
    _save(figure, path)


def confusion_matrix(
    truth: np.ndarray, predicted: np.ndarray, classes: Sequence[str], title: str, path: Path
) -> None:
    """Draw how often each true class (row) was given each label (column)."""
    n = len(classes)
    counts = np.zeros((n, n), int)
    np.add.at(counts, (truth, predicted), 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(4.5, 0.55 * n + 2)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    axes.set_xticks(range(n), classes, rotation=45 if max(map(len, classes)) > 3 else 0)
    axes.set_yticks(range(n), classes)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    _save(figure, path)
