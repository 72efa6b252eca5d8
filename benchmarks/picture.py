"""The results as a picture: how far ahead of the others, how far from the floor."""

import pathlib
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import drawing, summary

Row = dict[str, Any]

_LEADS: Any = (
    {"marker": "o", "color": drawing.RIVAL, "label": "the best of TensorFlow and PyTorch"},
    {"marker": "s", "color": drawing.STOCK, "label": "Flax' nn.Conv and nn.Dense"},
)
_FLOOR: Any = (
    {"marker": "^", "color": drawing.LIGHT, "label": "over the matmuls: forward"},
    {"marker": "D", "color": drawing.OURS, "label": "over the matmuls: forward and all gradients"},
)


@drawing.styled()
def draw(record: dict[str, Any], path: pathlib.Path) -> None:
    """Draw the workloads of a run, sorted by the lead over the best rival, and say where."""
    rows = sorted(record["rows"], key=lambda row: _rival(row, "forward_backward") or 0.0)
    figure = Figure(figsize=(drawing.WIDTH, 2.4 + drawing.ROW * len(rows)))
    panels = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    for axes, program in zip(panels[:2], summary.PROGRAMS, strict=True):
        stock = [summary.speed_up(row, "flax_stock", program) for row in rows]
        _draw(axes, _LEADS, [[_rival(row, program) for row in rows], stock])
        drawing.ratio_axis(axes, f"times faster than these\n{drawing.HIGHER}")
        axes.set_title(drawing.TITLES[program])
    _draw(panels[2], _FLOOR, [_distances(rows, program) for program in summary.PROGRAMS])
    drawing.ratio_axis(panels[2], f"time over that of the\nmatmuls alone\n{drawing.LOWER}")
    panels[2].set_title("over the floor")
    drawing.rows(panels, rows)
    drawing.legend(figure, panels, drawing.mean())
    drawing.caption(figure, drawing.conditions(record))
    figure.savefig(path)
    print(f"drawn to {path}")


def _draw(axes: Axes, looks: Sequence[dict[str, Any]], series: Sequence[drawing.Ratios]) -> None:
    for place, (look, ratios) in enumerate(zip(looks, series, strict=True)):
        drawing.dots(axes, ratios, place, len(series), **look)
    means = [summary.geometric_mean(ratios) for ratios in series]
    drawing.mark_means(axes, zip(means, [look["color"] for look in looks], strict=True))


def _rival(row: Row, program: str) -> float | None:
    return summary.speed_up(row, summary.best_rival(row, program), program)


def _distances(rows: Sequence[Row], program: str) -> drawing.Ratios:
    ratios = [summary.speed_up(row, "floor", program) for row in rows]
    return [1 / ratio if ratio else None for ratio in ratios]
