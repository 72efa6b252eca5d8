"""`python -m benchmarks correctness`: what it judges, by what, and what ends it (nothing does)."""

import contextlib
import doctest
import functools
import json
import os
import time

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import reference, workloads
from benchmarks.__main__ import main
from benchmarks.case import Case
from benchmarks.correctness import problems, report, solving, suite
from benchmarks.correctness.problems import Problem
from benchmarks.device import frameworks
from benchmarks.lasting import Lasting
from benchmarks.worker import Declined, Worker, WorkerError
from tests import oracle

HERE = "tests.benchmarks.test_correctness"
NAMES = ("y", "dx", "d_depthwise_kernel", "d_pointwise_kernel", "d_bias")


def workload(**sizes):
    """All sizes differ, so that a swapped axis cannot pass."""
    made = workloads.Workload("", 2, 11, 5, 7, 3, 1, 1, 1, "same", 0, "")
    return made._replace(**sizes)


KINDS = {
    "layer": Problem(workload(strides=2, depth_multiplier=4)),
    "dilated": Problem(workload(padding="causal", dilation_rate=2)),
    "depthwise alone": Problem(workload(filters=0, depth_multiplier=4)),
    "stack": Problem(workload(filters=5), layers=3),
    "ragged": Problem(workload(batch=4), lengths=(11, 4, 0, 6)),
    "ragged strided": Problem(workload(batch=3, strides=2), lengths=(10, 11, 1)),
    "ragged valid": Problem(
        workload(batch=3, padding="valid", dilation_rate=2), lengths=(11, 4, 5)
    ),
    "copies": Problem(workload(), copies=3),
}


# --- What is right


def test_the_reference_of_the_depthwise_stage_is_the_oracle():
    w = workload(strides=2, depth_multiplier=4)
    x, k, _, _, _ = Case(w).operands()
    dh = np.random.default_rng(1).standard_normal((w.batch, w.steps, w.joined))
    got = reference.depthwise(w, x, k, dh)
    np.testing.assert_allclose(got["y"], oracle.depthwise(x, k, 2, 1, "same"), rtol=1e-9)
    dx, dk = oracle.depthwise_vjp(x, k, dh, 2, 1, "same")
    np.testing.assert_allclose(got["dx"], dx, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got["d_depthwise_kernel"], dk, rtol=1e-9)


@pytest.mark.parametrize("kind", ["ragged", "ragged strided", "ragged valid"])
def test_the_reference_of_ragged_batches_is_the_oracle_sequence_by_sequence(kind):
    w, lengths = KINDS[kind].workload, KINDS[kind].lengths
    x, k, p, bias, dy = operands = Case(w).operands()
    settings = (w.strides, w.dilation_rate, w.padding)
    sums = [np.zeros_like(each) for each in (k, p, bias)]
    got = reference.ragged(w, operands, lengths)
    for row, length in enumerate(lengths):
        steps = oracle.window(length, w.kernel_size, *settings)[1] if length else 0
        one, dy_one = x[row : row + 1, :length], dy[row : row + 1, :steps]
        assert not got["y"][row, max(steps, 0) :].any()
        assert not got["dx"][row, length:].any()
        if steps > 0:
            y = oracle.separable(one, k, p, bias, *settings)
            np.testing.assert_allclose(got["y"][row : row + 1, :steps], y, rtol=1e-9)
            dx, *gradients = oracle.separable_vjp(one, k, p, dy_one, *settings)
            np.testing.assert_allclose(got["dx"][row, :length], dx[0], rtol=1e-9, atol=1e-12)
            sums = [a + b for a, b in zip(sums, gradients, strict=True)]
    for name, want in zip(NAMES[2:], sums, strict=True):
        np.testing.assert_allclose(got[name], want, rtol=1e-9, atol=1e-12)


def test_the_reference_of_several_layers_is_the_oracle_layer_by_layer():
    problem = KINDS["stack"]
    x, k, p, bias, dy = map(np.float64, problem.operands("float32"))
    assert k.shape[0] == 3
    assert not np.array_equal(k[0], k[1])
    got = problem.expected("float32")
    inputs = [x]
    for index in range(3):
        inputs.append(oracle.separable(inputs[-1], k[index], p[index], bias[index], padding="same"))
    np.testing.assert_allclose(got["y"], inputs[-1], rtol=1e-9)
    for index in (2, 1, 0):
        dy, *gradients = oracle.separable_vjp(inputs[index], k[index], p[index], dy, padding="same")
        for name, want in zip(NAMES[2:], gradients, strict=True):
            np.testing.assert_allclose(got[name][index], want, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got["dx"], dy, rtol=1e-9, atol=1e-12)


# --- What is asked


def test_all_kinds_of_layers_are_asked_about():
    asked = [problem.workload for problem in problems.PROBLEMS]
    assert {w.kernel_size for w in asked} >= {1, 2, 3, 4, 5, 15, 31, 87}
    assert {w.padding for w in asked} == {"same", "valid", "causal"}
    assert {w.strides for w in asked} >= {1, 2, 3}
    assert {w.depth_multiplier for w in asked} >= {1, 2, 3, 4}
    assert any(w.dilation_rate > 1 and w.strides > 1 for w in asked)
    assert any(w.length % 2 for w in asked)
    ragged = [problem for problem in problems.PROBLEMS if problem.lengths]
    assert {problem.workload.padding for problem in ragged} == {"same", "valid", "causal"}
    assert any(0 in problem.lengths for problem in ragged)
    assert len(set(map(str, problems.PROBLEMS))) == len(problems.PROBLEMS)
    wide = [w for w in asked if w.channels % 128 == 0 and w.strides == w.depth_multiplier == 1]
    assert len(wide) >= 5  # What Mosaic takes.


def test_what_users_reported_is_as_large_as_they_had_it():
    told = [str(problem) for problem in problems.REPORTED]
    assert told == [
        "12 layers of B2 L1024 C512->512 K5 S1 D1 M1 same x16 (jax#13800)",
        "B2 L1024 C128 K3 S1 D1 M1 causal x16 (jax#26266)",
        "B2 L1024 C128 K3 S1 D16 M1 causal x16 (jax#26266)",
        "B2 L1024 C128 K3 S1 D256 M1 causal x16 (jax#26266)",
        "B2 L16 C4 K3 S2 D1 M4 same (jax#37922)",
    ]
    on_cpu = [str(problem.on("cpu")) for problem in problems.REPORTED[:2]]
    assert on_cpu[0] == "12 layers of B2 L128 C512->512 K5 S1 D1 M1 same (jax#13800)"
    assert on_cpu[1] == "B2 L1024 C128 K3 S1 D1 M1 causal (jax#26266)"
    assert problems.REPORTED[0].on("gpu") is problems.REPORTED[0]


def test_what_stands_behind_the_ends_is_nan():
    x = KINDS["ragged"].operands("bfloat16").x.astype(np.float32)
    for row, length in enumerate(KINDS["ragged"].lengths):
        assert np.isfinite(x[row, :length]).all()
        assert np.isnan(x[row, length:]).all()


# --- How it is judged


solved = functools.cache(solving.solve)


class Direct:
    """A worker without a process."""

    def __init__(self, change=None, error=None):
        self.change, self.error = change or {}, error

    def call(self, task, *arguments, **_):
        if self.error:
            raise self.error
        assert task == "benchmarks.correctness.solving:solve"
        results = solved(*arguments)
        return results | {name: change(results[name]) for name, change in self.change.items()}


def judged(problem, dtype="float32", lowering="shifted_sum", **fake):
    process = Lasting(lambda: Direct(**fake), lambda worker: None)
    return suite.judge(suite.Case(problem, dtype, lowering), process, "cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_right_is_found_right(kind, dtype):
    problem = KINDS[kind]
    row = judged(problem, dtype)
    results = NAMES if problem.workload.filters else NAMES[:3]
    assert list(row["errors"]) == ["y forward", *results]
    assert "wrong" not in row
    assert all(0 <= off < (2e-2 if dtype == "bfloat16" else 1e-5) for off in row["errors"].values())
    assert report.kind(row) == "right"


@pytest.mark.parametrize("name", ["y forward", *NAMES])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda a: a * 1.01, "is off by 1.0e-02 (allowed: "),
        (lambda a: np.where(np.arange(a.size).reshape(a.shape) == 1, np.nan, a), "is not finite"),
        (lambda a: np.where(np.arange(a.size).reshape(a.shape) == 1, np.inf, a), "is not finite"),
        (lambda a: a[:, :-1], "has shape ("),
    ],
)
def test_what_is_wrong_is_named(name, change, told):
    row = judged(KINDS["copies"], change={name: change})
    (wrong,) = row["wrong"]
    assert wrong.startswith(f"{name} {told}")
    assert report.kind(row) == "wrong"
    assert f"WRONG: {wrong}" in report.line(row)


@pytest.mark.parametrize("copy", [0, 1, 2])
def test_every_copy_counts(copy):
    y = np.tile(np.ones((2, 3, 4), np.float32), (3, 1, 1))
    y[2 * copy, 1, 1] = 5
    folded = solving._folded("y", jnp.asarray(y), 3)
    assert folded.shape == (2, 2, 3, 4)
    assert folded.max() == 5
    assert problems.errors({"y": folded}, {"y": np.ones((2, 3, 4))}) == {"y": 4.0}


def test_a_lowering_that_reads_behind_the_ends_is_found_out(monkeypatch):
    """As one would be that masks its outputs, and not its inputs."""
    convolve = solving.fsc.ops.separable_conv1d

    def careless(*operands, lengths, **settings):
        return convolve(*operands, **settings)

    monkeypatch.setattr(solving.fsc.ops, "separable_conv1d", careless)
    solved.cache_clear()
    assert "y is not finite" in judged(KINDS["ragged"])["wrong"]
    solved.cache_clear()


def test_tolerances_follow_the_dtype_the_platform_and_the_depth():
    def allowed(dtype, platform, kind="layer"):
        return KINDS[kind].allowed(dtype, platform)["y"]

    assert allowed("float32", "cpu") < 1e-5 < allowed("float32", "gpu") < 5e-3
    assert allowed("float32", "gpu") < allowed("float32", "tpu") == allowed("bfloat16", "tpu")
    assert allowed("bfloat16", "gpu") < 3e-2
    one = KINDS["stack"]._replace(layers=1).allowed("bfloat16", "gpu")["y"]
    assert allowed("bfloat16", "gpu", "stack") == pytest.approx(one * 3**0.5)


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (Declined("not these taps"), "declined", "declines: not these taps"),
        (WorkerError("and more", "ValueError: no"), "failed", "FAILED: ValueError: no"),
    ],
)
def test_what_has_no_numbers_is_a_row(error, kind, told):
    row = judged(KINDS["layer"], error=error)
    assert report.kind(row) == kind
    assert told in report.line(row)


def test_why_a_lowering_declines_is_told_once(capsys):
    rows = [
        {"problem": name, "dtype": "float32", "lowering": lowering, "declined": reason}
        for name in ("a", "b")
        for lowering, reason in [("triton", "no GPU"), ("mosaic", "no GPU"), ("native", name)]
    ]
    told = set()
    for row in rows:
        report.tell(row, told)
    lines = [line.split()[1:] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        [],
        ["triton", "declines:", "no", "GPU"],
        ["mosaic", "declines:", "no", "GPU"],
        ["native", "declines:", "a"],
        [],
        ["native", "declines:", "b"],
    ]


def test_examples():
    assert doctest.testmod(report).attempted > 0
    assert doctest.testmod(report).failed == 0


# --- From end to end


def test_correctness(tmp_path, capsys):
    output = tmp_path / "new" / "a.json"
    flags = "--platform cpu --filter L40,jax#37922 --lowerings selected,triton --dtypes float32"
    main(["correctness", *flags.split(), "--output", str(output)])
    made = json.loads(output.read_text())
    assert (made["platform"], made["complete"], made["left_out"]) == ("cpu", True, [])
    assert {"jax", "jaxlib", "flax"} <= made["versions"].keys()
    kinds = [(row["lowering"], report.kind(row)) for row in made["rows"]]
    assert kinds == [("selected", "right"), ("triton", "declined")] * 2
    printed = capsys.readouterr().out
    assert "B2 L40 C16->24 K3 S1 D1 M1 same\n  float32   selected      y " in printed
    assert "4 rows: 2 right, 2 declined, 0 wrong, 0 failed" in printed


def solve(platform, problem, dtype, lowering):
    """Be bad in as many ways as there are lowerings."""
    if lowering == "grouped_conv":
        raise RuntimeError("INTERNAL: no such algorithm\nand more")
    if lowering == "shifted_sum":
        os.abort()
    if lowering == "native":
        time.sleep(60)
    if lowering == "triton":
        raise NotImplementedError("not these taps")
    results = {name: array[None] for name, array in problem.expected(dtype).items()}
    return results if lowering == "selected" else results | {"dx": 2 * results["dx"]}


def describe(platform):
    return {"device": "made", "platform": "cpu"}


@pytest.fixture
def made_device(monkeypatch):
    def ask(worker):
        return worker.call(f"{HERE}:describe", None, patience=60)

    def started(name, module, shown, platform, patience):
        def worker():
            made = Worker(name, patience=patience)
            ask(made)  # What takes long are imports.
            return made

        return Lasting(worker, ask)

    monkeypatch.setattr(suite, "TASK", f"{HERE}:solve")
    monkeypatch.setattr(frameworks, "JAX", HERE)
    monkeypatch.setattr(frameworks, "started", started)
    monkeypatch.setattr(problems, "PROBLEMS", (KINDS["layer"], KINDS["dilated"]))


def test_a_run_outlives_its_lowerings(made_device, tmp_path, capsys):
    output = tmp_path / "a.json"
    flags = "--dtypes float32 --patience 2 --filter S2"
    with pytest.raises(SystemExit, match=r"^1$"):
        main(["correctness", *flags.split(), "--output", str(output)])
    made = json.loads(output.read_text())
    assert made["complete"]
    facts = {row["lowering"]: row for row in made["rows"]}
    assert list(facts) == list(suite.NAMES)
    assert report.kind(facts["selected"]) == "right"
    assert facts["grouped_conv"]["failed"] == "RuntimeError: INTERNAL: no such algorithm"
    assert facts["shifted_sum"]["failed"] == "the worker died with status -6"
    assert facts["native"]["failed"] == "no answer within 2 s"
    assert facts["triton"]["declined"] == "not these taps"
    assert facts["mosaic"]["wrong"][0].startswith("dx is off by 1.0e+00")
    printed = capsys.readouterr().out
    assert "7 rows: 1 right, 1 declined, 2 wrong, 3 failed" in printed
    assert "  wrong: mosaic, float32: B2 L11 C5->7 K3 S2 D1 M4 same" in printed


@contextlib.contextmanager
def without_processes(monkeypatch, judge):
    process = contextlib.nullcontext(Lasting(lambda: Direct(), None))
    process.enter_result.worker.call = lambda *_: describe(None)
    monkeypatch.setattr(frameworks, "started", lambda *_: process)
    monkeypatch.setattr(suite, "judge", judge)
    yield


def judge(case, *_):
    return {**case.facts, "errors": {"y": 0.0}}


def test_a_bounded_run_says_what_it_left_out(tmp_path, capsys, monkeypatch):
    output = tmp_path / "a.json"
    monkeypatch.setattr("benchmarks.bound.Bound.within", lambda self, rows: rows[:2])
    with without_processes(monkeypatch, judge):
        flags = "--filter L40 --lowerings selected,triton --minutes 3"
        main(["correctness", *flags.split(), "--output", str(output)])
    made = json.loads(output.read_text())
    assert len(made["rows"]) == 2
    assert not made["complete"]
    assert [row["dtype"] for row in made["left_out"]] == ["float32", "float32"]
    printed = capsys.readouterr().out
    assert "not tried, 2 rows:" in printed
    assert "same: selected float32, triton float32" in printed


def test_an_interrupted_run_keeps_its_rows(tmp_path, capsys, monkeypatch):
    output = tmp_path / "a.json"
    seen = []

    def interrupted(case, *_):
        if seen:
            assert len(json.loads(output.read_text())["rows"]) == 1  # Written before the end.
            raise KeyboardInterrupt
        seen.append(case)
        return judge(case)

    with without_processes(monkeypatch, interrupted), pytest.raises(KeyboardInterrupt):
        main(["correctness", "--filter", "L40", "--output", str(output)])
    assert len(json.loads(output.read_text())["rows"]) == 1
    rest = 2 * len(suite.NAMES) - 1
    assert f"not tried, {rest} rows:" in capsys.readouterr().out


def test_a_run_that_has_time_for_nothing_says_so(tmp_path, monkeypatch):
    with (
        without_processes(monkeypatch, judge),
        pytest.raises(SystemExit, match="--minutes: none of the rows ended within 1e-09"),
    ):
        main(["correctness", "--minutes", "1e-9", "--output", str(tmp_path / "a.json")])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--filter K1000", "--filter: no problem's line contains 'K1000'"),
        ("--lowerings selected,nobody", "--lowerings: must be of selected, grouped_conv"),
        ("--dtypes float64", "--dtypes: must be of bfloat16, float32, got float64"),
        ("--platform abacus", "argument --platform: invalid choice: 'abacus'"),
        ("--minutes 0", "--minutes: must be positive, got 0.0"),
        ("--patience nan", "--patience: must be positive, got nan"),
        ("--output .", "--output: must be a file, got the folder ."),
        ("", "jax has only cpu here"),
    ],
)
def test_bad_flags_are_one_line(flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    if "--output" not in flags:
        flags += f" --output {tmp_path / 'a.json'}"
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["correctness", *flags.split()])
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
