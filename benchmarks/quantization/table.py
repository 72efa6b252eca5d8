"""The results as a table in Markdown."""

from collections.abc import Mapping
from typing import Any

from benchmarks.quantization.versions import FLOAT, VERSIONS

TITLES = {FLOAT: "float32", **{name: version.title for name, version in VERSIONS.items()}}


def text(sets: Mapping[str, Any]) -> str:
    """Return the table: a row for each version, the accuracies of the sets, bytes and time."""
    names = list(sets)
    count = max(len(facts["seeds"]) for facts in sets.values())
    head = [f"test accuracy, mean of {count}", *names, "mean", "over float32", "bytes", "time"]
    lines = ["", _line(head), _line(["---"] * len(head))]
    base = mean_over(sets, FLOAT, "accuracy")
    for version, title in TITLES.items():
        accuracies = [sets[name]["versions"][version]["accuracy"] for name in names]
        mean = mean_over(sets, version, "accuracy")
        cells = [title, *(f"{value:.4f}" for value in accuracies), f"**{mean:.4f}**"]
        if version == FLOAT:
            cells += ["", "1", "1"]
        else:
            cells += [f"{100 * (mean - base):+.2f} points"]
            cells += [f"{ratio(sets, version, what):.2f}" for what in ("bytes", "milliseconds")]
        lines.append(_line(cells))
    return "\n".join([*lines, ""])


def mean_over(sets: Mapping[str, Any], version: str, what: str) -> float:
    """Return the mean of the sets."""
    values = [facts["versions"][version][what] for facts in sets.values()]
    return float(sum(values) / len(values))


def ratio(sets: Mapping[str, Any], version: str, what: str) -> float:
    """Return the mean of the sets' ratios over float32."""
    ratios = [
        facts["versions"][version][what] / facts["versions"][FLOAT][what] for facts in sets.values()
    ]
    return float(sum(ratios) / len(ratios))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
