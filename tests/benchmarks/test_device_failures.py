"""The suite for accelerators goes on where a candidate is wrong, fails, crashes or hangs."""

import json

import numpy as np
import pytest

from benchmarks import candidates, workloads
from benchmarks.__main__ import main
from benchmarks.device import (
    ceilings,
    frameworks,
    measuring,
    picture,
    planning,
    report,
    sampling,
)
from benchmarks.lasting import Lasting
from benchmarks.worker import Declined, NoAnswerError, Program, Worker, WorkerError, WorkerLostError

RATES = {"copy_gigabytes_per_second": 100.0, "matmul_teraflops": 2.0}
WORKLOAD = workloads.Workload("made-0", 6, 11, 5, 7, 3, 1, 1, 1, "same", 0, "here")
NAMES = ("selected", "stock", "triton")


def case(dtype="float32", names=NAMES):
    return measuring.Case(WORKLOAD, dtype, "forward_backward", names)


def right(dtype="float32"):
    """Return what a right program is read as."""
    expected = sampling.expected(WORKLOAD, dtype)
    return {name: np.stack([array, array]) for name, array in expected.items()}


# --- In one process: every way to be bad, at every place of a row

BAD = {
    "raises when built": ("add", WorkerError("all of it", "XlaRuntimeError: INTERNAL: no")),
    "dies when built": ("add", WorkerLostError("all of it", "the worker died with status -6")),
    "hangs when built": ("add", NoAnswerError("all of it", "no answer within 1 s")),
    "raises when run": ("numbers", WorkerError("all of it", "XlaRuntimeError: INTERNAL: no")),
    "dies when run": ("numbers", WorkerLostError("all of it", "the worker died with status -6")),
    "raises when timed": ("times", WorkerError("all of it", "XlaRuntimeError: INTERNAL: no")),
    "dies when timed": ("times", WorkerLostError("all of it", "the worker died with status -6")),
    "hangs when timed": ("times", NoAnswerError("all of it", "no answer within 1 s")),
}


class Fake:
    """A worker in which some candidates are bad; `spoils` is whether failures leave it unsound."""

    def __init__(self, bad, spoils=False, numbers=None, log=None):
        self.bad, self.spoils, self.changed = bad, spoils, numbers or {}
        self.programs, self.sound = set(), True
        self.log = [] if log is None else log
        self.log.append("started")

    def _do(self, method, name):
        assert self.sound, "an unsound worker is asked no more"
        when, error = self.bad.get(name, (None, None))
        if when == method:
            self.sound = not (self.spoils or isinstance(error, WorkerLostError))
            raise error

    def add(self, task, platform, workload, dtype, program, name):
        self._do("add", name)
        self.programs.add(name)
        return {name: {"calls": 2, "launch_milliseconds": 0.0}}

    def numbers(self, name):
        assert name in self.programs
        self._do("numbers", name)
        return self.changed.get(name, right())

    def times(self, name, count=1):
        assert name in self.programs
        self._do("times", name)
        return [0.2] * count

    def probe(self):
        if not self.sound:
            raise WorkerError("all of it", "an illegal access")

    def drop(self):
        self.programs = set()
        self.log.append("dropped")

    def stop(self):
        self.log.append("stopped")


def framework(*fakes):
    """Take one fake worker after the other."""
    waiting = iter(fakes)
    process = Lasting(lambda: next(waiting)(), lambda worker: worker.probe())
    return frameworks.Framework(process, "made", list(NAMES))


def measured(made, dtype="float32"):
    return measuring.measure(case(dtype), [made], "cpu", 1e-6, {dtype: RATES})


@pytest.mark.parametrize("spoils", [False, True])
@pytest.mark.parametrize("culprit", NAMES)
@pytest.mark.parametrize("how", BAD)
def test_what_fails_is_a_fact_and_the_others_are_measured(how, culprit, spoils):
    log = []

    def worker():
        return Fake({culprit: BAD[how]}, spoils, log=log)

    row = measured(framework(*[worker] * 2))
    assert list(row["candidates"]) == list(NAMES)
    facts = row["candidates"].pop(culprit)
    assert facts == {"failed": BAD[how][1].reason, "details": "all of it"}
    for others in row["candidates"].values():
        assert others["milliseconds"] == pytest.approx(100.0)
        assert "failed" not in others
    is_lost = spoils or "raises" not in how
    assert log == ["started", *["stopped", "started"] * is_lost, "dropped"]


def test_several_may_fail_in_a_row():
    bad = {"selected": BAD["dies when built"], "triton": BAD["hangs when timed"]}
    row = measured(framework(*[lambda: Fake(bad)] * 3))
    assert row["candidates"]["stock"]["milliseconds"] == pytest.approx(100.0)
    assert report.troubles_of(row) == {"selected": "failed", "triton": "failed"}
    bad = dict.fromkeys(NAMES, BAD["dies when timed"])
    row = measured(framework(*[lambda: Fake(bad)] * 4))
    assert report.troubles_of(row) == dict.fromkeys(NAMES, "failed")


def test_what_declines_has_not_failed():
    class Declining(Fake):
        def add(self, *arguments):
            if arguments[-1] == "triton":
                raise Declined("not these taps")
            return super().add(*arguments)

    row = measured(framework(*[lambda: Declining({"selected": BAD["dies when timed"]})] * 2))
    assert row["candidates"]["triton"] == {"declined": "not these taps"}


# --- Wrong numbers


@pytest.mark.parametrize("name", sampling.expected(WORKLOAD, "float32"))
@pytest.mark.parametrize("factor", [1.01, np.nan, np.inf])
def test_wrong_numbers_are_told_and_do_not_count(name, factor):
    numbers = right()
    with np.errstate(invalid="ignore"):
        numbers[name] = numbers[name] * factor
    row = measured(framework(lambda: Fake({}, numbers={"triton": numbers})))
    wrong = row["candidates"]["triton"]
    (told,) = wrong["wrong"]
    assert told.startswith(f"{name} is off by ")
    assert report.best(row, ["triton"]) is None
    assert report.best(row, ["triton", "stock"]) is row["candidates"]["stock"]
    printed = report.row(row).splitlines()[-1]
    assert "100.0000  ms WRONG, does not count: " in printed
    assert told in printed


def test_a_bias_that_others_add_up_in_bfloat16_is_told():
    numbers = right("bfloat16")
    numbers["d_bias"] *= 1.1

    def compare(name, dtype="bfloat16"):
        return measuring.compare(case(dtype), "gpu", name, numbers)

    (told,) = compare("stock")["imprecise"]
    assert told.startswith("d_bias is off by 1.0e-01")
    assert "wrong" not in compare("stock")
    assert compare("selected")["wrong"] == [told]
    assert any(each.startswith("d_bias is off") for each in compare("stock", "float32")["wrong"])
    numbers["dx"] *= 1.1
    (wrong,) = compare("stock")["wrong"]
    assert wrong.startswith("dx is off by")
    numbers["d_bias"][:, 0] = np.nan
    assert any(each.startswith("d_bias is off by nan") for each in compare("stock")["wrong"])


# --- Text and picture


def timed(milliseconds, **more):
    rates = {"gigabytes_per_second": 50.0, "of_copy": 0.5, "teraflops": 0.2, "of_matmul": 0.1}
    times = {"milliseconds": milliseconds, "launch_milliseconds": 0.0, "imprecise": []}
    return {**times, **rates, **more}


def record(name="a-0", **made):
    facts = {"workload": name, "dtype": "float32", "program": "forward"}
    return {**facts, "shape": "made", "candidates": made}


ROWS = [
    record("a-0", selected=timed(1.0), stock=timed(4.0), triton={"failed": "it died"}),
    record("b-0", selected=timed(0.1, wrong=["y is off"]), stock=timed(2.0)),
    record("c-0", selected={"failed": "no answer"}, stock=timed(1.0, wrong=["dx is off"])),
]


def test_the_table_names_what_is_wrong_or_failed():
    lines = report.table(ROWS).splitlines()
    assert [line.split() for line in lines[2:6]] == [
        ["a-0", "float32", "forward", "1.0000", "50%", "10%", "0.25x", "-", "triton", "failed"],
        ["b-0", "float32", "forward", "-", "-", "-", "-", "-", "selected", "wrong"],
        ["c-0", "float32", "forward", *"-----", "selected", "failed", "stock", "wrong"],
        ["geometric", "mean,", "float32", "forward", "0.25x", "-"],
    ]


def test_the_verdict_counts_and_names():
    assert report.verdict(ROWS[:0]) is None
    assert report.verdict([record(selected=timed(1.0), triton={"declined": "no"})]) is None
    assert report.verdict(ROWS).splitlines() == [
        "2 wrong, 2 failed:",
        "  triton failed: a-0 float32 forward",
        "  selected wrong: b-0 float32 forward",
        "  selected failed: c-0 float32 forward",
        "  stock wrong: c-0 float32 forward",
    ]


def test_the_picture_shows_crosses_and_no_dots_for_what_is_broken(tmp_path, monkeypatch):
    drawn = []

    class Figure(picture.Figure):
        def savefig(self, path, **_):
            drawn.append(self)

    monkeypatch.setattr(picture, "Figure", Figure)
    made = {"rows": ROWS, "device": "made", "versions": {}, "date": "2000-01-01"}
    picture.draw(made, tmp_path / "a.png")
    (axes,) = drawn[0].axes
    marks = [line.get_marker() for line in axes.get_lines()]
    assert marks.count("s") == 1
    assert marks.count("x") == 4
    assert sorted(text.get_text() for text in axes.texts)[-3:] == ["selected", "selected", "triton"]
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels == [picture.RIVALS[0][-1], picture.BROKEN, "geometric mean"]
    broken = record(selected={"failed": "it died"}, torch_nlc=timed(1.0, wrong=["dx is off"]))
    picture.draw({**made, "rows": [broken]}, tmp_path / "a.png")
    labels = [text.get_text() for text in drawn[1].legends[0].get_texts()]
    assert labels == [picture.RIVALS[1][-1], picture.BROKEN]


# --- Which rows there are


def planned(platform="gpu", is_bounded=True, names=(*candidates.CANDIDATES, *report.TORCH)):
    table = [each for each in workloads.load() if each.name in candidates.SUITE]
    dtypes, programs = ["bfloat16", "float32"], ["forward", "forward_backward"]
    return planning.cases(table, dtypes, programs, names, platform, is_bounded)


@pytest.mark.parametrize(("platform", "fused"), [("gpu", "triton"), ("tpu", "mosaic")])
def test_the_telling_rows_come_first(platform, fused):
    rows = planned(platform)
    telling = ["jax13800_k5-0", "mamba1_k4-0", "conformer_k31-0"]
    first = rows[:12]
    assert [row.workload.name for row in first[::2]] == telling * 2
    assert [row.workload.kernel_size for row in first[:6:2]] == [5, 4, 31]
    assert [row.dtype for row in first] == ["bfloat16"] * 6 + ["float32"] * 6
    assert {row.candidates for row in first} == {
        ("selected", "stock", fused, "torch_ncl", "torch_nlc")
    }
    last = rows[-12:]
    assert [row[:3] for row in last] == [row[:3] for row in first]
    assert {row.candidates[:3] for row in last} == {("selected", "grouped_conv", "shifted_sum")}
    between = rows[12:-12]
    assert {row.workload.name for row in between} == set(candidates.SUITE) - set(telling)
    assert all(len(row.candidates) == 9 for row in between)


def test_without_a_bound_every_row_is_whole():
    rows = planned(is_bounded=False)
    assert len({row[:3] for row in rows}) == len(rows) == 4 * len(candidates.SUITE)
    assert {row.candidates for row in rows} == {(*candidates.CANDIDATES, *report.TORCH)}
    assert rows[0].workload.name == "jax13800_k5-0"


def test_no_row_is_without_what_it_compares():
    for row in planned(names=("selected", "stock")):
        assert row.candidates == ("selected", "stock")


# --- From end to end, with processes

HERE = "tests.benchmarks.test_device_failures"


def probe(platform):
    pass


def build(platform, workload, dtype, program, name):
    """Make programs in a process that some candidates end."""
    import os
    import time

    few = {key: value for key, value in right(dtype).items() if key == "y"}

    def run():
        if name == "shifted_sum":
            os.abort()
        if name == "triton":
            time.sleep(60)

    if name == "grouped_conv":
        raise RuntimeError("INTERNAL: no such algorithm\nand more")
    facts = {"calls": 1, "launch_milliseconds": 0.0}
    return {name: Program(run, lambda _: few if name != "mosaic" else {"y": -few["y"]}, facts)}


@pytest.fixture
def started(monkeypatch):
    """Let `device` ask these candidates, on a made device."""

    def start(parser, arguments, stack):
        def ask(worker):
            worker.call(f"{HERE}:probe", "cpu", patience=60)

        def worker():
            made = Worker("made", patience=arguments.patience)
            ask(made)  # What takes long are imports.
            return made

        process = stack.enter_context(Lasting(worker, ask))
        names = [name for name in candidates.CANDIDATES if name in arguments.candidates]
        device = {"device": "made", "platform": "cpu", "absent": {}}
        return [frameworks.Framework(process, HERE, names)], device

    table = [WORKLOAD, WORKLOAD._replace(name="made-1")]
    monkeypatch.setattr(frameworks, "start", start)
    monkeypatch.setattr(workloads, "load", lambda: table)
    monkeypatch.setattr(ceilings, "measure", lambda *_: RATES)


def test_a_run_outlives_its_candidates(started, tmp_path, capsys):
    output = tmp_path / "a.json"
    flags = "--filter made-0 --dtypes float32 --programs forward --seconds 0.001 --patience 2"
    with pytest.raises(SystemExit, match=r"^1$"):
        main(["device", *flags.split(), "--output", str(output)])
    made = json.loads(output.read_text())
    assert made["complete"]
    (row,) = made["rows"]
    facts = row["candidates"]
    assert list(facts) == list(candidates.CANDIDATES)
    assert {name for name, each in facts.items() if "quartiles" in each} == {
        "selected",
        "stock",
        "fft",
        "mosaic",
    }
    assert facts["grouped_conv"]["failed"] == "RuntimeError: INTERNAL: no such algorithm"
    assert facts["shifted_sum"]["failed"] == "the worker died with status -6"
    assert "Fatal Python error: Aborted" in facts["shifted_sum"]["details"]
    assert facts["triton"]["failed"] == "no answer within 2 s"
    assert facts["mosaic"]["wrong"]
    printed = capsys.readouterr().out
    assert "1 wrong, 3 failed:" in printed
    assert "  triton failed: made-0 float32 forward" in printed
    assert "  triton        FAILED: no answer within 2 s" in printed


def test_a_bounded_run_says_what_it_left_out(started, tmp_path, capsys, monkeypatch):
    output = tmp_path / "a.json"

    def within(self, rows):
        yield from list(rows)[:3]

    monkeypatch.setattr("benchmarks.bound.Bound.within", within)
    flags = "--filter made --candidates selected,stock --dtypes float32 --seconds 0.001"
    main(["device", *flags.split(), "--minutes", "5", "--output", str(output)])
    made = json.loads(output.read_text())
    assert len(made["rows"]) == 3
    assert not made["complete"]
    left = {"workload": "made-1", "dtype": "float32", "program": "forward_backward"}
    assert made["left_out"] == [{**left, "candidates": ["selected", "stock"]}]
    printed = capsys.readouterr().out
    assert "not measured, 1 rows:" in printed
    assert "  made-1 (selected, stock): float32 forward_backward" in printed


def test_a_run_that_has_time_for_nothing_says_so(started, tmp_path):
    output = tmp_path / "a.json"
    flags = "--filter made --candidates selected --minutes 1e-9"
    with pytest.raises(SystemExit, match="--minutes: none of the rows ended within 1e-09"):
        main(["device", *flags.split(), "--output", str(output)])
    assert not output.exists()
