"""The results as a picture: how far ahead of the best of the others, layer by layer."""

import pathlib
from typing import Any

from matplotlib.figure import Figure

from benchmarks import drawing
from benchmarks.summary import PROGRAMS, geometric_mean
from benchmarks.sweep import report

_LOOKS: dict[str, Any] = {
    "float32": {"marker": "o", "color": drawing.OURS, "label": "float32"},
    "bfloat16": {"marker": "s", "color": drawing.RIVAL, "label": "bfloat16"},
}


@drawing.styled()
def draw(record: dict[str, Any], path: pathlib.Path) -> None:
    """Draw the layers of a run, sorted by the least lead, and say where."""
    rows = report.worst_first(record["rows"])[::-1]
    figure = Figure(figsize=(drawing.WIDTH, 2.4 + drawing.ROW * len(rows)))
    panels = figure.subplots(1, 2)
    for axes, program in zip(panels, PROGRAMS, strict=True):
        means = []
        for place, (dtype, look) in enumerate(_LOOKS.items()):
            leads = [report.lead(row, dtype, program) for row in rows]
            drawing.dots(axes, leads, place, len(_LOOKS), **look)
            means.append((geometric_mean(leads), look["color"]))
        drawing.ratio_axis(axes, f"times faster than the best of the others\n{drawing.HIGHER}")
        drawing.mark_means(axes, means)
        axes.set_title(drawing.TITLES[program])
    drawing.rows(panels, rows)
    drawing.legend(figure, panels, drawing.mean())
    conditions = drawing.conditions(record).removeprefix("float32, ")
    words = f"seed {record['seed']}, memory {record['memory']}; {conditions}"
    drawing.caption(figure, words)
    figure.savefig(path)
    print(f"drawn to {path}")
