"""The results as a picture: how far ahead of the others, how far from the floor."""

import pathlib
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks import summary

STOCK, RIVAL, FORWARD, BOTH = "#3b6fb6", "#d9772b", "#8fbf9f", "#23634a"
INK, GREY, FAINT = "#333333", "#777777", "#dddddd"
TITLE: Any = {"fontsize": 11, "color": INK, "loc": "left"}
TITLES = {"forward": "forward", "forward_backward": "forward and all gradients"}
TICKS = (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
CLOSE_TICKS = (0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 10)

Row = dict[str, Any]


def draw(record: dict[str, Any], path: pathlib.Path) -> None:
    """Draw the workloads of a run, sorted by the lead over the best rival, and say where."""
    rows = sorted(record["rows"], key=_lead)
    figure = Figure(figsize=(13, 2.4 + 0.4 * len(rows)), layout="constrained")
    *leads, distance = figure.subplots(1, 3, sharey=True, width_ratios=(3, 3, 2))
    for axes, program in zip(leads, summary.PROGRAMS, strict=True):
        _draw_leads(axes, rows, program, record["summary"][program])
        axes.set_title(f"{TITLES[program]}: times faster than\n", **TITLE)
    _draw_distance(distance, rows)
    distance.set_title("time over the matmuls' alone\n", **TITLE)
    _name(leads[0], rows)
    handles = [*leads[0].collections, *distance.collections]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9.5)
    figure.suptitle(_caption(record), fontsize=7.5, color=GREY, x=0.01, ha="left")
    figure.savefig(path, dpi=150, bbox_inches="tight", pad_inches=0.2)
    print(f"drawn to {path}")


def _caption(record: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    machine = f"{record['processor']}, {record['cores']} cores"
    return f"float32, {machine}, {record['date'][:10]}; {versions}"


def _lead(row: Row) -> float:
    program = "forward_backward"
    return summary.speed_up(row, summary.best_rival(row, program), program) or 0.0


def _name(axes: Axes, rows: Sequence[Row]) -> None:
    axes.set_yticks([])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    beside: Any = {"xycoords": ("axes fraction", "data"), "ha": "right"}
    for height, row in enumerate(rows):
        name = row["workload"].removesuffix("-0")
        _note(axes, name, (0, height), (-10, 1), color=INK, **beside)
        shape = row["shape"].replace("->", "\N{RIGHTWARDS ARROW}")
        _note(axes, shape, (0, height), (-10, -9), color=GREY, **beside)


def _note(
    axes: Axes, text: str, at: tuple[float, float], points: tuple[int, int], **style: Any
) -> None:
    """Write so many points beside a place."""
    axes.annotate(text, at, xytext=points, textcoords="offset points", fontsize=8.5, **style)


def _draw_leads(axes: Axes, rows: Sequence[Row], program: str, means: dict[str, Any]) -> None:
    rivals = [summary.speed_up(row, summary.best_rival(row, program), program) for row in rows]
    stock = [summary.speed_up(row, "flax_stock", program) for row in rows]
    for height, (near, far) in enumerate(zip(rivals, stock, strict=True)):
        if near and far:
            axes.plot([near, far], [height, height], color=FAINT, linewidth=2.5, zorder=1)
    _dots(axes, rivals, RIVAL, "the best of TensorFlow and PyTorch")
    _dots(axes, stock, STOCK, "Flax' nn.Conv and nn.Dense")
    _axis(axes, TICKS)
    nearest, flax = means["speed_up_over_best_rival"], means["speed_up_over"].get("flax_stock")
    _mark_means(axes, [(nearest, RIVAL), (flax, STOCK)])


def _draw_distance(axes: Axes, rows: Sequence[Row]) -> None:
    means = []
    for program, colour in zip(summary.PROGRAMS, (FORWARD, BOTH), strict=True):
        ratios = [summary.speed_up(row, "floor", program) for row in rows]
        slower = [1 / ratio if ratio else None for ratio in ratios]
        _dots(axes, slower, colour, TITLES[program])
        means.append((summary.geometric_mean(slower), colour))
    _axis(axes, CLOSE_TICKS)
    _mark_means(axes, means)


def _dots(axes: Axes, ratios: Sequence[float | None], colour: str, label: str) -> None:
    found = [(ratio, height) for height, ratio in enumerate(ratios) if ratio is not None]
    if found:
        x, y = zip(*found, strict=True)
        axes.scatter(x, y, s=48, color=colour, label=label, zorder=3, edgecolors="white")


def _mark_means(axes: Axes, means: Sequence[tuple[float | None, str]]) -> None:
    """Draw a line at each mean, its number above, to the outer side where there are two."""
    known = sorted((mean, colour) for mean, colour in means if mean is not None)
    for (mean, colour), side in zip(known, ("right", "left"), strict=False):
        axes.axvline(mean, color=colour, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        text = f"{mean:.{1 if mean >= 10 else 2}f}x"
        above: Any = {"xycoords": ("data", "axes fraction"), "ha": side}
        _note(axes, text, (mean, 1), (2 if side == "right" else -2, 3), color=colour, **above)


def _axis(axes: Axes, ticks: Sequence[float]) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.9), max(high, 1.1))
    low, high = axes.get_xlim()
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(shown, [f"{tick:g}x" for tick in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(length=0, colors=INK)
    axes.axvline(1, color=INK, linewidth=1, zorder=2)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
