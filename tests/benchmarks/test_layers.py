"""The benchmarks measure what they say; how fast anything is, no test asks."""

import doctest
import importlib.metadata
import itertools
import json
import math
import time

import numpy as np
import pytest

from benchmarks import (
    drawing,
    layers,
    lowerings,
    machine,
    reference,
    report,
    roofline,
    summary,
    timing,
    workloads,
)
from benchmarks.__main__ import SUITES, main
from benchmarks.case import Case
from benchmarks.peers import PEERS, Peer, floor
from tests import oracle

NAMED = {
    "B8 L1024 C256->256 K31 S1 D1 M1 same",
    "B2 L2048 C1536->512 K4 S1 D1 M1 causal",
    "B8 L1024 C512->128 K5 S1 D1 M1 same",
    "B4 L835 C256->512 K51 S1 D1 M1 same",
    "B2 L2999 C512->128 K3 S1 D8 M1 same",
    "B128 L128 C64->64 K15 S1 D1 M1 same",
    "B64 L251 C32->32 K10 S1 D4 M1 same",
}


def workload(**sizes):
    """All sizes differ, so that a swapped axis cannot pass."""
    made = workloads.Workload("made-0", 2, 11, 5, 7, 3, 1, 1, 1, "same", 0, "here")
    return made._replace(**sizes)


# --- The table


def test_the_table_is_whole():
    table = workloads.load()
    by_name = {row.name: row for row in table}
    assert len(by_name) == len(table)
    for row in table:
        assert min(row.batch, row.length, row.channels, row.kernel_size, row.steps) > 0
        assert row.source
    assert all(by_name[name].filters for name in workloads.SELECTION)
    small = {str(by_name[name].within(workloads.ELEMENTS)) for name in workloads.SELECTION}
    assert small >= NAMED
    depthwise_alone = by_name["mamba1-0"]
    assert depthwise_alone.filters == 0
    assert "->" not in str(depthwise_alone)


def test_batches_are_cut():
    assert workload(batch=9).within(2 * 11 * 5).batch == 2
    assert workload(batch=9).within(1).batch == 1
    assert workload(batch=9).within(10**6).batch == 9
    assert workload(batch=9, cpu_batch=4).within(1).batch == 4


# --- Timing


def test_clocks_are_visited_in_turn_until_their_seconds_are_spent(monkeypatch):
    now, asked = itertools.count(), []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(now)))  # A visit takes 1.
    clocks = {name: lambda count, name=name: asked.append(name) or [1.0] * count for name in "AB"}
    samples = timing.interleaved(clocks, seconds=4.5)
    assert asked == list("AB") * 5
    assert samples == {"A": [1.0] * 5, "B": [1.0] * 5}


def test_a_slow_clock_sits_out_after_three_rounds():
    def slow(count):
        time.sleep(0.02)
        return [0.2] * count

    samples = timing.interleaved({"slow": slow, "quick": lambda count: [1e-3] * count}, 0.01)
    assert len(samples["slow"]) == 3
    assert len(samples["quick"]) > 3 * 50
    assert timing.medians(samples) == {"slow": 0.2, "quick": 1e-3}


def test_fastest():
    assert timing.fastest({"a": lambda: time.sleep(0.004), "b": lambda: None}, 0.001) == "b"


# --- Numbers


@pytest.mark.parametrize(
    "sizes",
    [
        {"padding": "causal", "dilation_rate": 2},
        {"padding": "valid", "depth_multiplier": 2},
        {"strides": 3, "kernel_size": 2, "depth_multiplier": 2},
    ],
)
def test_the_reference_is_the_oracle(sizes):
    w = workload(**sizes)
    x, k, p, bias, dy = Case(w).operands()
    settings = (w.strides, w.dilation_rate, w.padding)
    gradients = oracle.separable_vjp(x, k, p, dy, *settings)
    got = reference.layer(w, Case(w).operands())
    names = ("dx", "d_depthwise_kernel", "d_pointwise_kernel", "d_bias")
    np.testing.assert_allclose(got["y"], oracle.separable(x, k, p, bias, *settings), rtol=1e-9)
    for name, gradient in zip(names, gradients, strict=True):
        np.testing.assert_allclose(got[name], gradient, rtol=1e-9, atol=1e-12)


def test_layouts_are_undone_by_reading():
    w = workload(depth_multiplier=2)
    x, k, p, _, dy = Case(w).operands()
    other = Case(w, data="BCL", kernels="torch")
    shapes = [array.shape for array in other.operands()]
    assert shapes == [(2, 5, 11), (10, 1, 3), (7, 10, 1), (7,), (2, 7, 11)]
    xt, kt, pt, biast, dyt = other.operands()
    read = other.read([dyt, xt, kt, pt, biast])
    for name, array in zip(("y", "dx"), (dy, x), strict=True):
        np.testing.assert_array_equal(read[name], array)
    np.testing.assert_array_equal(read["d_depthwise_kernel"], k)
    np.testing.assert_array_equal(read["d_pointwise_kernel"], p)


class Fake:
    def __init__(self, numbers):
        self.numbers = lambda program: numbers


def test_a_peer_that_is_off_ends_the_run():
    w = workload()
    right = {name: array.astype(np.float32) for name, array in _reference(w).items()}
    matmuls = reference.floor(floor.operands(w))
    facts = {name: {"forward": {}} for name in ("ours", "floor", "torch_ncl")}
    layers.compare(w, {"ours": Fake(right), "floor": Fake(matmuls)}, facts)
    for name in right:
        wrong = right | {name: right[name] * np.float32(1.001)}
        with pytest.raises(SystemExit, match=f"^made-0: torch_ncl, forward: {name} is off by"):
            layers.compare(w, {"ours": Fake(right), "torch_ncl": Fake(wrong)}, facts)
    nan = right | {"dx": right["dx"] * np.nan}
    with pytest.raises(SystemExit, match="dx is off by nan"):
        layers.compare(w, {"ours": Fake(nan)}, facts)
    with pytest.raises(SystemExit, match=r"y has shape \(2, 7, 11\) instead of \(2, 11, 7\)"):
        layers.compare(w, {"ours": Fake(right | {"y": right["y"].swapaxes(1, 2)})}, facts)


def _reference(w):
    return reference.layer(w, Case(w).operands())


def test_a_lowering_that_is_off_ends_the_run():
    right = np.arange(1.0, 5.0)
    lowerings.compare("here", {"grouped_conv": right, "other": right * (1 + 1e-6)}, "float32")
    with pytest.raises(SystemExit, match=r"^here: other is off by 1\.0e-02"):
        lowerings.compare("here", {"grouped_conv": right, "other": right * 1.01}, "float32")


# --- Arithmetic


@pytest.mark.parametrize("module", [drawing, summary, timing])
def test_examples(module):
    assert doctest.testmod(module).attempted > 0
    assert doctest.testmod(module).failed == 0


def row(name="a", **milliseconds):
    facts = {
        peer: {
            "forward": {"milliseconds": value, "compile_seconds": 2.0 * value},
            "forward_backward": {"milliseconds": 3.0 * value, "compile_seconds": value},
        }
        for peer, value in milliseconds.items()
    }
    return {"workload": name, "peers": facts}


def test_the_summary():
    rows = [
        row("a", ours=2.0, flax_stock=16.0, tf_nn=4.0, torch_ncl=3.0, floor=1.0),
        row("b", ours=1.0, flax_stock=2.0, tf_nn=6.0, floor=2.0),
    ]
    forward = summary.summarize(rows)["forward"]
    assert forward == {
        "workloads": 2,
        "speed_up_over": {
            "flax_stock": 4.0,
            "tf_nn": pytest.approx(math.sqrt(12)),
            "torch_ncl": 1.5,
        },
        "speed_up_over_best_rival": 3.0,
        "least_over_best_rival": {"workload": "a", "speed_up": 1.5},
        "ours_over_floor": 1.0,
        "compile_over_flax_stock": 0.25,
    }
    alone = summary.summarize([row(ours=1.0)])["forward_backward"]
    assert alone["speed_up_over"] == {}
    assert alone["speed_up_over_best_rival"] is None


def test_a_peer_without_gradients_has_a_forward_pass_alone():
    measured = row(ours=1.0, onnxruntime=3.0, floor=1.0)
    del measured["peers"]["onnxruntime"]["forward_backward"]
    means = summary.summarize([measured])
    assert means["forward"]["speed_up_over"] == {"onnxruntime": 3.0}
    assert means["forward_backward"]["speed_up_over"] == {}
    (line,) = (line for line in report.tail(means).splitlines() if "onnxruntime" in line)
    assert line.split()[-2:] == ["3.00", "-"]
    bounds = {program: {"bound_ms": 0.5} for program in summary.PROGRAMS}
    text = report.row(measured | {"shape": "", "declined": {}, "roofline": bounds}, ["onnxruntime"])
    assert [line.split()[1] for line in text.splitlines()[1:]] == ["3.00", "-"]


def test_the_roofline():
    rates = {"copy_gigabytes_per_second": {"1": 40.0, "64": 10.0}, "matmul_gigaflops": 100.0}
    bound = roofline.bounds(workload(batch=3, depth_multiplier=2), rates)["forward"]
    assert bound["depthwise_flops"] == 2 * 3 * 11 * 10 * 3
    assert bound["pointwise_flops"] == 2 * 3 * 11 * 10 * 7
    assert bound["bytes"] == 4 * (3 * 11 * 5 + 3 * 10 + 10 * 7 + 7 + 3 * 11 * 7)
    assert bound["traffic_ms"] == pytest.approx(bound["bytes"] / 40e9 * 1e3)
    assert bound["arithmetic_ms"] == pytest.approx(2 * 3 * 11 * 10 * 10 / 100e9 * 1e3)
    assert bound["bound_ms"] == max(bound["traffic_ms"], bound["arithmetic_ms"])


# --- From end to end


def test_layers(tmp_path, capsys, monkeypatch):
    rates = {"copy_gigabytes_per_second": {"1": 40.0}, "matmul_gigaflops": 100.0}
    monkeypatch.setattr(roofline, "measure", lambda: rates)
    output = tmp_path / "new" / "layers.json"
    flags = "--filter tf_docs --peers flax_stock,floor --seconds 0.001 --output"
    main([*flags.split(), str(output)])
    record = json.loads(output.read_text())
    assert {"jax", "flax", "python"} <= set(record["versions"])
    assert record["processor"]
    assert record["cores"] >= 1
    assert record["complete"]
    (measured,) = record["rows"]
    assert measured["shape"] == "B1 L28 C28->3 K3 S1 D1 M1 valid"
    assert list(measured["peers"]) == ["ours", "flax_stock", "floor"]
    for facts in measured["peers"].values():
        for program in summary.PROGRAMS:
            low, high = facts[program]["quartiles"]
            assert 0 < low <= facts[program]["milliseconds"] <= high
            assert facts[program]["compile_seconds"] > 0
            assert facts[program]["memory_bytes"] > 4 * 28 * 3
            assert facts[program]["samples"] >= 3
    assert record["summary"]["forward"]["speed_up_over"].keys() == {"flax_stock"}
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "tf_docs-0: B1 L28 C28->3" in printed
    assert "times faster than flax_stock" in printed


def test_an_interrupted_run_keeps_its_rows(tmp_path, monkeypatch):
    def run(chosen, names, seconds, rates, environment):
        measured = row(ours=1.0, flax_stock=2.0)
        bounds = roofline.bounds(chosen[0], rates)
        yield {**measured, "shape": "made", "declined": {}, "roofline": bounds}
        raise KeyboardInterrupt

    rates = {"copy_gigabytes_per_second": {"1": 40.0}, "matmul_gigaflops": 100.0}
    monkeypatch.setattr(roofline, "measure", lambda: rates)
    monkeypatch.setattr(layers, "run", run)
    with pytest.raises(KeyboardInterrupt):
        layers.main(["--filter", "lite", "--peers", "ours", "--output", str(tmp_path / "a.json")])
    record = json.loads((tmp_path / "a.json").read_text())
    assert len(record["rows"]) == 1
    assert not record["complete"]


def test_lowerings(tmp_path, capsys):
    output = tmp_path / "lowerings.json"
    main(["lowerings", "--filter", "tf_docs", "--seconds", "0.001", "--output", str(output)])
    rows = json.loads(output.read_text())["rows"]
    assert [row["contraction"] for row in rows] == ["output", "input_gradient", "kernel_gradient"]
    for measured in rows:
        times = measured["milliseconds"]
        assert {"grouped_conv", "shifted_sum"} <= set(times)
        assert measured["selected_over_best"] == times[measured["selected"]] / min(times.values())


@pytest.mark.parametrize("allowed", [0.5, 1e9])
def test_lowerings_check(tmp_path, capsys, monkeypatch, allowed):
    monkeypatch.setattr(lowerings, "ALLOWED", allowed)
    flags = f"lowerings --check --filter tf_docs --seconds 0.001 --output {tmp_path / 'a.json'}"
    if allowed > 1:
        main(flags.split())
        assert "times the best" not in capsys.readouterr().out
    else:
        with pytest.raises(SystemExit, match=r"^1$"):
            main(flags.split())
        assert "selected, but over 0.5 times the best:" in capsys.readouterr().out


def test_a_lowering_may_decline(capsys, monkeypatch):
    def program_of(workload, contraction, lowering, dtype):
        if lowering != "grouped_conv":
            raise NotImplementedError("not here")
        return lambda: np.ones(1)

    monkeypatch.setattr(lowerings, "program_of", program_of)
    assert list(lowerings.programs_of(workload(), "output", "float32")) == ["grouped_conv"]
    assert "made-0: shifted_sum declines the output: not here" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="is selected for the output it declines"):
        lowerings.measure(workload(), "output", "float32", 0.001)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--filter nothing_is_called_so", "--filter: no workload's name contains"),
        ("--filter hyena", "finds only layers without a pointwise stage"),
        ("--peers ours,nobody", "--peers: must be of ours, flax_stock"),
        ("--seconds 0", "--seconds: must be positive, got 0.0"),
        ("--output /dev/null/here", "--output: "),
        ("--output .", "--output: must be a file, got the folder ."),
        ("step --output .", "--output: must be a file, got the folder ."),
        ("lengths --output .", "--output: must be a file, got the folder ."),
        ("lowerings --output .", "--output: must be a file, got the folder ."),
        ("networks --output .", "--output: must be a file, got the folder ."),
        ("device --output .", "--output: must be a file, got the folder ."),
        ("layers nonsense", "unrecognized arguments: nonsense"),
    ],
)
def test_bad_flags_are_one_line(flags, message, capsys, tmp_path):
    if "--output" not in flags:
        flags += f" --output {tmp_path / 'a.json'}"
    with pytest.raises(SystemExit, match=r"^2$"):
        main(flags.split())
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("word", "hint"), [("lenghts", "did you mean lengths? "), ("nonsense", ""), ("", "")]
)
def test_an_unknown_program_is_answered_with_those_there_are(word, hint, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main([word, "--seconds", "1"])
    words = f"no program is called {word!r}; {hint}there are: {', '.join(SUITES)}"
    assert capsys.readouterr().err == f"python -m benchmarks: {words}\n"


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_the_help_lists_every_program(flag, capsys):
    main([flag])
    lines = capsys.readouterr().out.splitlines()
    for name, text in SUITES.items():
        assert f"  {name:<13}{text}" in lines
    assert "python -m benchmarks PROGRAM --help" in lines[-1]


@pytest.mark.parametrize("name", SUITES)
def test_every_program_has_help(name, capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main([name, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: python -m benchmarks {name} ")


def test_flags_without_a_program_go_to_layers(monkeypatch):
    given = []
    monkeypatch.setattr(layers, "main", given.append)
    for argv in ([], ["--filter", "tf_docs"], ["layers", "--filter", "tf_docs"]):
        main(argv)
    assert given == [[], ["--filter", "tf_docs"], ["--filter", "tf_docs"]]


def test_absent_packages_are_named(monkeypatch):
    monkeypatch.setitem(PEERS, "tf_nn", PEERS["tf_nn"]._replace(packages=("no-such-package",)))
    names, absent = machine.present({name: PEERS[name] for name in ("ours", "tf_nn")})
    assert names == ["ours"]
    assert absent == {"tf_nn": "no-such-package is not installed"}


def test_a_package_is_found_under_the_name_of_its_build_for_cpus(monkeypatch):
    there = {"tensorflow-cpu": "2.21.0", "keras": "3.15.1"}

    def version(name):
        if name not in there:
            raise importlib.metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    peers = {"keras_tf": Peer("", ("keras", "tensorflow")), "torch": Peer("", ("torch",))}
    assert machine.present(peers) == (["keras_tf"], {"torch": "torch is not installed"})
    assert machine.facts("tensorflow")["versions"]["tensorflow"] == "2.21.0"
