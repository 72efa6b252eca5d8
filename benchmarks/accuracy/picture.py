"""The results as a picture: each set, the means over the parameters, the time of a run."""

import pathlib
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MultipleLocator, NullLocator

from benchmarks import drawing
from benchmarks.accuracy import published, table

_LOOKS: dict[str, Any] = {
    "lite": {"marker": "s", "color": drawing.STOCK},
    "inceptiontime": {"marker": "^", "color": drawing.RIVAL},
    "resnet": {"marker": "v", "color": drawing.GREY},
}
_TITLES = {  # of those whose parameters are known
    "lite": "LITE",
    "litetime": "LITETime",
    "inceptiontime": "InceptionTime",
}
_SEED: Any = {"marker": "o", "mfc": "none", "color": drawing.LIGHT}
_AVERAGED: Any = {"marker": "D", "color": drawing.OURS}
_MEAN: Any = {"marker": "|", "color": drawing.OURS, "markersize": 14, "markeredgewidth": 2.5}


@drawing.styled()
def draw(record: dict[str, Any], path: pathlib.Path) -> None:
    """Draw the sets of a run, and say where."""
    sets = record["sets"]
    figure = Figure(figsize=(drawing.WIDTH, 5.2 + 0.5 * len(sets)))
    grid = figure.add_gridspec(2, 2, height_ratios=(0.5 * len(sets) + 0.5, 3), width_ratios=(3, 2))
    top = figure.add_subplot(grid[0, :])
    _draw_sets(top, sets)
    _draw_means(figure.add_subplot(grid[1, 0]), sets)
    _draw_seconds(figure.add_subplot(grid[1, 1]), sets)
    drawing.legend(figure, [top])
    load = (
        f"load average {record['load_average'][0]} before, {record['load_average_after'][0]} after"
    )
    drawing.caption(figure, f"{drawing.conditions(record)}; {load}")
    figure.savefig(path)
    print(f"drawn to {path}")


def _draw_sets(axes: Axes, sets: dict[str, Any]) -> None:
    methods = {name: published.METHODS[name] for name in _LOOKS}
    count = max(len(facts["accuracies"]) for facts in sets.values())
    named = [
        {"workload": name, "shape": f"{facts['training_series']} training, "
         f"{facts['test_series']} test series"}
        for name, facts in sets.items()
    ][::-1]  # fmt: skip
    lanes = 2 + len(methods)
    for height, (name, facts) in enumerate(reversed(sets.items())):
        label = not height
        lane = drawing.height(height, 0, lanes)
        _put(
            axes, facts["accuracies"], lane, _SEED, f"one network, a point a seed ({count})", label
        )
        _put(axes, [facts["mean"]], lane, _MEAN, "mean of these", label)
        lane = drawing.height(height, 1, lanes)
        _put(axes, [facts["averaged"]], lane, _AVERAGED, f"{count} averaged", label)
        for place, (key, method) in enumerate(methods.items(), 2):
            lane = drawing.height(height, place, lanes)
            _put(axes, [method.accuracies[name]], lane, _LOOKS[key], method.title, label)
    drawing.rows([axes], named)
    axes.set_xlim(right=1.01)
    axes.xaxis.set_major_locator(MultipleLocator(0.05))
    axes.set_xlabel(f"test accuracy {drawing.HIGHER}")


def _put(
    axes: Axes, values: list[float], height: float, style: Any, text: str, has_label: bool
) -> None:
    label = text if has_label else None
    axes.plot(values, [height] * len(values), linestyle="", zorder=3, label=label, **style)


def _draw_means(axes: Axes, sets: dict[str, Any]) -> None:
    """Draw means over parameters; those of ours vary with the set, by channels and classes."""
    parameters = [facts["parameters"] for facts in sets.values()]
    count = max(len(facts["accuracies"]) for facts in sets.values())
    points: list[tuple[float, float, str, Any]] = []
    for key, voters, title in (("mean", 1, "ours, one"), ("averaged", count, f"ours, {count}")):
        value = table.mean_over(sets, {name: facts[key] for name, facts in sets.items()})
        look = {**_SEED, "mfc": drawing.LIGHT} if key == "mean" else _AVERAGED
        points.append((value, voters * float(np.median(parameters)), title, look))
        ends = [voters * min(parameters), voters * max(parameters)]
        axes.plot(ends, [value] * 2, color=look["color"], linewidth=1.5)
    for name, title in _TITLES.items():
        method = published.METHODS[name]
        size = float(method.ensemble * (method.parameters or 0))
        look = _LOOKS.get(name, {**_LOOKS["lite"], "mfc": "none"})
        points.append((table.mean_over(sets, method.accuracies), size, title, look))
    for value, size, title, look in sorted(points, key=lambda point: -point[0]):
        label = f"{title}: {value:.4f}"
        axes.plot([size], [value], linestyle="", zorder=3, label=label, **look)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_xscale("log")
    axes.margins(0.1, 0.1)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.set_xlabel("parameters of all networks\nthat are averaged")
    axes.set_ylabel(f"mean accuracy of the sets\n{drawing.HIGHER}")


def _draw_seconds(axes: Axes, sets: dict[str, Any]) -> None:
    names, seconds = list(sets), [facts["seconds"] for facts in sets.values()]
    bars = axes.barh(range(len(names)), seconds, color=drawing.LIGHT, height=0.65)
    axes.bar_label(bars, [f"{value:.0f} s" for value in seconds], padding=4)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(seconds))
    axes.set_xticks([])
    axes.grid(False)
    axes.set_xlabel(f"seconds of a run,\non one core\n{drawing.LOWER}")
