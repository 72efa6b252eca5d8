"""The results as a picture: the time of what is selected over the others' times."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from benchmarks import summary
from benchmarks.candidates import CANDIDATES
from benchmarks.device import report

INK, GREY, FAINT = "#333333", "#777777", "#dddddd"
RIVALS = (
    (report.STOCK, "#3b6fb6", "over Flax' nn.Conv and nn.Dense"),
    (report.TORCH, "#d9772b", "over PyTorch, the better of its two layouts"),
)
OURS = [name for name in CANDIDATES if name not in report.STOCK]
HOST = "the time is the host's for starting a call, not the device's"
BROKEN = "wrong numbers or a failure: no time (black: of flax_sepconv, named)"
TITLES = {"forward": "forward", "forward_backward": "forward and all gradients"}
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)

Row = dict[str, Any]


def draw(record: dict[str, Any], path: pathlib.Path) -> None:
    """Draw a panel for each dtype and program with a line for each workload, and say where."""
    rows = [
        row
        for row in record["rows"]
        if any(report.over(row, names) for names, *_ in RIVALS) or report.troubles_of(row)
    ]
    if not rows:
        return
    names = _in_order(f"{row['workload'].removesuffix('-0')}  {row['shape']}" for row in rows)[::-1]
    heights = {
        workload: -n for n, workload in enumerate(_in_order(row["workload"] for row in rows))
    }
    dtypes, programs = (_in_order(row[key] for row in rows) for key in ("dtype", "program"))
    size = (5 + 4.2 * len(programs), 1.6 + len(dtypes) * (0.9 + 0.32 * len(names)))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(dtypes), len(programs), sharex=True, sharey=True, squeeze=False)
    for line, dtype in zip(panels, dtypes, strict=True):
        for axes, program in zip(line, programs, strict=True):
            own = [row for row in rows if (row["dtype"], row["program"]) == (dtype, program)]
            _draw_panel(axes, own, heights)
            axes.set_title(f"{dtype}, {TITLES[program]}\n", fontsize=10, color=INK, loc="left")
    panels[0][0].set_yticks(range(1 - len(names), 1), names)
    panels[0][0].set_ylim(0.4 - len(names), 0.6)
    _scale(panels[0][0])
    figure.legend(
        handles=_keys(rows), loc="outside lower center", ncols=3, frameon=False, fontsize=8.5
    )
    figure.suptitle(_caption(record), fontsize=11, color=INK, x=0.01, ha="left")
    figure.savefig(path, dpi=140)
    print(f"drawn to {path}")


def _in_order(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _caption(record: dict[str, Any]) -> str:
    known = record["versions"]
    versions = ", ".join(f"{name} {known[name]}" for name in ("jax", "torch") if name in known)
    made = f"({versions}, {record['date'][:10]})"
    return f"{record['device']}: flax_sepconv's time over the others' {made}"


def _keys(rows: Sequence[Row]) -> list[Line2D]:
    """Make the legend's entries: the rivals that occur, and the open dot where one does."""
    keys = [
        _dot(colour, colour, label)
        for names, colour, label in RIVALS
        if any(report.over(row, names) or _is_broken(row, names) for row in rows)
    ]
    if any(_is_open(row, names) for row in rows for names, *_ in RIVALS):
        keys.append(_dot(GREY, "white", HOST))
    if any(report.troubles_of(row) for row in rows):
        keys.append(Line2D([], [], marker="x", linestyle="", color=GREY, label=BROKEN))
    return keys


def _dot(colour: str, face: str, label: str) -> Line2D:
    return Line2D([], [], marker="o", linestyle="", color=colour, markerfacecolor=face, label=label)


def _is_open(row: Row, names: Iterable[str]) -> bool:
    """Tell whether either time of a ratio is the host's."""
    timed = (report.best(row, ["selected"]), report.best(row, names))
    return any(facts is not None and report.is_launch_bound(facts) for facts in timed)


def _draw_panel(axes: Axes, rows: Sequence[Row], heights: dict[str, int]) -> None:
    means = []
    for names, colour, _ in RIVALS:
        ratios = [report.over(row, names) for row in rows]
        for row, ratio in zip(rows, ratios, strict=True):
            if ratio is not None:
                face = "white" if _is_open(row, names) else colour
                height = heights[row["workload"]]
                axes.plot(ratio, height, "o", color=colour, markerfacecolor=face, markersize=6)
        means.append((summary.geometric_mean(ratios), colour))
    for row in rows:
        _mark_broken(axes, row, heights[row["workload"]])
    _mark_means(axes, means)
    axes.axvline(1, color=INK, linewidth=1, zorder=1)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=INK, labelsize=8)
    axes.spines[:].set_visible(False)


def _is_broken(row: Row, names: Iterable[str]) -> bool:
    return not report.troubles_of(row).keys().isdisjoint(names)


def _mark_broken(axes: Axes, row: Row, height: float) -> None:
    """Put a cross at the right edge for what has no time: named, where it is ours."""
    edge = axes.get_yaxis_transform()
    for place, (names, colour, _) in enumerate(RIVALS):
        if _is_broken(row, names):
            axes.plot(0.95 - 0.04 * place, height, "x", color=colour, transform=edge)
    if ours := [name for name in OURS if _is_broken(row, [name])]:
        axes.plot(0.99, height, "x", color=INK, transform=edge)
        axes.annotate(
            ", ".join(ours),
            (0.99, height),
            (-2, 3),
            xycoords=edge,
            textcoords="offset points",
            ha="right",
            fontsize=6.5,
            color=INK,
        )


def _mark_means(axes: Axes, means: Sequence[tuple[float | None, str]]) -> None:
    """Draw a line at each mean, its number above, to the outer side where there are two."""
    known = sorted((mean, colour) for mean, colour in means if mean is not None)
    for (mean, colour), side in zip(known, ("right", "left"), strict=False):
        axes.axvline(mean, color=colour, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        axes.annotate(
            f"{mean:.2g}x",
            (mean, 1),
            (2 if side == "right" else -2, 3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha=side,
            fontsize=8.5,
            color=colour,
        )


def _scale(axes: Axes) -> None:
    """Give the axis, which all panels share, the ratios that occur and one."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.5), max(high, 1.5))
    low, high = axes.get_xlim()
    shown = [tick for tick in TICKS if low <= tick <= high]
    axes.set_xticks(shown, [f"{tick:g}x" for tick in shown])
    axes.xaxis.set_minor_locator(NullLocator())
