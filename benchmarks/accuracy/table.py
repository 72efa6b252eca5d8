"""The results as a table in Markdown."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.accuracy.published import Method

SHOWN = ("lite", "litetime", "resnet", "inceptiontime")  # of which all seven sets are known


def mean_over(sets: Mapping[str, Any], values: Mapping[str, float]) -> float:
    """Return the mean of a method's accuracies over the sets of a run."""
    return float(np.mean([values[name] for name in sets]))


def text(sets: Mapping[str, Any], methods: Mapping[str, Method]) -> str:
    """Return the table: a row for each set, and the means."""
    shown = [methods[name] for name in SHOWN]
    count = max(len(facts["accuracies"]) for facts in sets.values())
    head = ["test accuracy", "training / test", f"one network, mean of {count}", "worst to best"]
    head += [f"{count} averaged", "parameters", "seconds", *(method.title for method in shown)]
    lines = ["", _line(head), _line(["---"] * len(head))]
    for name, facts in sets.items():
        low, high = min(facts["accuracies"]), max(facts["accuracies"])
        cells = [name, f"{facts['training_series']} / {facts['test_series']}"]
        cells += [
            f"**{facts['mean']:.4f}**",
            f"{low:.3f} to {high:.3f}",
            f"{facts['averaged']:.4f}",
        ]
        cells += [f"{facts['parameters']:,}", f"{facts['seconds']:.0f}"]
        lines.append(_line(cells + [f"{method.accuracies[name]:.4f}" for method in shown]))
    ours = [mean_over(sets, {n: f[key] for n, f in sets.items()}) for key in ("mean", "averaged")]
    cells = ["mean", "", f"**{ours[0]:.4f}**", "", f"**{ours[1]:.4f}**", "", ""]
    lines.append(_line(cells + [f"{mean_over(sets, m.accuracies):.4f}" for m in shown]))
    return "\n".join([*lines, ""])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
