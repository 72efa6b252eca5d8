"""The two pictures a run ends with, for a page that shows them 850 pixels wide."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter, NullLocator

from flax_sepconv.training import metrics
from flax_sepconv.training.config import TaskName
from flax_sepconv.training.rows import Row, score_of
from flax_sepconv.training.workdir import write_atomically

WIDTH, POINTS = 8.5, 9.5  # inches, and the size of text in a figure as wide
TRAINING, VALIDATION, TEST = "#0072b2", "#d55e00", "#1b5e45"  # also for the colour-blind


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=200)
    write_atomically(path, picture.getvalue())


def _tidy(axes: Axes, label: str) -> None:
    axes.set(xlabel="epoch", ylabel=f"{label} (lower is better)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    # Above the panel, where it can hide nothing.
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)


@rc_context({"font.size": POINTS, "axes.labelsize": POINTS, "legend.fontsize": POINTS})
def learning_curves(
    rows: Sequence[Row],
    test_score: float,
    best_epoch: float,
    title: str,
    path: Path,
    unit: float = 1.0,
) -> None:
    """Draw loss and error by epoch, the best epoch, and the final test error.

    Args:
      rows: of metrics.jsonl, at least one.
      test_score: the final accuracy or, of a regression, mean absolute error.
      best_epoch: with the best weights.
      title: above the picture.
      path: where it goes.
      unit: of a regression, the deviation of its training targets.
    """
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    figure.suptitle(title, fontweight="bold")
    loss, error = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    markers: dict[str, Any] = {"marker": "o", "markersize": 3} if len(rows) < 15 else {}
    kinds = [("", TRAINING, "training, regularized", "training (augmented, with dropout)")]
    if "validation_loss" in rows[0]:
        kinds.append(("validation_", VALIDATION, "validation", "validation"))
    score = score_of(rows[0])
    is_rate = score == "accuracy"
    final = 100 * (1 - test_score) if is_rate else test_score
    rates = [final]
    for prefix, colour, of_loss, of_error in kinds:
        look = {"color": colour, **markers}
        loss.plot(epochs, [row[f"{prefix}loss"] for row in rows], label=of_loss, **look)
        scores = [row[prefix + score] for row in rows]
        errors = [100 * (1 - value) if is_rate else unit * value for value in scores]
        error.plot(epochs, errors, label=of_error, **look)
        rates += errors
    for axes in (loss,) if is_rate else (loss, error):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    for axes in (loss, error):
        axes.axvline(best_epoch, color="0.4", linewidth=1.2, linestyle=":", label="best checkpoint")
    label = f"test, at the end: {f'{final:.1f} %' if is_rate else f'{final:.3g}'}"
    error.axhline(final, color=TEST, linewidth=1.5, linestyle="--", label=label)
    if is_rate:
        _scale_rates(error, rates)
    _tidy(loss, "loss")
    _tidy(error, "error rate [%]" if is_rate else "mean absolute error")
    save(figure, path)


def _scale_rates(axes: Axes, rates: Sequence[float]) -> None:
    """Make the vertical axis one of percents: logarithmic from the least one on, and linear to 0.

    The first drop and the last tenths can both be read from it, and so can no error at all.
    """
    positive = [rate for rate in rates if rate > 1e-6]
    decade = min(math.floor(math.log10(min(positive))), 0) if positive else 0
    steps = (1, 2, 5) if decade >= -1 else (1,)
    ticks = [step * 10.0**power for power in range(decade, 3) for step in steps]
    axes.set_yscale("symlog", linthresh=10.0**decade, linscale=0.5)
    axes.set_ylim(-0.2 * 10.0**decade, 1.2 * max(*rates, 10.0**decade))
    axes.yaxis.set_major_locator(FixedLocator([0, *(tick for tick in ticks if tick <= 100)]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


def outcome(
    task: TaskName,
    outputs: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    title: str,
    folder: Path,
) -> Path:
    """Draw how the answers for a split compare with the truth; return the picture's path.

    Args:
      task: which picture it is: confusion_matrix.png for classification, scatter.png for
        regression, labels.png for multilabel.
      outputs: of the network, as `metrics.of` takes them.
      targets: as `metrics.of` takes them.
      classes: their names, or those of the labels.
      title: above the picture.
      folder: where it goes; it must exist.
    """
    if task == "regression":
        scatter(targets, outputs, title, folder / "scatter.png")
        return folder / "scatter.png"
    if task == "multilabel":
        scores = metrics.of(task, outputs, targets, classes)["f1"]
        label_bars(scores, targets.sum(0).astype(int), title, folder / "labels.png")
        return folder / "labels.png"
    picture = folder / "confusion_matrix.png"
    confusion_matrix(targets, outputs.argmax(-1), classes, title, picture)
    return picture


@rc_context({"font.size": POINTS})
def scatter(truth: np.ndarray, predicted: np.ndarray, title: str, path: Path) -> None:
    """Draw the predicted value (vertical) by the true one (horizontal), both (N,)."""
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axes = figure.subplots()
    both = np.concatenate([truth, predicted])
    room = 0.04 * (np.ptp(both) or 1.0)
    ends = (both.min() - room, both.max() + room)
    line: Any = {"color": "0.4", "linewidth": 1.2, "linestyle": "--"}
    axes.plot(ends, ends, label="predicted = true", **line)
    axes.scatter(truth, predicted, s=14, alpha=0.6, color=TRAINING, linewidths=0)
    axes.set(xlabel="true value", ylabel="predicted value", title=title, xlim=ends, ylim=ends)
    axes.set_aspect("equal")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="upper left")
    save(figure, path)


@rc_context({"font.size": POINTS})
def label_bars(f1: Mapping[str, float], counts: Sequence[int], title: str, path: Path) -> None:
    """Draw the F1 of each label, and in how many series it truly holds."""
    figure = Figure(figsize=(WIDTH, max(2.5, 0.3 * len(f1) + 1.5)), layout="constrained")
    axes = figure.subplots()
    names = [f"{name} ({count})" for name, count in zip(f1, counts, strict=True)]
    bars = axes.barh(range(len(f1)), list(f1.values()), color=TRAINING)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlabel="F1 (higher is better)", ylabel="label (series)", xlim=(0, 1.1), title=title)
    axes.set_yticks(range(len(f1)), names)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def confusion_matrix(
    truth: np.ndarray, predicted: np.ndarray, classes: Sequence[str], title: str, path: Path
) -> None:
    """Draw how often each true class (row) was given each label (column)."""
    n = len(classes)
    counts = np.zeros((n, n), int)
    np.add.at(counts, (truth, predicted), 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(4.5, 0.55 * n + 2)
    scale = min(max(1, (side + 1) / WIDTH), 2)  # a cell has room for three digits, no larger
    with rc_context({"font.size": scale * POINTS}):
        figure = Figure(figsize=(side + 1, side), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour)
        axes.set(xlabel="predicted class", ylabel="true class", title=title)
        turn: Any = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(n), classes, **(turn if max(map(len, classes)) > 3 else {}))
        axes.set_yticks(range(n), classes)
        figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
        save(figure, path)
