"""The results as a picture: a panel for each network, a bar for each version."""

import pathlib
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import drawing


@drawing.styled()
def draw(record: dict[str, Any], titles: Mapping[str, str], path: pathlib.Path) -> None:
    """Draw the medians of a run, and say where."""
    rows = record["rows"]
    lines = -(-len(rows) // 2)
    figure = Figure(figsize=(drawing.WIDTH, lines * (0.42 * len(titles) + 1.3) + 0.3))
    grid = figure.subplots(lines, min(len(rows), 2), squeeze=False, sharey=True)
    for axes in grid.flat[len(rows) :]:
        axes.set_axis_off()
    for axes, row in zip(grid.flat, rows, strict=False):
        _draw_times(axes, row)
    grid[0, 0].set_yticks(range(len(titles)), list(titles.values()))
    grid[0, 0].invert_yaxis()
    drawing.caption(figure, drawing.conditions(record))
    figure.savefig(path)
    print(f"drawn to {path}")


def _draw_times(axes: Axes, row: dict[str, Any]) -> None:
    times = {name: facts["milliseconds"] for name, facts in row["versions"].items()}
    colours = [drawing.OURS if name == "ours" else drawing.REST for name in times]
    bars = axes.barh(range(len(times)), list(times.values()), color=colours, height=0.65)
    labels = [
        f"{time:,.{digits(time)}f} ms  ({time / times['ours']:.2f}x)" for time in times.values()
    ]
    axes.bar_label(bars, labels, padding=4)
    axes.set_xlim(0, 1.7 * max(times.values()))  # room for the labels
    axes.set_title(f"{row['title']}, {row['shape']}", pad=6)
    axes.set_xlabel(
        f"milliseconds of a training step, and\nthat over flax_sepconv's {drawing.LOWER}"
    )
    axes.set_xticks([])
    axes.grid(False)


def digits(milliseconds: float) -> int:
    """Return how many decimals to show."""
    return 0 if milliseconds >= 100 else 1
