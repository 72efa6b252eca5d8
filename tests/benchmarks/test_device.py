"""The suite for accelerators, tried on the CPU: what it records, reports, refuses and keeps."""

import doctest
import itertools
import json

import numpy as np
import pytest

from benchmarks import machine, workloads
from benchmarks.__main__ import main
from benchmarks.device import ceilings, frameworks, measuring, report, sampling, suite
from benchmarks.lasting import Lasting
from benchmarks.peers import PEERS
from benchmarks.worker import Declined

RATES = {"copy_gigabytes_per_second": 100.0, "matmul_teraflops": 2.0}


def workload(**sizes):
    """All sizes differ, so that a swapped axis cannot pass."""
    made = workloads.Workload("made-0", 6, 11, 5, 7, 3, 1, 1, 1, "same", 0, "here")
    return made._replace(**sizes)


def right(w, dtype="float32"):
    """Return what a right program is read as."""
    expected = sampling.expected(w, dtype)
    return {name: np.stack([array, array]) for name, array in expected.items()}


@pytest.mark.parametrize(("dtype", "itemsize"), [("bfloat16", 2), ("float32", 4)])
def test_rates_follow_from_known_times(dtype, itemsize):
    w = workload(depth_multiplier=2)
    elements = 6 * 11 * 5 + 3 * 10 + 10 * 7 + 7 + 6 * 11 * 7  # x, both kernels, bias, y
    flops = 2 * 6 * 11 * 10 * (3 + 7)
    forward = ceilings.achieved(w, dtype, "forward", 1e-3, RATES)
    assert forward["gigabytes_per_second"] == pytest.approx(itemsize * elements * 1e-3)
    assert forward["teraflops"] == pytest.approx(flops * 1e-6)
    assert forward["of_copy"] == pytest.approx(itemsize * elements * 1e-5)
    assert forward["of_matmul"] == pytest.approx(flops * 0.5e-6)
    both = ceilings.achieved(w, dtype, "forward_backward", 2e-3, RATES)
    assert both["gigabytes_per_second"] == pytest.approx(forward["gigabytes_per_second"])
    assert both["teraflops"] == pytest.approx(1.5 * forward["teraflops"])


class Clocked:
    """A worker whose programs take known times."""

    def __init__(self, facts, seconds):
        self.facts, self.seconds = facts, seconds
        self.asked, self.dropped = [], 0

    def load(self, *task):
        self.asked.append(task)
        return self.facts

    def add(self, *task):
        self.asked.append(task)
        facts = self.facts[task[-1]]
        if "declined" in facts:
            raise Declined(facts["declined"])
        return {task[-1]: dict(facts)}

    def numbers(self, name):
        return right(workload())

    def times(self, name, count=1):
        return [self.seconds[name]] * count

    def drop(self):
        self.dropped += 1


def test_ceilings_follow_from_known_times():
    facts = {"copy": {"calls": 4}, "matmul 512": {"calls": 2}, "matmul 1024": {"calls": 1}}
    worker = Clocked(facts, {"copy": 0.4, "matmul 512": 0.2, "matmul 1024": 0.5})
    rates = ceilings.measure(worker, "cpu", "float32", 1e-6)
    assert worker.asked == [("benchmarks.device.ceilings:build", "cpu", "float32")]
    assert worker.dropped == 1
    assert rates["copy_gigabytes_per_second"] == pytest.approx(2e-9 * 64 * 2**20 / 0.1)
    assert rates["matmul_teraflops"] == pytest.approx(2e-12 * 1024**3 / 0.5)


# --- A row


def framework(worker, *names):
    return frameworks.Framework(Lasting(lambda: worker, None), "made", list(names))


def test_times_are_of_one_call_and_declined_candidates_are_recorded():
    w = workload()
    facts = {
        "selected": {"calls": 10, "launch_milliseconds": 0.1},
        "stock": {"declined": "no such convolution"},
    }
    ours = Clocked(facts, {"selected": 0.5})
    torch = Clocked({"torch_ncl": {"declined": "out of memory"}}, {})
    names = ("selected", "stock", "torch_ncl")
    row = measuring.measure(
        measuring.Case(w, "float32", "forward_backward", names),
        [framework(ours, "selected", "stock", "triton"), framework(torch, "torch_ncl")],
        "cpu",
        1e-6,
        {"float32": RATES},
    )
    arguments = ("made:build", "cpu", w, "float32", "forward_backward")
    assert ours.asked == [(*arguments, "selected"), (*arguments, "stock")]
    assert (ours.dropped, torch.dropped) == (1, 1)
    measured = row["candidates"].pop("selected")
    assert measured["milliseconds"] == pytest.approx(50.0)
    assert measured["samples"] >= 3
    assert measured["teraflops"] == pytest.approx(3 * 2 * 6 * 11 * 5 * (3 + 7) / 0.05 * 1e-12)
    assert row["candidates"] == {
        "stock": {"declined": "no such convolution"},
        "torch_ncl": {"declined": "out of memory"},
    }
    printed = report.row({**row, "candidates": {"selected": measured, **row["candidates"]}})
    assert "torch_ncl     declines: out of memory" in printed


# --- Text


def timed(milliseconds, launch=0.0):
    rates = {"gigabytes_per_second": 50.0, "of_copy": 0.5, "teraflops": 0.2, "of_matmul": 0.1}
    times = {"milliseconds": milliseconds, "launch_milliseconds": launch}
    return {**times, **rates, "imprecise": []}


def record(name="a-0", dtype="float32", **candidates):
    return {
        "workload": name,
        "shape": "made",
        "dtype": dtype,
        "program": "forward",
        "candidates": candidates,
    }


def test_the_table():
    assert doctest.testmod(report).attempted > 0
    assert doctest.testmod(report).failed == 0
    rows = [
        record("a-0", selected=timed(1.0), stock=timed(4.0), torch_ncl=timed(3.0)),
        record("b-0", selected=timed(2.0, 1.7), stock=timed(2.0), torch_nlc={"declined": "no"}),
        record("c-0", selected={"declined": "no"}, stock=timed(1.0)),
        record("d-0", selected=timed(1.0), torch_ncl=timed(3.0), torch_nlc=timed(0.5)),
    ]
    lines = report.table(rows).splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["a-0", "float32", "forward", "1.0000", "50%", "10%", "0.25x", "0.33x"],
        ["b-0", "float32", "forward", "2.0000*", "50%", "10%", "1.00x", "-"],
        ["c-0", "float32", "forward", *"-----", "selected", "declines"],
        ["d-0", "float32", "forward", "1.0000", "50%", "10%", "-", "2.00x"],
        ["geometric", "mean,", "float32", "forward", "0.50x", "0.82x"],
        ["*", "the", "host's", "time", "to", "start", "a", "call"],
    ]


# --- From end to end


def test_device(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(suite, "CEILING_SECONDS", 1e-3)
    torch, _ = machine.present({"torch_ncl": PEERS["torch_ncl"]})
    output = tmp_path / "new" / "device.json"
    names = ",".join(["stock", *torch])
    text = f"device --platform cpu --filter tf_docs --candidates {names} --dtypes bfloat16"
    main([*text.split(), "--programs", "forward", "--seconds", "0.001", "--output", str(output)])
    made = json.loads(output.read_text())
    assert (made["platform"], made["complete"]) == ("cpu", True)
    assert {"jax", "jaxlib", "flax", *(["torch"] if torch else [])} <= made["versions"].keys()
    assert made["ceilings"].keys() == {"bfloat16"}
    assert all(rate > 0 for rate in made["ceilings"]["bfloat16"].values())
    (row,) = made["rows"]
    assert (row["dtype"], row["program"]) == ("bfloat16", "forward")
    assert list(row["candidates"]) == ["selected", "stock", *torch]
    for facts in row["candidates"].values():
        low, high = facts["quartiles"]
        assert 0 < low <= facts["milliseconds"] <= high
        assert facts["calls"] >= 1
        assert facts["of_copy"] > 0
    assert made["left_out"] == []
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "bfloat16: a copy moves" in printed
    assert "tf_docs-0 bfloat16 forward: B1 L28 C28->3" in printed
    assert "geometric mean, bfloat16 forward" in printed


def test_an_interrupted_run_keeps_its_rows(tmp_path, monkeypatch, capsys):
    asked = itertools.count()

    def measure(case, *_):
        if next(asked):
            assert len(json.loads(output.read_text())["rows"]) == 1  # Written before the end.
            raise KeyboardInterrupt
        return record(selected=timed(1.0), stock=timed(2.0))

    def start(*_):
        device = {"device": "made", "platform": "gpu", "absent": {}}
        return [framework(Clocked({}, {}), "selected")], device

    monkeypatch.setattr(frameworks, "start", start)
    monkeypatch.setattr(suite, "measure", measure)
    monkeypatch.setattr(ceilings, "measure", lambda *_: RATES)
    output = tmp_path / "device.json"
    with pytest.raises(KeyboardInterrupt):
        main(["device", "--filter", "lite-", "--output", str(output)])
    made = json.loads(output.read_text())
    assert len(made["rows"]) == 1
    assert not made["complete"]
    assert len(made["left_out"]) == 7
    assert made["left_out"][0].keys() == {"workload", "dtype", "program", "candidates"}
    assert made["ceilings"]["bfloat16"] == RATES
    assert output.with_suffix(".png").exists()
    assert "a-0 float32 forward" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--filter nothing_is_called_so", "--filter: no workload's name contains"),
        ("--filter hyena", "finds only layers without a pointwise stage"),
        ("--candidates stock,nobody", "--candidates: must be of selected, stock"),
        ("--dtypes float64", "--dtypes: must be of bfloat16, float32, got float64"),
        ("--programs backward", "--programs: must be of forward, forward_backward"),
        ("--platform abacus", "argument --platform: invalid choice: 'abacus'"),
        ("--seconds 0", "--seconds: must be positive, got 0.0"),
        ("--minutes 0", "--minutes: must be positive, got 0.0"),
        ("--minutes nan", "--minutes: must be positive, got nan"),
        ("--patience -1", "--patience: must be positive, got -1.0"),
        ("--output /dev/null/here", "--output: "),
        ("nonsense", "unrecognized arguments: nonsense"),
    ],
)
def test_bad_flags_are_one_line(flags, message, capsys, tmp_path):
    if "--output" not in flags:
        flags += f" --output {tmp_path / 'a.json'}"
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["device", *flags.split()])
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("platform", "message"),
    [("", "jax has only cpu here"), ("--platform gpu", "jax has no gpu here: ")],
)
def test_without_an_accelerator(platform, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    output = tmp_path / "a.json"
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["device", *platform.split(), "--output", str(output)])
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not output.exists()


def test_a_peer_that_is_asked_for_and_absent_is_an_error(capsys, tmp_path, monkeypatch):
    peer = PEERS["torch_ncl"]._replace(packages=("no-such-package",))
    monkeypatch.setitem(PEERS, "torch_ncl", peer)
    text = f"--platform cpu --candidates torch_ncl --output {tmp_path / 'a.json'}"
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["device", *text.split()])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("--candidates: torch_ncl: no-such-package is not installed")


def test_workers_see_the_device_and_share_its_memory(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert frameworks.environment("cpu") == {}
    shown = {"JAX_PLATFORMS": "", "CUDA_VISIBLE_DEVICES": "0"}
    assert frameworks.environment(None) == {**shown, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    chosen = {"CUDA_VISIBLE_DEVICES": "3", "JAX_PLATFORMS": "cuda"}
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    assert frameworks.environment("gpu").items() > chosen.items()
