"""The results of one target as a picture: its roofline with both layers in it, and their ratio."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.aot import report

OURS, STOCK, FUSED = "#23634a", "#3b6fb6", "#d9772b"
INK, GREY, FAINT = "#333333", "#777777", "#dddddd"
TICKS = (0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.4, 2, 3)
FEW_TICKS = (0.1, 0.2, 0.5, 1, 2, 5)  # where there is no room for more
TITLES = {"forward": "forward", "forward_backward": "forward and all gradients"}

Row = dict[str, Any]


def draw(record: dict[str, Any], path: pathlib.Path) -> None:
    """Draw the largest dtype's worth of rows: a roofline and the ratios for each program."""
    dtype = record["rows"][0]["dtype"]
    rows = [row for row in record["rows"] if row["dtype"] == dtype and report.ratio(row, "bytes")]
    programs = [name for name in TITLES if any(row["program"] == name for row in rows)]
    if not programs:
        return
    height = 2.2 + 0.3 * max(sum(row["program"] == name for row in rows) for name in programs)
    figure = Figure(figsize=(13, len(programs) * max(height, 4)), layout="constrained")
    panels = figure.subplots(len(programs), 2, squeeze=False, width_ratios=(5, 4))
    for (roof, ratios), program in zip(panels, programs, strict=True):
        own = [row for row in rows if row["program"] == program]
        _draw_roofline(roof, own, record)
        roof.set_title(f"{TITLES[program]}: the roofline", **_title())
        _draw_ratios(ratios, own)
        ratios.set_title("over stock Flax", **_title())
    figure.suptitle(
        f"{record['title']}, {dtype}: compiled, not run "
        f"(jax {record['versions']['jax']}, {record['date'][:10]})",
        fontsize=11,
        color=INK,
        x=0.01,
        ha="left",
    )
    figure.savefig(path, dpi=140)
    print(f"drawn to {path}")


def _title() -> dict[str, Any]:
    return {"fontsize": 10, "color": INK, "loc": "left"}


def _draw_roofline(axes: Axes, rows: Sequence[Row], record: dict[str, Any]) -> None:
    """Draw operations per second over operations per byte, an arrow from stock to selected."""
    intensities = []
    for row in rows:
        ends = [_point(row["candidates"][name]) for name in ("stock", "selected")]
        axes.annotate(
            "", ends[1], ends[0], arrowprops={"arrowstyle": "->", "color": GREY, "lw": 0.8}
        )
        for (x, y), colour in zip(ends, (STOCK, OURS), strict=True):
            axes.plot(x, y, "o", color=colour, markersize=6, markeredgecolor="white")
            intensities.append(x)
    edge = np.geomspace(0.7 * min(intensities), 1.4 * max(intensities), 200)
    bandwidth, peak = 1e-3 * record["gigabytes_per_second"], record["teraflops"]
    axes.plot(edge, np.minimum(edge * bandwidth, peak), color=INK, linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations of both stages per byte moved", fontsize=9, color=INK)
    axes.set_ylabel("Tera-operations per second at the time floor", fontsize=9, color=INK)
    for label, colour in (("Flax' nn.Conv and nn.Dense", STOCK), ("flax_sepconv", OURS)):
        axes.plot([], [], "o", color=colour, label=label)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    _plain(axes)


def _point(facts: dict[str, Any]) -> tuple[float, float]:
    return facts["flops"] / facts["bytes"], 1e-6 * facts["flops"] / facts["roof_microseconds"]


def _draw_ratios(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw our time floor and our bytes over stock's, a line for each workload."""
    ordered = sorted(rows, key=lambda row: -(report.ratio(row, "roof_microseconds") or 0))
    series = [
        ("selected", "roof_microseconds", "o", OURS, "selected: time floor"),
        ("selected", "bytes", "D", OURS, "selected: bytes moved"),
        ("mosaic", "roof_microseconds", "o", FUSED, "Mosaic, by name: time floor"),
        ("triton", "roof_microseconds", "o", FUSED, "Triton, by name: time floor"),
    ]
    for name, key, marker, colour, label in series:
        found = [(report.ratio(row, key, name), i) for i, row in enumerate(ordered)]
        points = [(ratio, i) for ratio, i in found if ratio is not None]
        if points:
            filled = "none" if marker == "D" else colour
            style: Any = {"color": colour, "markerfacecolor": filled, "markersize": 6}
            axes.plot(*zip(*points, strict=True), marker, label=label, **style)
    axes.set_yticks(
        range(len(ordered)), [f"{_name(row)}  {row['shape']}" for row in ordered], fontsize=8
    )
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.6), max(high, 1.2))
    low, high = axes.get_xlim()
    ticks = TICKS if high < 6 * low else FEW_TICKS
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(shown, [f"{tick:g}x" for tick in shown])
    axes.axvline(1, color=INK, linewidth=1)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.05), ncols=3)
    _plain(axes)


def _name(row: Row) -> str:
    return row["workload"].removesuffix("-0")


def _plain(axes: Axes) -> None:
    axes.minorticks_off()
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
