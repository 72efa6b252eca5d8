"""Layers drawn at random: the draw, the judging, the tables; how fast anything is, no test asks."""

import contextlib
import doctest
import json

import numpy as np
import pytest

from benchmarks import flags, machine, reference, roofline
from benchmarks.__main__ import main
from benchmarks.case import Case
from benchmarks.peers import PEERS
from benchmarks.summary import PROGRAMS
from benchmarks.sweep import contenders, generator, measuring, picture, report, suite
from benchmarks.sweep.contenders import Contender, Name
from benchmarks.worker import Declined
from benchmarks.workloads import Workload
from tests.pictures import apart, check, drawn, points

__all__ = ["drawn"]

SMALL = Workload("last-0", 2, 11, 5, 7, 3, 1, 1, 1, "same", 0, "here")


# --- The draw


@pytest.mark.parametrize("seed", range(12))
def test_every_seed_covers_every_kind_within_bounds(seed):
    layers = generator.draw(seed, 28)
    assert layers == generator.draw(seed, 28)
    assert layers != generator.draw(seed + 1, 28)
    kinds = [generator.kind_of(layer) for layer in layers]
    assert {kinds.count(kind) for kind in generator.KINDS} == {2, 3}
    assert len({layer.name for layer in layers}) == 28
    for layer, name in zip(layers, kinds, strict=True):
        kind = generator.KINDS[name]
        for size in ("length", "channels", "kernel_size", "dilation_rate", "depth_multiplier"):
            low, high, _ = getattr(kind, size)
            assert low <= getattr(layer, size) <= high
        assert 1 <= layer.batch <= kind.batch.high
        assert layer.padding in kind.paddings
        assert layer.steps >= 1
        assert layer.strides == 1 or layer.dilation_rate == 1
        assert generator.multiply_adds(layer) <= generator.MULTIPLY_ADDS
        assert generator.largest(layer) <= generator.ELEMENTS


def test_the_draw_is_the_same_everywhere():
    assert [str(layer) for layer in generator.draw(7, 2)] == [
        "B1 L4382 C352->224 K7 S1 D1 M1 same",
        "B15 L95 C92->24 K6 S1 D1 M3 valid",
    ]


def test_many_seeds_reach_the_ends_of_what_is_asked():
    drawn = [layer for seed in range(40) for layer in generator.draw(seed, 28)]
    assert {layer.padding for layer in drawn} == {"same", "valid", "causal"}
    assert {layer.strides for layer in drawn} == {1, 2, 3}
    assert {layer.dilation_rate for layer in drawn} == set(range(1, 9))
    assert {layer.depth_multiplier for layer in drawn} == {1, 2, 3, 4}
    assert any(layer.kernel_size > layer.length for layer in drawn)
    assert max(generator.largest(layer) for layer in drawn) > 0.5 * generator.ELEMENTS
    few_rows = [layer for layer in drawn if generator.kind_of(layer) == "few_rows"]
    assert {layer.batch * layer.steps for layer in few_rows} == {128}


def test_sizes_are_counted():
    layer = SMALL._replace(depth_multiplier=2)
    assert generator.multiply_adds(layer) == 2 * 11 * 10 * 3 + 2 * 11 * 10 * 7
    assert generator.largest(layer) == 2 * 11 * 10


@pytest.mark.parametrize("module", [generator])
def test_examples(module):
    assert doctest.testmod(module).attempted > 0
    assert doctest.testmod(module).failed == 0


# --- Judging


class Fake:
    """A contender that returns given numbers, and takes given seconds."""

    def __init__(self, peer, programs, dtype="float32", seconds=1e-3, fails=None):
        self.name, self.programs = Name(peer, dtype), programs
        self.seconds, self.fails, self.asked = seconds, fails, []

    def build(self, workload):
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

    def page_faults(self, program):
        return 5

    def drop(self):
        pass


def right(dtype="float32"):
    numbers = {k: v.astype(np.float32) for k, v in measuring.layer(SMALL, dtype).items()}
    return {"forward": {"y": numbers["y"]}, "forward_backward": numbers}


def failure(reason):
    error = measuring.Failed.__new__(measuring.Failed)
    Exception.__init__(error, reason)
    error.facts, error.lost = {"failed": reason, "details": ""}, True
    return error


def test_what_is_wrong_declines_or_fails_is_said_and_not_timed():
    wrong = right()
    wrong["forward_backward"] = wrong["forward_backward"] | {
        "dx": wrong["forward_backward"]["dx"] * np.float32(1.001)
    }
    asked = [
        Fake("ours", right(), seconds=1e-3),
        Fake("torch_ncl", wrong, seconds=2e-3),
        Fake("torch_nlc", right(), fails=failure("it broke")),
        Fake("tf_nn", Declined("not this one")),
        Fake("onnxruntime", {"forward": right()["forward"]}, seconds=5e-3),
    ]
    row = measuring.measure(SMALL, asked, 1e-3)
    facts = row["contenders"]
    assert facts["torch_ncl"]["forward_backward"]["wrong"][0].startswith("dx is off by")
    assert asked[1].asked == ["forward"] * len(asked[1].asked)
    assert facts["torch_nlc"]["failed"] == "it broke"
    assert facts["tf_nn"] == {"declined": "not this one"}
    assert facts["onnxruntime"].keys() == {"forward"}
    assert facts["ours"]["forward"]["page_faults"] == 5
    assert facts["ours"]["forward"]["milliseconds"] == 1.0
    assert report.lead(row, "float32", "forward") == 2.0
    assert report.lead(row, "float32", "forward_backward") is None
    told = "\n".join(report.oddities(row))
    assert "torch_ncl, forward_backward, wrong: dx is off by" in told
    assert "torch_nlc failed: it broke" in told
    assert "tf_nn declined: not this one" in told
    assert report.mistaken([row]) == []


def test_our_own_mistakes_are_told():
    nan = {"forward": {"y": right()["forward"]["y"] * np.nan}}
    row = measuring.measure(SMALL, [Fake("ours", nan)], 1e-3)
    (line,) = report.mistaken([row])
    assert line.startswith("last-0:  ours, forward, wrong: y is off by nan")


def test_bfloat16_is_judged_by_what_it_can_be():
    exact = right("bfloat16")
    rough = {"forward": {"y": exact["forward"]["y"] * np.float32(1 + 2**-8)}}
    off = {"forward": {"y": exact["forward"]["y"] * np.float32(1 + 2**-5)}}
    sums = exact["forward_backward"]
    lost = {"forward_backward": sums | {"d_bias": sums["d_bias"] * np.float32(1.1)}}
    judged = {
        name: measuring.prepared(SMALL, "bfloat16", {name: Fake(peer, numbers, "bfloat16")})[name]
        for name, peer, numbers in (
            ("rough", "ours", rough),
            ("off", "ours", off),
            ("our sum", "ours", lost),
            ("their sum", "torch_nlc", lost),
        )
    }
    assert judged["rough"]["forward"].keys() == {"way"}
    assert judged["off"]["forward"].keys() == {"way", "wrong"}
    assert judged["our sum"]["forward_backward"].keys() == {"way", "wrong"}
    assert judged["their sum"]["forward_backward"].keys() == {"way", "imprecise"}


def test_a_process_that_was_lost_twice_is_not_asked_again(monkeypatch):
    monkeypatch.setitem(PEERS, "ours", PEERS["ours"])
    with Contender(Name("ours", "float32"), {}, 60) as contender:
        for _ in range(2):
            with pytest.raises(measuring.Failed, match="died with status -6"):
                contender._attempt(lambda worker: worker.load("os:abort"))
        with pytest.raises(Declined, match="lost 2 times"):
            contender.build(SMALL)


# --- Tables


def row(name, ours, torch, narrow=None, theirs=None):
    both = {
        "ours": ours,
        "torch_ncl": torch,
        "floor": 1.0,
        "ours_bfloat16": narrow,
        "torch_nlc_bfloat16": theirs,
    }
    facts = {
        peer: {
            program: {"milliseconds": np.float64(time), "page_faults": 7} for program in PROGRAMS
        }
        for peer, time in both.items()
        if time
    }
    bounds = {program: {"bound_ms": 0.5} for program in PROGRAMS}
    its = {"workload": name, "kind": "last", "shape": str(SMALL), "contenders": facts}
    return {**its, "bounds": bounds}


def test_the_worst_is_first():
    rows = [row("a", 1.0, 4.0), row("b", 2.0, 1.9), row("c", 1.0, 2.0, 1.0, 0.5)]
    assert [each["workload"] for each in report.worst_first(rows)] == ["c", "b", "a"]
    summary = report.summarize(rows)
    assert json.loads(json.dumps(summary)) == summary
    forward = summary["float32 forward"]
    assert (forward["ahead"], forward["level"], forward["behind"]) == (2, 0, 1)
    assert forward["least_lead"] == {"workload": "b", "lead": 0.95}
    assert forward["lead"] == pytest.approx((4 * 0.95 * 2) ** (1 / 3))
    assert forward["possible_lead"] == pytest.approx((8 * 3.8 * 4) ** (1 / 3))
    assert forward["lead_over"].keys() == {"torch_ncl"}
    assert summary["bfloat16 forward"]["behind"] == 1
    assert summary["bfloat16 forward"]["over_float32"] == 1.0
    lines = report.table(rows, "forward").splitlines()
    assert [line.split()[5] for line in lines[2:]] == ["2", "0.95", "4"]
    assert [line.split()[6] for line in lines[2:]] == ["4", "3.8", "8"]
    assert "behind 1; least 0.95 at b" in report.tail(summary)


def test_nearly_as_fast_is_level():
    summary = report.summarize([row("a", 1.0, 0.98), row("b", 0.98, 1.0)])
    forward = summary["float32 forward"]
    assert (forward["ahead"], forward["level"], forward["behind"]) == (0, 2, 0)
    assert "bfloat16 forward" not in summary


def test_the_picture(drawn, tmp_path):
    rows = [row(f"first-{n}", 1.0, 0.9 + n, 0.5, 1.0 + n) for n in range(28)]
    record = {**machine.facts("numpy"), "seed": 3, "memory": "kept", "rows": rows}
    picture.draw(record, tmp_path / "never.png")
    ((figure, texts),) = drawn
    check(figure, texts)
    for axes in figure.axes:
        assert len(points(axes)) == 2 * len(rows)
        assert apart(points(axes)) > 8


# --- From end to end


@pytest.fixture
def quick(monkeypatch):
    rates = {"copy_gigabytes_per_second": {"1": 40.0}, "matmul_gigaflops": 100.0}
    monkeypatch.setattr(roofline, "measure", lambda: rates)
    monkeypatch.setattr(generator, "draw", lambda seed, count: [SMALL, SMALL][:count])


def test_sweep(tmp_path, capsys, quick):
    output = tmp_path / "sweep.json"
    main(
        "sweep --seed 5 --layers 1 --peers floor,onnxruntime --seconds 0.001 "
        f"--output {output}".split()
    )
    record = json.loads(output.read_text())
    assert record["complete"]
    assert (record["seed"], record["memory"], len(record["rows"])) == (5, "kept", 1)
    assert {"python", "jax"} <= set(record["versions"])
    for measured in record["rows"]:
        facts = measured["contenders"]
        assert {"ours", "floor", "ours_bfloat16"} <= set(facts)
        for name, programs in facts.items():
            wanted = {"forward"} if name == "onnxruntime" else {"forward", "forward_backward"}
            assert programs.keys() == wanted
            for its in programs.values():
                assert its["milliseconds"] > 0
                assert its["page_faults"] >= 0
                assert "wrong" not in its
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "float32 forward_backward: 1 layers" in printed


def test_openvino_is_right():
    pytest.importorskip("openvino")
    from benchmarks.peers import openvino

    for sizes in ({"strides": 2, "padding": "causal"}, {"depth_multiplier": 2}):
        workload = SMALL._replace(**sizes)
        program = openvino.build(workload)["forward"]
        expected = reference.layer(workload, Case(workload).operands())
        for _ in range(2):
            assert not reference.mistakes(workload, program.read(program.run()), expected)


@pytest.mark.parametrize("planted", ["ours", "torch_ncl"])
def test_a_run_fails_for_our_mistakes_and_with_check_where_we_are_behind(
    tmp_path, monkeypatch, quick, planted
):
    made = row("last-0", 2.0, 1.0)
    if planted == "ours":
        made["contenders"]["ours"]["forward"] = {"wrong": ["y is off by 1"]}
    monkeypatch.setattr(measuring, "measure", lambda *_: made)
    monkeypatch.setattr(suite, "Contender", lambda name, *_: contextlib.nullcontext())
    argv = ["--layers", "1", "--output", str(tmp_path / "a.json")]
    if planted == "ours":
        with pytest.raises(SystemExit, match="our own layer is wrong"):
            suite.main(argv)
    else:
        suite.main(argv)
        with pytest.raises(SystemExit, match="behind the best of the others: float32 forward"):
            suite.main([*argv, "--check"])
    assert json.loads((tmp_path / "a.json").read_text())["complete"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--layers 0", "--layers: must be positive, got 0"),
        ("--kinds firsts", "--kinds: must be of first, first_wide"),
        ("--peers nobody", "--peers: must be of ours"),
        ("--dtypes float16", "--dtypes: must be of float32, bfloat16, got float16"),
        ("--memory lost", "invalid choice: 'lost'"),
        ("--output .", "--output: must be a file"),
    ],
)
def test_bad_flags_are_one_line(argv, message, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        suite.main(argv.split())
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_names_and_rivals():
    names = contenders.names(["ours", "tf_nn", "torch_ncl", "floor"], ["float32", "bfloat16"])
    assert [str(name) for name in names] == [
        "ours",
        "tf_nn",
        "torch_ncl",
        "floor",
        "ours_bfloat16",
        "torch_ncl_bfloat16",
    ]
    assert "onnxruntime" in contenders.rivals("float32")
    assert flags.memory_environment(suite.parse(["--memory", "fresh"])) == {
        "BENCHMARKS_MEMORY": "fresh"
    }
