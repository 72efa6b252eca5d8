"""The results as a picture: a panel for each network, a bar for each version."""

import pathlib
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS, OTHERS = "#23634a", "#b9c4cc"
INK, GREY = "#333333", "#777777"


def draw(record: dict[str, Any], titles: Mapping[str, str], path: pathlib.Path) -> None:
    """Draw the medians of a run, and say where."""
    rows = record["rows"]
    figure = Figure(figsize=(5.2 * len(rows) + 1.6, 0.5 * len(titles) + 1.5), layout="constrained")
    panels = figure.subplots(1, len(rows), squeeze=False, sharey=True)[0]
    for axes, row in zip(panels, rows, strict=True):
        _draw_times(axes, row)
    panels[0].set_yticks(range(len(titles)), list(titles.values()), fontsize=10, color=INK)
    panels[0].invert_yaxis()
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    caption = f"float32, {record['processor']}, {record['cores']} cores, {record['date'][:10]}"
    figure.supxlabel(f"{caption}\n{versions}", fontsize=7, color=GREY, x=0.01, ha="left")
    figure.savefig(path, dpi=150)
    print(f"drawn to {path}")


def _draw_times(axes: Axes, row: dict[str, Any]) -> None:
    times = {name: facts["milliseconds"] for name, facts in row["versions"].items()}
    colours = [OURS if name == "ours" else OTHERS for name in times]
    bars = axes.barh(range(len(times)), list(times.values()), color=colours, height=0.65)
    labels = [
        f"{time:,.{digits(time)}f} ms  ({time / times['ours']:.2f}x)" for time in times.values()
    ]
    axes.bar_label(bars, labels, padding=5, fontsize=9.5, color=INK)
    axes.set_xlim(0, 1.35 * max(times.values()))  # room for the labels
    title = f"{row['title']}, {row['shape']}: a training step"
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def digits(milliseconds: float) -> int:
    """Return how many decimals to show."""
    return 0 if milliseconds >= 100 else 1
