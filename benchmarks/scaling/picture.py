"""What divided layers send over the fewest bytes possible, and what a second process is worth."""

import pathlib
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import drawing
from benchmarks.scaling.cpu import over_fewest

Row = dict[str, Any]

_LOOKS: Any = {
    "explicit": {"marker": "o", "color": drawing.OURS, "label": "flax_sepconv, explicit axes"},
    "selected": {"marker": "v", "color": drawing.OURS, "label": "flax_sepconv, automatic axes"},
    "shifted_sum": {"marker": "D", "color": drawing.LIGHT, "label": 'implementation="shifted_sum"'},
    "grouped_conv": {"marker": "^", "color": drawing.RIVAL, "label": '"grouped_conv"'},
    "stock": {"marker": "s", "color": drawing.STOCK, "label": "Flax' nn.Conv and nn.Dense"},
}


@drawing.styled()
def draw(record: dict[str, Any], path: pathlib.Path) -> None:
    """Draw the rows on the most devices, and the times of two processes; say where."""
    most = max(row["number"] for row in record["rows"] if row["kind"] == "devices")
    panels_of = {
        program: _chosen(record["rows"], "devices", most, program) for program in drawing.TITLES
    }
    places = list(panels_of["forward"])[::-1]
    looks = {name: _LOOKS[name] for name in record["rows"][0]["candidates"]}
    figure = Figure(figsize=(drawing.WIDTH, 2.4 + drawing.ROW * len(places)))
    panels = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    for axes, (program, rows) in zip(panels, panels_of.items(), strict=False):
        own = [rows[place] for place in places]
        _dots(axes, looks, [[over_fewest(row, name) for row in own] for name in looks])
        for height, row in enumerate(own):
            if not row["fewest_bytes"]:
                sent = any(facts["bytes"] for facts in row["candidates"].values())
                _say(axes, height, "nothing due, but sent" if sent else "nothing due, none sent")
        axes.set_title(drawing.TITLES[program], pad=6)
        drawing.ratio_axis(
            axes,
            f"bytes received by each of {most}\ndevices over the fewest possible\n{drawing.LOWER}",
        )
    pairs = _chosen(record["rows"], "processes", 2, "forward_backward")
    times = [_times(pairs[place]) if place in pairs else {} for place in places]
    _dots(panels[2], looks, [[row.get(name) for row in times] for name in looks])
    for height, row in enumerate(times):
        if not row:
            _say(panels[2], height, "not timed")
    panels[2].set_title("2 processes", pad=6)
    drawing.ratio_axis(panels[2], f"times faster than one,\nwith all gradients\n{drawing.HIGHER}")
    labels = [
        {"workload": division, "shape": panels_of["forward"][workload, division]["shape"]}
        for workload, division in places
    ]
    drawing.rows(panels, labels)
    drawing.legend(figure, panels)
    drawing.caption(figure, drawing.conditions(record))
    figure.savefig(path)
    print(f"drawn to {path}")


def _chosen(rows: Sequence[Row], kind: str, count: int, program: str) -> dict[Any, Row]:
    return {
        (row["workload"], row["division"]): row
        for row in rows
        if (row["kind"], row["number"], row["program"]) == (kind, count, program)
    }


def _times(row: Row) -> dict[str, float]:
    return {name: facts["times_faster_than_one"] for name, facts in row["candidates"].items()}


def _dots(axes: Axes, looks: Any, series: Sequence[drawing.Ratios]) -> None:
    for place, (look, ratios) in enumerate(zip(looks.values(), series, strict=True)):
        drawing.dots(axes, ratios, place, len(series), markersize=4.5, **look)


def _say(axes: Axes, height: int, text: str) -> None:
    drawing.note(axes, text, (1, height), (6, 0), va="center")
