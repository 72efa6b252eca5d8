"""The results as a picture: the time of what is selected over the others' times."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks import drawing, summary
from benchmarks.candidates import CANDIDATES
from benchmarks.device import report

RIVALS: Any = (
    (report.STOCK, "s", drawing.STOCK, "over Flax' nn.Conv and nn.Dense"),
    (report.TORCH, "o", drawing.RIVAL, "over PyTorch, the better of its two layouts"),
)
OURS = [name for name in CANDIDATES if name not in report.STOCK]
HOST = "open: the host's time for starting a call"
BROKEN = "wrong or failed: no time (black: flax_sepconv's)"

Row = Mapping[str, Any]


@drawing.styled()
def draw(record: dict[str, Any], path: pathlib.Path) -> None:
    """Draw panels for each dtype and program with a line for each workload, and say where."""
    rows = [
        row
        for row in record["rows"]
        if any(report.over(row, names) for names, *_ in RIVALS) or report.troubles_of(row)
    ]
    if not rows:
        return
    workloads = list({row["workload"]: row for row in rows}.values())[::-1]
    dtypes, programs = (
        list(dict.fromkeys(row[key] for row in rows)) for key in ("dtype", "program")
    )
    height = 1 + len(dtypes) * (1 + drawing.ROW * len(workloads))
    figure = Figure(figsize=(drawing.WIDTH, height))
    panels = figure.subplots(len(dtypes), len(programs), sharex=True, squeeze=False)
    for line, dtype in zip(panels, dtypes, strict=True):
        for axes, program in zip(line, programs, strict=True):
            own = {row["workload"]: row for row in rows if _key(row) == (dtype, program)}
            _draw_panel(axes, [own.get(row["workload"], {"candidates": {}}) for row in workloads])
            axes.set_title(f"{dtype}, {drawing.TITLES[program]}")
            axes.tick_params(labelbottom=True)
        drawing.rows(line, workloads)
    for axes in panels.flat:
        drawing.ratio_axis(axes, f"flax_sepconv's time over theirs\n{drawing.LOWER}")
    drawing.legend(figure, [], *_keys(rows))
    drawing.caption(figure, _caption(record))
    figure.savefig(path)
    print(f"drawn to {path}")


def _key(row: Row) -> tuple[str, str]:
    return row["dtype"], row["program"]


def _caption(record: dict[str, Any]) -> str:
    known = record["versions"]
    versions = ", ".join(f"{name} {known[name]}" for name in ("jax", "torch") if name in known)
    made = f"({versions}, {record['date'][:10]})"
    return f"{record['device']}: flax_sepconv's time over the others' {made}"


def _keys(rows: Sequence[Row]) -> list[Line2D]:
    """Make the legend's entries: the rivals that occur, and the open dot where one does."""
    keys = [
        _mark(marker, colour, colour, label)
        for names, marker, colour, label in RIVALS
        if any(report.over(row, names) or _is_broken(row, names) for row in rows)
    ]
    if any(_is_open(row, names) for row in rows for names, *_ in RIVALS):
        keys.append(_mark("o", drawing.GREY, "white", HOST))
    if any(report.troubles_of(row) for row in rows):
        keys.append(_mark("x", drawing.GREY, drawing.GREY, BROKEN))
    if any(report.over(row, names) for row in rows for names, *_ in RIVALS):
        keys.append(drawing.mean())
    return keys


def _mark(marker: str, colour: str, face: str, label: str) -> Line2D:
    look: Any = {"marker": marker, "color": colour, "markerfacecolor": face}
    return Line2D([], [], linestyle="", label=label, **look)


def _is_open(row: Row, names: Iterable[str]) -> bool:
    """Tell whether either time of a ratio is the host's."""
    timed = (report.best(row, ["selected"]), report.best(row, names))
    return any(facts is not None and report.is_launch_bound(facts) for facts in timed)


def _is_broken(row: Row, names: Iterable[str]) -> bool:
    return not report.troubles_of(row).keys().isdisjoint(names)


def _draw_panel(axes: Axes, rows: Sequence[Row]) -> None:
    means = []
    for place, (names, marker, colour, _) in enumerate(RIVALS):
        ratios = [report.over(row, names) for row in rows]
        for is_open, face in ((False, colour), (True, "white")):
            own = [
                ratio if _is_open(row, names) == is_open else None
                for row, ratio in zip(rows, ratios, strict=True)
            ]
            look: Any = {"marker": marker, "color": colour, "markerfacecolor": face}
            drawing.dots(axes, own, place, len(RIVALS), **look)
        means.append((summary.geometric_mean(ratios), colour))
    for height, row in enumerate(rows):
        _mark_broken(axes, row, height)
    drawing.mark_means(axes, means)


def _mark_broken(axes: Axes, row: Row, height: int) -> None:
    """Put a cross beside the panel for what has no time: named, where it is ours."""
    beside: Any = {"transform": axes.get_yaxis_transform(), "clip_on": False}
    for place, (names, _, colour, _) in enumerate(RIVALS):
        if _is_broken(row, names):
            at = drawing.height(height, place, len(RIVALS))
            axes.plot(1.03, at, "x", color=colour, **beside)
    if ours := [name for name in OURS if _is_broken(row, [name])]:
        axes.plot(1.08, height, "x", color=drawing.INK, **beside)
        named = ours if len(ours) <= 2 else [ours[0], f"{len(ours) - 1} more"]
        where: Any = {"xycoords": axes.get_yaxis_transform(), "va": "center"}
        drawing.note(axes, "\n".join(named), (1.08, height), (6, 0), color=drawing.INK, **where)
