"""The results of one target as a picture: its roofline with both layers in it, and their ratio."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from benchmarks import drawing
from benchmarks.aot import report

Row = dict[str, Any]

STOCK: Any = {"marker": "o", "markersize": 10, "markerfacecolor": "none", "color": drawing.STOCK}
OURS: Any = {"marker": "o", "markersize": 5, "color": drawing.OURS}
_OPEN: Any = {"markerfacecolor": "white", "markersize": 5.5}
SERIES: Any = (  # whose, what, and how it looks
    ("selected", "roof_microseconds", drawing.OURS, "by default: time floor", {}),
    ("selected", "bytes", drawing.OURS, "by default: bytes moved", _OPEN),
    ("mosaic", "roof_microseconds", drawing.RIVAL, 'implementation="mosaic": time floor', {}),
    ("triton", "roof_microseconds", drawing.RIVAL, 'implementation="triton": time floor', {}),
)
MARKERS = "oD^v"


@drawing.styled()
def draw(record: dict[str, Any], path: pathlib.Path) -> None:
    """Draw the rows of the first dtype: for each program a roofline, and ratios below it."""
    dtype = record["rows"][0]["dtype"]
    rows = [row for row in record["rows"] if row["dtype"] == dtype and report.ratio(row, "bytes")]
    programs = {
        name: {row["workload"]: row for row in rows if row["program"] == name}
        for name in drawing.TITLES
        if any(row["program"] == name for row in rows)
    }
    if not programs:
        return
    workloads = _in_order(programs)
    heights = (3.6, 1.3 + drawing.ROW * len(workloads))
    figure = Figure(figsize=(drawing.WIDTH, sum(heights)))
    top, bottom = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    drawing.caption(
        top,
        f"{record['title']}, {dtype}: compiled, not run "
        f"(jax {record['versions']['jax']}, {record['date'][:10]})",
    )
    _draw_rooflines(top, programs, record)
    _draw_ratios(bottom, programs, workloads)
    figure.savefig(path)
    print(f"drawn to {path}")


def _in_order(programs: dict[str, dict[str, Row]]) -> list[Row]:
    """Return a row of each workload, from the slowest against stock in the last program on."""
    known: dict[str, Row] = {}
    for rows in programs.values():
        known |= rows
    return sorted(known.values(), key=lambda row: -(report.ratio(row, "roof_microseconds") or 0))


def _draw_rooflines(
    figure: FigureBase, programs: dict[str, dict[str, Row]], record: dict[str, Any]
) -> None:
    panels = figure.subplots(1, len(programs), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, rows) in zip(panels, programs.items(), strict=True):
        axes.set_title(f"{drawing.TITLES[name]}: the roofline", pad=6)
        axes.set_xlabel("operations of both stages per byte moved")
        axes.set_ylabel(f"tera-operations per second\nat the time floor {drawing.HIGHER}")
        _draw_points(axes, list(rows.values()))
    for axes in panels:
        axes.set(xscale="log", yscale="log")
        drawing.round_numbers(axes.xaxis)
        drawing.round_numbers(axes.yaxis)
    low, high = panels[0].get_xlim()
    edge = np.geomspace(low, high, 200)
    bandwidth, peak = record["gigabytes_per_second"], record["teraflops"]
    roof = np.minimum(1e-3 * bandwidth * edge, peak)
    label = f"the roof: {bandwidth:,} GB/s, {peak:,} TFLOP/s"
    for axes in panels:
        axes.plot(edge, roof, color=drawing.INK, linewidth=1, zorder=1, label=label)
    drawing.legend(figure, panels)


def _draw_points(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw operations per second over operations per byte, an arrow from stock to selected."""
    ends = [[_point(row["candidates"][name]) for name in ("stock", "selected")] for row in rows]
    for stock, selected in ends:
        arrow = {"arrowstyle": "->", "color": drawing.GREY, "linewidth": 0.8}
        axes.annotate("", selected, stock, arrowprops=arrow)
    looks = ((STOCK, "Flax' nn.Conv and nn.Dense"), (OURS, "flax_sepconv"))
    for points, (look, label) in zip(zip(*ends, strict=True), looks, strict=True):
        axes.plot(*zip(*points, strict=True), linestyle="", label=label, **look)


def _point(facts: dict[str, Any]) -> tuple[float, float]:
    return facts["flops"] / facts["bytes"], 1e-6 * facts["flops"] / facts["roof_microseconds"]


def _draw_ratios(
    figure: FigureBase, programs: dict[str, dict[str, Row]], workloads: Sequence[Row]
) -> None:
    """Draw our time floors and our bytes over stock's, a line for each workload."""
    panels = figure.subplots(1, len(programs), sharex=True, squeeze=False)[0]
    for axes, (program, rows) in zip(panels, programs.items(), strict=True):
        own = [rows.get(row["workload"], {"candidates": {}}) for row in workloads]
        found = [
            ([report.ratio(row, key, name) for row in own], *look) for name, key, *look in SERIES
        ]
        found = [each for each in found if any(each[0])]
        for place, (ratios, colour, label, more) in enumerate(found):
            look = {"marker": MARKERS[place], "color": colour, "label": label, **more}
            drawing.dots(axes, ratios, place, len(found), **look)
        for height in (height for height, row in enumerate(own) if not row["candidates"]):
            drawing.note(axes, "not compiled", (1, height), (-6, 0), ha="right", va="center")
        axes.set_title(f"{drawing.TITLES[program]}: over stock", pad=6)
    for axes in panels:
        drawing.ratio_axis(axes, f"over that of Flax' nn.Conv and nn.Dense\n{drawing.LOWER}")
    drawing.rows(panels, workloads)
    drawing.legend(figure, panels)
