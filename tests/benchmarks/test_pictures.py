"""The pictures of measurements show everything that is in the JSON beside them, and readably."""

import json
import pathlib

import pytest

from benchmarks import drawing, picture, summary
from benchmarks.aot import picture as aot_picture
from benchmarks.aot import report as aot_report
from benchmarks.device import picture as device_picture
from benchmarks.networks import measure
from benchmarks.networks import picture as networks_picture
from tests.pictures import apart, check, drawn, points

__all__ = ["drawn"]

HERE = pathlib.Path("benchmarks")


def load(name):
    return json.loads((HERE / name).read_text())


def test_layers(drawn):
    record = load("layers_cpu.json")
    picture.draw(record, HERE / "never.png")
    ((figure, texts),) = drawn
    check(figure, texts)
    for axes in figure.axes:
        assert len(points(axes)) == 2 * len(record["rows"])
        assert apart(points(axes)) > 8


@pytest.mark.parametrize("target", ["v6e", "h100", "v4"])
def test_compiled(target, drawn):
    """In v6e two programs of a layer are missing; h100 has two dtypes, v4 one program.

    A layer of which stock was compiled in no program (v4's shape_m) is not in the picture.
    """
    record = load(f"compiled/{target}.json")
    aot_picture.draw(record, HERE / "never.png")
    ((figure, texts),) = drawn
    check(figure, texts)
    programs = list(dict.fromkeys(row["program"] for row in record["rows"]))
    rooflines, ratios = figure.axes[: len(programs)], figure.axes[len(programs) :]
    for program, roofline, panel in zip(programs, rooflines, ratios, strict=True):
        rows = [
            row
            for row in record["rows"]
            if (row["program"], row["dtype"]) == (program, "bfloat16")
            and aot_report.ratio(row, "bytes")
        ]
        fused = sum("bytes" in row["candidates"].get("mosaic", {}) for row in rows)
        fused += sum("bytes" in row["candidates"].get("triton", {}) for row in rows)
        assert fused > 0
        assert len(points(roofline)) == 2 * len(rows)
        assert len(points(panel)) == 2 * len(rows) + fused
        assert apart(points(panel)) > 8
        compared = {row["workload"] for row in record["rows"] if aot_report.ratio(row, "bytes")}
        missing = len(compared) - len(rows)
        notes = [text.get_text() for text in panel.texts]
        assert notes.count("not compiled") == missing


def test_networks(drawn):
    record = load("networks_cpu.json")
    titles = {name: version.title for name, version in measure.VERSIONS.items()}
    networks_picture.draw(record, titles, HERE / "never.png")
    ((figure, texts),) = drawn
    check(figure, texts)


def timed(milliseconds, launch=0.0):
    return {"milliseconds": milliseconds, "launch_milliseconds": launch}


def test_device(drawn):
    """Ratios that are equal, far apart and the host's; and all that can be broken."""
    kinds = {
        "a-0": {"selected": timed(1), "stock": timed(1), "torch_nlc": timed(1)},
        "b-0": {"selected": timed(1, 0.9), "stock": timed(90), "torch_ncl": timed(0.2)},
        "c-0": {"selected": timed(1), "stock": {"failed": "no"}, "torch_ncl": timed(2)},
        "d-0": {name: {"failed": "it died"} for name in ("selected", "grouped_conv", "triton")},
    }
    rows = [
        {"workload": name, "shape": "B16 L2048 C1536->1536 K4 S1 D1 M2 causal", **panel}
        | {"candidates": facts}
        for name, facts in kinds.items()
        for panel in (
            {"dtype": dtype, "program": program}
            for dtype in ("bfloat16", "float32")
            for program in summary.PROGRAMS
        )
    ]
    made = {"rows": rows, "device": "made", "versions": {"jax": "0"}, "date": "2000-01-01"}
    device_picture.draw(made, HERE / "never.png")
    ((figure, texts),) = drawn
    check(figure, texts)
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert len(points(axes)) == 5
        assert apart(points(axes)) > 8


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.9, 120, [1, 3, 10, 30, 100]),
        (0.02, 300, [0.1, 1, 10, 100]),
        (0.5, 1.6, [0.5, 0.7, 1, 1.5]),
        (0.85, 1.2, [0.9, 1, 1.2]),
    ],
)
def test_ticks_are_as_many_as_have_room(low, high, ticks):
    axes = picture.Figure(figsize=(3, 2)).subplots()
    axes.set_xscale("log")
    drawing.round_numbers(axes.xaxis, "x")
    axes.set_xlim(low, high)
    assert axes.get_xticks() == pytest.approx(ticks)
    assert axes.xaxis.get_major_formatter().format_ticks(ticks)[0] == f"{ticks[0]:g}x"
