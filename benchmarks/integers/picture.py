"""The results as a picture: what integers gain over float32, and over the others' integers."""

import pathlib
from typing import Any

from matplotlib.figure import Figure

from benchmarks import drawing
from benchmarks.integers import report
from benchmarks.integers.contenders import PEERS
from benchmarks.summary import geometric_mean

_GAINS: dict[str, Any] = {
    "integers": {"marker": "o", "color": drawing.OURS, "label": "int8 to int8"},
    "integers_to_real": {"marker": "D", "color": drawing.LIGHT, "label": "int8 to float32"},
}
_LEADS: dict[str, Any] = {
    "onnxruntime": {"marker": "s", "color": drawing.STOCK},
    "openvino": {"marker": "^", "color": drawing.RIVAL},
    "litert": {"marker": "v", "color": drawing.GREY},
}


@drawing.styled()
def draw(record: dict[str, Any], path: pathlib.Path) -> None:
    """Draw the layers of a run, sorted by what they gain, and say where."""
    rows = report.least_first(record["rows"])[::-1]  # the first row is the lowest
    figure = Figure(figsize=(drawing.WIDTH, 2.6 + drawing.ROW * len(rows)))
    panels = figure.subplots(1, 2)
    own = [report.gain(row) for row in rows]
    for place, (program, look) in enumerate(_GAINS.items()):
        gains = [report.gain(row, program) for row in rows]
        drawing.dots(panels[0], gains, place, len(_GAINS), **look)
    drawing.ratio_axis(panels[0], f"times faster than our float32\n{drawing.HIGHER}")
    drawing.mark_means(panels[0], [(geometric_mean(own), drawing.OURS)])
    panels[0].set_title("over float32")
    for place, (name, look) in enumerate(_LEADS.items()):
        leads = [report.lead(row, name) for row in rows]
        drawing.dots(panels[1], leads, place, len(_LEADS), label=PEERS[name].title, **look)
    best = geometric_mean(report.lead(row, report.best(row)) for row in rows)
    drawing.ratio_axis(panels[1], f"times faster than these, int8 to int8\n{drawing.HIGHER}")
    drawing.mark_means(panels[1], [(best, drawing.INK)])
    panels[1].set_title("over the others; the mean: over the best")
    drawing.rows(panels, rows)
    drawing.legend(figure, panels, drawing.mean())
    conditions = drawing.conditions(record).removeprefix("float32, ")
    drawing.caption(figure, f"int8, static scales, memory {record['memory']}; {conditions}")
    figure.savefig(path)
    print(f"drawn to {path}")
