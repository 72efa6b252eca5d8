"""The layer in int8: the draw, the judging, the tables; how fast anything is, no test asks."""

import contextlib
import doctest
import json

import numpy as np
import pytest

from benchmarks import machine
from benchmarks.__main__ import main
from benchmarks.case import Case
from benchmarks.integers import measuring, picture, problem, report, suite
from benchmarks.integers.contenders import PEERS, RIVALS
from benchmarks.lasting import Failed
from benchmarks.worker import Declined
from benchmarks.workloads import Workload
from tests.pictures import apart, check, drawn, points
from tests.quantized import oracle

__all__ = ["drawn"]

SMALL = Workload("small-0", 2, 13, 5, 7, 3, 1, 1, 1, "same", 0, "here")
OTHERS = {
    "strided": SMALL._replace(strides=2, kernel_size=4),
    "causal, dilated": SMALL._replace(padding="causal", dilation_rate=2),
    "valid, multiplied": SMALL._replace(padding="valid", depth_multiplier=2),
}


# --- The draw


@pytest.mark.parametrize("name", OTHERS)
def test_integers_stand_for_the_numbers_of_the_other_benchmarks(name):
    made, expected = problem.draw(OTHERS[name])
    for real, wanted, scale in zip(
        made.real(),
        Case(made.workload).operands(),
        (made.x_steps.scale, made.kernel_scale, made.weights_scale, made.bias_scale),
        strict=False,
    ):
        assert (np.abs(real - wanted) <= 0.501 * scale).all()
    for integers, steps in ((made.x, made.x_steps), (made.kernel, None), (made.weights, None)):
        assert integers.dtype == np.int8
        if steps is None:
            assert np.abs(integers.astype(int)).max() == 127
        else:
            assert np.ptp(integers.astype(int)) >= 254
            assert -128 <= steps.zero_point <= 127
    whole = np.rint(expected.steps) + made.y_steps.zero_point
    assert whole.min() <= -125
    assert whole.max() >= 124
    assert np.abs(expected.steps - expected.real / made.y_steps.scale).max() < 4


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_expected_is_what_the_operation_is(name):
    made, expected = problem.draw(OTHERS[name])
    w, zero = made.workload, made.y_steps.zero_point
    y = oracle.separable(
        made.x,
        made.kernel,
        made.weights,
        made.bias,
        w.pads[0],
        w.steps,
        strides=w.strides,
        dilation=w.dilation_rate,
        activation=None,
        x_scale=made.x_steps.scale,
        x_zero=made.x_steps.zero_point,
        k_scale=made.kernel_scale,
        h_scale=made.h_steps.scale,
        h_zero=made.h_steps.zero_point,
        w_scale=made.weights_scale,
        y_scale=made.y_steps.scale,
        y_zero=zero,
    )
    numbers = {"steps": y.astype(np.int32) - zero}
    assert measuring.judged(made, "integers", numbers, expected)["off_steps"] < 0.51


# --- Judging


class Fake:
    """In place of a process: it answers with given numbers."""

    def __init__(self, programs, seconds=1e-3, fails=None):
        self.programs, self.seconds, self.fails, self.asked = programs, seconds, fails, []

    def attempt(self, ask):
        return ask(self)

    def load(self, task, made):
        if isinstance(self.programs, Exception):
            raise self.programs
        return {program: {"way": "made"} for program in self.programs}

    def numbers(self, program):
        return self.programs[program]

    def times(self, program, count=1):
        self.asked.append(program)
        if self.fails:
            raise self.fails
        return [self.seconds] * count

    def drop(self):
        pass


def right():
    _, expected = problem.draw(SMALL)
    return {
        "integers": {"steps": np.rint(expected.steps)},
        "integers_to_real": {"steps": expected.steps},
        "float32": {"real": expected.real.astype(np.float32)},
    }


def failure(reason):
    error = Failed.__new__(Failed)
    Exception.__init__(error, reason)
    error.facts, error.lost = {"failed": reason, "details": ""}, True
    return error


def test_what_is_wrong_declines_or_fails_is_said_and_not_timed():
    shifted = {"integers": {"steps": right()["integers"]["steps"] + 2}}
    asked = {
        "ours": Fake(right(), seconds=1e-3),
        "onnxruntime": Fake(shifted),
        "openvino": Fake({"integers": right()["integers"]}, fails=failure("it broke")),
        "litert": Fake(Declined("not this one")),
    }
    row = measuring.measure(SMALL, asked, 1e-3)
    facts = row["contenders"]
    assert facts["onnxruntime"]["integers"]["wrong"].startswith("off_steps is 2.")
    assert asked["onnxruntime"].asked == []
    assert facts["openvino"]["failed"] == "it broke"
    assert facts["litert"] == {"declined": "not this one"}
    assert facts["ours"]["integers"]["off_steps"] <= 0.5
    assert facts["ours"]["integers_to_real"]["off_steps"] == 0
    assert facts["ours"]["float32"]["milliseconds"] == 1.0
    assert report.gain(row) == 1.0
    assert report.best(row) is None
    told = report.times(row)
    assert "onnxruntime, integers, wrong: off_steps is 2." in told
    assert "openvino failed: it broke" in told
    assert "litert declined: not this one" in told
    assert report.mistaken([row]) == []
    json.dumps(row)


@pytest.mark.parametrize(
    ("program", "spoil"),
    [
        ("integers", lambda a: a["steps"] - 3),
        ("integers_to_real", lambda a: a["steps"] * np.nan),
        ("float32", lambda a: a["real"] * 1.001),
        ("float32", lambda a: a["real"][:1]),
    ],
)
def test_our_own_mistakes_are_told(program, spoil):
    numbers = right()
    (name,) = numbers[program]
    numbers[program] = {name: spoil(numbers[program])}
    row = measuring.measure(SMALL, {"ours": Fake(numbers)}, 1e-3)
    (line,) = report.mistaken([row])
    assert line.startswith(f"small-0:  ours, {program}, wrong: ")


# --- Tables


def row(name, ours, float32, theirs=(), wide=False):
    facts = {
        "ours": {
            "integers": {"milliseconds": ours, "off_steps": 0.5, "weights_bytes": 10},
            "integers_to_real": {"milliseconds": ours, "weights_bytes": 10},
            "float32": {"milliseconds": float32, "weights_bytes": 30},
        }
    }
    for peer, time in zip(RIVALS, theirs, strict=False):
        facts[peer] = {"integers": {"milliseconds": time, "off_steps": 0.75}}
    sizes = {"channels": 256, "filters": 512} if wide else {"channels": 5, "filters": 7}
    return {"workload": name, "shape": str(SMALL), **sizes, "contenders": facts}


def test_gains_and_leads():
    rows = [row("a", 1.0, 1.6, (3.0, 2.0)), row("b", 2.0, 1.8), row("c", 1.0, 1.9, (8.0,), True)]
    assert [each["workload"] for each in report.least_first(rows)] == ["b", "a", "c"]
    summary = report.summarize(rows, has_vnni=True)
    assert json.loads(json.dumps(summary)) == summary
    assert summary["least_gain"] == {"workload": "b", "ratio": 0.9}
    assert summary["gain"] == pytest.approx((1.6 * 0.9 * 1.9) ** (1 / 3))
    assert summary["short"] == ["b", "c"]
    assert report.summarize(rows, has_vnni=False)["short"] == ["b"]
    assert summary["slower_than_float32"] == ["b"]
    assert summary["lead"] == pytest.approx(4.0)
    assert summary["lead_over"] == {RIVALS[0]: pytest.approx(24**0.5), RIVALS[1]: 2.0}
    assert summary["weights"] == pytest.approx(3.0)
    assert summary["off_steps"] == {"ours": 0.5, RIVALS[0]: 0.75, RIVALS[1]: 0.75, RIVALS[2]: None}
    lines = report.table(rows).splitlines()
    assert [line.split()[5] for line in lines[2:]] == ["0.9", "1.6", "1.9"]
    tail = report.tail(summary)
    assert "gain less than wanted: b, c" in tail
    assert "(least 2.00 at a)" in tail


def test_examples():
    assert doctest.testmod(report).attempted > 0
    assert doctest.testmod(report).failed == 0


def test_the_picture(drawn, tmp_path):
    rows = [row(f"made-{n}", 1.0, 0.9 + n / 4, (1.5 + n, 2.0 + n, 4.0)) for n in range(20)]
    record = {**machine.facts("numpy"), "memory": "kept", "rows": rows}
    picture.draw(record, tmp_path / "never.png")
    ((figure, texts),) = drawn
    check(figure, texts)
    assert [len(points(axes)) for axes in figure.axes] == [2 * len(rows), 3 * len(rows)]
    assert min(apart(points(axes)) for axes in figure.axes) > 5


# --- From end to end


def test_integers(tmp_path, monkeypatch, capsys):
    """Every peer that is installed has the numbers, in all kinds of layers."""
    monkeypatch.setattr(suite, "layers", lambda *_: [SMALL, *OTHERS.values()])
    output = tmp_path / "integers.json"
    main(f"integers --seconds 0.001 --patience 300 --output {output}".split())
    record = json.loads(output.read_text())
    assert record["complete"]
    present, absent = machine.present(PEERS)
    assert record["absent"] == absent
    for measured in record["rows"]:
        facts = measured["contenders"]
        assert list(facts) == present
        assert facts["ours"].keys() == {"integers", "integers_to_real", "float32"}
        for name, programs in facts.items():
            for its in programs.values():
                assert its["milliseconds"] > 0, name
                assert "wrong" not in its
            assert programs["integers"]["off_steps"] < 1
        ours = facts["ours"]
        assert ours["integers"]["weights_bytes"] < ours["float32"]["weights_bytes"]
        if "openvino" in facts:
            executed = facts["openvino"]["integers"]["executed"]
            assert len([each for each in executed if each.startswith("Convolution ")]) == 2
            assert "Convolution f32" not in executed
        if "litert" in facts:
            assert facts["litert"]["integers"]["executed"] == ["XNNPACK"]
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "layers, geometric means" in capsys.readouterr().out
    if absent:
        pytest.skip(f"{absent}: these comparisons did NOT run")


@pytest.mark.parametrize("planted", ["wrong", "slow"])
def test_a_run_fails_for_our_mistakes_and_with_check_where_little_is_gained(
    tmp_path, monkeypatch, planted
):
    made = row("small-0", 1.0, 1.2)
    if planted == "wrong":
        made["contenders"]["ours"]["integers"] = {"wrong": "off_steps is 3"}
    monkeypatch.setattr(measuring, "measure", lambda *_: made)
    monkeypatch.setattr(suite.measuring, "start", lambda *_: contextlib.nullcontext())
    argv = ["--filter", "lite-1", "--drawn", "0", "--output", str(tmp_path / "a.json")]
    if planted == "wrong":
        with pytest.raises(SystemExit, match="our own layer is wrong"):
            suite.main(argv)
    else:
        suite.main(argv)
        with pytest.raises(SystemExit, match="gain less than wanted: small-0"):
            suite.main([*argv, "--check"])
    assert json.loads((tmp_path / "a.json").read_text())["complete"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--drawn -1", "--drawn: must not be negative, got -1"),
        ("--patience 0", "--patience: must be positive, got 0"),
        ("--filter nobody", "--filter: no workload's name contains 'nobody'"),
        ("--filter hyena --drawn 0", "finds only layers without a pointwise stage"),
        ("--peers nobody", "--peers: must be of ours"),
        ("--output .", "--output: must be a file"),
    ],
)
def test_bad_flags_are_one_line(argv, message, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        suite.main(argv.split())
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_layers_are_those_of_the_benchmark_and_some_that_are_drawn():
    names = [layer.name for layer in suite.parse([]).layers]
    assert len(names) == 20
    assert {"lite-0", "quartznet_c2-0"} < set(names)
    assert len(suite.parse(["--drawn", "0"]).layers) == 14
