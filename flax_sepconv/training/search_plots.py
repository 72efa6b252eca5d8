"""The pictures of a search: for a learning rate, over seeds, or over settings; 850 pixels wide."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from flax_sepconv.training.plots import POINTS, TEST, TRAINING, VALIDATION, WIDTH, save

_SEED = "0.5"  # the colour of one among others
_SIZES: Any = {"font.size": POINTS, "axes.labelsize": POINTS, "legend.fontsize": POINTS}
# The first of these that a run has is its main score; which way it is better.
_BETTER = {"test_accuracy": "higher", "test_mae": "lower"}


def _legend(axes: Axes, columns: int) -> None:
    """Put the legend above the panel, where it hides nothing."""
    axes.legend(
        frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, ncols=columns
    )


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


@rc_context(_SIZES)
def learning_rates(
    rates: np.ndarray, losses: np.ndarray, found: Any, title: str, path: Path
) -> None:
    """Draw the loss by learning rate, and what is proposed.

    Args:
      rates: (N,).
      losses: (N,).
      found: a `learning_rate.Proposal`, or None.
      title: what was trained.
      path: of the picture.
    """
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    said = "no proposal" if found is None else f"proposed learning rate {found.rate:g}"
    figure.suptitle(f"{title}: {said}", fontweight="bold")
    axes = figure.subplots()
    dots: dict[str, Any] = {"marker": ".", "markersize": 3, "linestyle": "none"}
    axes.plot(rates, losses, color=TRAINING, alpha=0.35, label="loss of a step", **dots)
    if found is not None:
        axes.plot(rates, found.smoothed, color=TRAINING, label="smoothed")
        look: dict[str, Any] = {"color": VALIDATION, "linewidth": 1.5}
        axes.axvline(found.rate, linestyle="--", label="falls fastest", **look)
        axes.axvspan(found.low, found.high, color="0.9", label="at least half as fast")
        low, high = found.smoothed.min(), found.smoothed.max()
        room = 0.15 * (high - low)
        inside = losses[(losses > low - 3 * room) & (losses < high + 3 * room)]
        axes.set_ylim(min(low - room, inside.min()), max(high + room, inside.max()))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="learning rate", ylabel="training loss, regularized (lower is better)")
    _tidy(axes)
    _legend(axes, 4)
    save(figure, path)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7))


@rc_context(_SIZES)
def of_seeds(record: Mapping[str, Any], path: Path) -> None:
    """Draw the main score of each seed, its mean and deviation, and that of the ensemble.

    Args:
      record: as in the summary.json of a series of seeds; some run did not diverge.
      path: of the picture.
    """
    name = next(name for name in _BETTER if name in record["statistics"])
    values = {f"seed {seed}": run[name] for seed, run in record["runs"].items()}
    of_all, together = record["statistics"][name], record["ensemble"]
    names = [*values, "mean", f"ensemble of {together['members']}"]
    figure = Figure(figsize=(WIDTH, 0.3 * len(names) + 1.6), layout="constrained")
    axes = figure.subplots()
    deviation = of_all["standard_deviation"]
    bars: dict[str, Any] = {"marker": "o", "linestyle": "none", "capsize": 4}
    axes.plot([*values.values()], range(len(values)), "o", color=TRAINING, label="one seed")
    axes.errorbar(
        [of_all["mean"]],
        [len(values)],
        xerr=deviation,
        color=VALIDATION,
        label="mean and standard deviation" if deviation is not None else "mean",
        **bars,
    )
    label = "mean of the probabilities of all seeds"
    axes.plot([together[name]], [len(values) + 1], "D", color=TEST, label=label)
    axes.set_xlabel(f"{name.replace('_', ' ')} ({_BETTER[name]} is better)")
    figure.suptitle(f"{record['data_set']}, {len(values)} seeds", fontweight="bold")
    _rows(axes, names)
    _tidy(axes)
    _legend(axes, 3)
    save(figure, path)


@rc_context(_SIZES)
def of_sweep(record: Mapping[str, Any], path: Path) -> None:
    """Draw the validation loss of each combination and seed, and mark the one that was chosen.

    Args:
      record: as in the summary.json of a sweep; some combination did not diverge.
      path: of the picture.
    """
    combinations = record["combinations"]
    chosen = record["chosen"]["settings"]
    names = [one["name"] + ": diverged" * bool(one["diverged"]) for one in combinations]
    figure = Figure(figsize=(WIDTH, 0.3 * len(names) + 1.7), layout="constrained")
    axes = figure.subplots()
    labels = {
        _SEED: "one seed",
        TRAINING: "mean of the seeds",
        VALIDATION: "mean of the chosen settings",
    }
    for row, one in enumerate(combinations):
        losses = [run["validation_loss"] for run in one["runs"].values()]
        if len(record["seeds"]) > 1 and losses:
            axes.plot(losses, [row] * len(losses), ".", color=_SEED, label=labels.pop(_SEED, None))
        if not one["diverged"]:
            colour = VALIDATION if one["settings"] == chosen else TRAINING
            mean = one["statistics"]["validation_loss"]["mean"]
            axes.plot([mean], [row], "o", color=colour, label=labels.pop(colour, None))
    axes.set_xlabel("validation loss (lower is better)")
    seeds = f"seed{'s' * (len(record['seeds']) > 1)} {_listed(record['seeds'])}"
    figure.suptitle(f"{record['data_set']}, {seeds}", fontweight="bold")
    _rows(axes, names)
    _tidy(axes)
    _legend(axes, 3)
    save(figure, path)


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) if len(seeds) < 8 else f"{seeds[0]} to {seeds[-1]}"
