"""The results as a picture: the accuracy of each version, beside float32's, and what it saves."""

import pathlib
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import drawing
from benchmarks.quantization import table
from benchmarks.quantization.versions import FLOAT

_MARKS = "osD^v"


@drawing.styled()
def draw(record: dict[str, Any], path: pathlib.Path) -> None:
    """Draw the versions of a run, and say where."""
    sets = record["sets"]
    versions = [name for name in table.TITLES if name != FLOAT]
    figure = Figure(figsize=(drawing.WIDTH, 1.6 + 0.5 * len(versions)))
    accuracy, size, time = figure.subplots(1, 3, width_ratios=(3, 1, 1), sharey=True)
    _draw_accuracies(accuracy, sets, versions)
    for axes, what, text in ((size, "bytes", "bytes"), (time, "milliseconds", "time")):
        ratios = [table.ratio(sets, version, what) for version in versions]
        bars = axes.barh(range(len(versions)), ratios, color=drawing.LIGHT, height=0.6)
        axes.bar_label(bars, [f"{value:.2f}x" for value in ratios], padding=3)
        axes.set_xlim(0, 1.45 * max(ratios))
        axes.set_xticks([])
        axes.grid(False)
        axes.set_xlabel(f"{text} over float32's\n{drawing.LOWER}")
    drawing.legend(figure, [accuracy])
    drawing.caption(figure, drawing.conditions(record))
    figure.savefig(path)
    print(f"drawn to {path}")


def _draw_accuracies(axes: Axes, sets: dict[str, Any], versions: list[str]) -> None:
    for mark, (name, facts) in zip(_MARKS, sets.items(), strict=False):
        base = facts["versions"][FLOAT]["accuracy"]
        points = [100 * (facts["versions"][v]["accuracy"] - base) for v in versions]
        axes.plot(points, range(len(versions)), linestyle="", marker=mark, mfc="none",
                  color=drawing.OURS, label=f"{name} (float32: {base:.4f})")  # fmt: skip
    axes.axvline(0, color=drawing.INK, linewidth=1, zorder=1.5)
    axes.set_yticks(range(len(versions)), [table.TITLES[version] for version in versions])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel(f"test accuracy over float32's, in points,\nmean of the seeds {drawing.HIGHER}")
