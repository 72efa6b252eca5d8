"""What `tune` measures, refuses, writes and says."""

import contextlib
import dataclasses
import functools
import io
import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_sepconv as fsc
from benchmarks import workloads
from benchmarks.candidates import SUITE
from benchmarks.choices import problem_of
from flax_sepconv.__main__ import main
from flax_sepconv.ops.choices import reading, table
from flax_sepconv.ops.choices.devices import kind_of
from flax_sepconv.ops.lowerings import LOWERINGS
from flax_sepconv.ops.lowerings.lowering import Lowering
from flax_sepconv.ops.tuning import measuring, programs, session
from flax_sepconv.ops.tuning.ceilings import Ceilings
from flax_sepconv.ops.tuning.command import TuneError, shape
from flax_sepconv.ops.tuning.definition import RESULTS
from flax_sepconv.ops.tuning.lost import LOST, Lost
from flax_sepconv.ops.tuning.models import problems_of
from flax_sepconv.ops.tuning.problems import ACCELERATOR_SUITE, CPU_SUITE, STAGE_PROGRAMS, Problem
from tests import oracle, tables
from tests.tables import SHAPE

HERE = kind_of("cpu", None)
CPU = jax.devices("cpu")[0]
RATES = Ceilings(copy=1e10, matmul=1e11)
QUICK = {"ceilings": RATES, "seconds": 1e-3}


class Planted(Lowering):
    """A shifted sum, which an error is planted in."""

    limits = frozenset({"whole", "lengths", "segments"})

    def __init__(self, **spoiled):
        self.spoiled = spoiled

    def contract(self, task, a, b, *limits):
        if task.limits == "lengths":
            return LOWERINGS["grouped_conv"].contract(task, a, b)
        spoil = self.spoiled.get(task.name, lambda result: result)
        return spoil(LOWERINGS["shifted_sum"].contract(task, a, b, *limits))


def measure(problem=SHAPE, program="forward_backward", dtype="float32", **more):
    return measuring.measure(problem, program, dtype, CPU, **(QUICK | more))


def off(result):
    """Return a result with one wrong entry."""
    return result.at[(0,) * result.ndim].add(jnp.abs(result).max())


def test_right_lowerings_are_judged_right():
    row = measure()
    assert not row.wrong()
    timed = {name for name, facts in row.candidates.items() if "milliseconds" in facts}
    assert timed >= {"default", "stock", "grouped_conv", "shifted_sum"}
    for name in ("triton", "mosaic"):
        assert "cannot run here" in row.candidates[name]["declined"]
    errors = row.candidates["shifted_sum"]["errors"]
    assert tuple(errors) == RESULTS
    assert 0 < max(errors.values()) < 1e-5


@pytest.mark.parametrize(("dtype", "limits"), [("bfloat16", "lengths"), ("float16", "whole")])
def test_short_dtypes_and_ragged_batches_are_judged_right(dtype, limits):
    row = measure(SHAPE._replace(limits=limits), dtype=dtype, names=["shifted_sum"])
    assert not row.wrong()
    assert 1e-4 < max(row.candidates["shifted_sum"]["errors"].values()) < 2e-2
    assert ("stock" in row.candidates) == (limits == "whole")


@pytest.mark.parametrize("program", STAGE_PROGRAMS)
def test_the_depthwise_stage_is_measured_alone(program):
    row = measure(SHAPE._replace(filters=0, strides=2, depth_multiplier=2), program)
    assert row.of.program == program
    assert not row.wrong()
    assert row.candidates["stock"]["milliseconds"] > 0


@pytest.mark.parametrize(
    ("contraction", "spoil"),
    [
        *((contraction, off) for contraction in STAGE_PROGRAMS),
        ("kernel_gradient", lambda result: result * 1.001),
        ("input_gradient", lambda result: result.at[-1, -1, -1].set(jnp.nan)),
    ],
)
def test_a_planted_wrong_lowering_is_refused(monkeypatch, contraction, spoil):
    """Whichever result is wrong, by however little more than rounding, and however fast."""
    monkeypatch.setitem(LOWERINGS, "native", Planted(**{contraction: spoil}))
    row = measure(names=["native"])
    assert row.wrong() == ["native"]
    assert "milliseconds" not in row.candidates["native"]
    assert row.choice == "default"


def test_a_lowering_that_fails_lets_the_others_go_on(monkeypatch):
    def fail(result):
        raise RuntimeError("the device caught fire\nat address 0")

    monkeypatch.setitem(LOWERINGS, "native", Planted(output=fail))
    row = measure()
    assert row.candidates["native"] == {"failed": "the device caught fire"}
    assert "milliseconds" in row.candidates["shifted_sum"]


def test_only_what_is_clearly_faster_takes_the_defaults_place():
    def choice(**times):
        facts = {n: {"milliseconds": t, "quartiles": [0.9 * t, 1.1 * t]} for n, t in times.items()}
        return measuring.best(facts | {"triton": {"wrong": ["y is off"]}, "mosaic": {"failed": ""}})

    assert choice(default=1.04, native=1.0) == "default"
    assert choice(default=1.15, native=1.0) == "default"  # the quartiles meet
    assert choice(default=2.0, native=1.0, shifted_sum=1.5, stock=0.1) == "native"
    assert choice(native=1.0, shifted_sum=0.5) == "shifted_sum"  # the default was wrong
    assert choice(default=1.0, stock=0.1) == "default"
    assert choice(stock=0.1) == "default"


def test_what_is_called_the_default_is_what_rules_say(tmp_path, monkeypatch):
    """Whatever an earlier table said."""
    monkeypatch.setenv(reading.VARIABLE, str(tmp_path))
    tables.write(tmp_path, HERE, *tables.rows("grouped_conv"))
    own = programs.operands_of(SHAPE, "float32", CPU)
    function = programs.function_of(SHAPE, "forward", "default")
    assert "stablehlo.convolution" not in programs.lowered(function, own).text
    assert "stablehlo.convolution" in programs.lowered(function, own, "grouped_conv").text
    assert "stablehlo.convolution" in jax.jit(function).lower(*own).as_text()


def test_a_run_writes_what_programs_then_go_by(tmp_path, monkeypatch):
    """A wrong default is refused at every shape; and the command says how to report it."""
    monkeypatch.setenv(reading.VARIABLE, str(tmp_path))
    monkeypatch.setattr(session.ceilings, "measure", lambda *_: RATES)
    planted = Planted(output=off)
    planted.version = 7
    monkeypatch.setitem(LOWERINGS, "native", planted)
    said = []
    cases = session.cases_of([(SHAPE, "float32")])
    session.run(cases, CPU, seconds=1e-3, names=["native", "shifted_sum"], say=said.append)
    text = "\n".join(said)
    assert "native is WRONG: y is off by" in text
    path = table.file_of(tmp_path, HERE)
    assert "WRONG on this device, and never taken on it by default from now on: native" in text
    assert f"the file {path} is the report" in text
    row = table.read(path).rows[0]
    assert row.kernels == {"native": 7, "shifted_sum": 1}
    assert {"date", "versions"} <= set(row.made)
    selected = fsc.ops.select_implementation((1, 9, 4), (3, 4, 1), platform="cpu")
    assert selected.name == "shifted_sum"


def test_a_device_that_computes_no_more_ends_the_run(tmp_path, monkeypatch):
    def fail(result):
        raise RuntimeError("an illegal memory access")

    monkeypatch.setitem(LOWERINGS, "native", Planted(output=fail))
    monkeypatch.setattr(session.ceilings, "measure", lambda *_: RATES)
    monkeypatch.setattr(session, "computes", lambda device: False)
    cases = session.cases_of([(SHAPE, "float32")])
    quick = {"seconds": 1e-3, "names": ["native", "shifted_sum"], "say": lambda line: None}
    with pytest.raises(session.DeviceLostError, match="what was measured is in"):
        session.run(cases, CPU, tmp_path, **quick)
    monkeypatch.undo()
    assert len(table.read(table.file_of(tmp_path, HERE)).rows) == 1


def test_what_ended_a_run_is_not_tried_again(tmp_path, monkeypatch):
    """Whether it is known from the table, or the process was lost before it could be written."""
    monkeypatch.setattr(session.ceilings, "measure", lambda *_: RATES)
    monkeypatch.setitem(LOWERINGS, "planted", Planted(output=lambda result: pytest.fail("tried")))
    path, of = table.file_of(tmp_path, HERE), SHAPE.of("forward", "float32")
    marker = path.with_name(path.name + ".trying")
    Lost(marker).begin(of, "planted")
    cases, quick = [(SHAPE, "forward", "float32")], {"seconds": 1e-3, "say": lambda line: None}
    for _ in range(2):
        session.run(cases, CPU, tmp_path, names=["planted", "shifted_sum"], **quick)
        (row,) = table.read(path).rows
        assert row.candidates["planted"] == {"failed": LOST, "lost": True}
        assert "milliseconds" in row.candidates["shifted_sum"]
        assert not marker.exists()


def test_the_definition_is_that_of_the_oracle():
    """Which shares no code with the package."""
    p = SHAPE._replace(strides=2, dilation_rate=2, depth_multiplier=3)
    x, k, w, b, y = p.operands("float32")
    found, where = p.expected("float32"), (2, 2, "same")
    np.testing.assert_allclose(found["y"], oracle.separable(x, k, w, b, *where), atol=1e-12)
    gradients = oracle.separable_vjp(x, k, w, y, *where)
    for name, expected in zip(RESULTS[1:], gradients, strict=True):
        np.testing.assert_allclose(found[name], expected, atol=1e-12)


def problems(function, *inputs, **named):
    found, left_out = problems_of(function, *inputs, **named)
    return found, left_out


def test_layers_of_a_linen_model():
    """However deep: in scans, behind remat, called twice; the inputs may be types."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.remat(fsc.SeparableConv1D)(8, 3, padding="same")(x), None

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, lengths, *, train):
            x = fsc.SeparableConv1D(8, 5, strides=2, padding="same", depth_multiplier=2)(x)
            twice = fsc.SeparableConv1D(8, 7, padding="causal", dtype="bfloat16")
            x = twice(twice(x)).astype("float32")
            scanned = nn.scan(
                Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
            )
            x, _ = scanned()(x, None)
            return fsc.SeparableConv1D(4, 4, padding="valid")(x, lengths)

    x = jax.ShapeDtypeStruct((6, 30, 3), "float32")
    lengths = jax.ShapeDtypeStruct((6,), "int32")
    variables = jax.eval_shape(
        functools.partial(Model().init, train=True), jax.random.key(0), x, lengths
    )
    found, left_out = problems(Model().apply, variables, x, lengths, train=True)
    assert not left_out
    assert found == {
        (Problem(6, 30, 3, 8, 5, 2, depth_multiplier=2), "float32"): 1,
        (Problem(6, 15, 8, 8, 7, padding="causal"), "bfloat16"): 2,
        (Problem(6, 15, 8, 8, 3), "float32"): 1,  # in the body of the scan
        (Problem(6, 15, 8, 4, 4, padding="valid", limits="lengths"), "float32"): 1,
    }


def test_layers_of_an_nnx_model_and_the_depthwise_stage():
    from flax import nnx

    layer = fsc.nnx.SeparableConv1D(3, 8, 5, rngs=nnx.Rngs(0))

    def both(x):
        return layer(x), fsc.ops.depthwise_conv1d(x, jnp.ones((2, 3, 1)), padding="causal")

    found, left_out = problems(jax.jit(both), jnp.ones((2, 20, 3)))
    assert not left_out
    assert list(found) == [
        (Problem(2, 20, 3, 8, 5, padding="valid"), "float32"),
        (Problem(2, 20, 3, 0, 2, padding="causal"), "float32"),
    ]


def test_what_is_not_measured_is_said():
    x, k, w = jnp.ones((2, 20, 3)), jnp.ones((2, 3, 1)), jnp.ones((1, 3, 4))

    def segments(x):
        ids = jnp.zeros((2, 20), jnp.int32)
        return fsc.ops.separable_conv1d(x, k, w, padding="same", segment_ids=ids)

    def mixed(x):
        return fsc.ops.separable_conv1d(x, k, w, preferred_element_type="bfloat16")

    for function, reason in ((segments, "such segments"), (mixed, "several dtypes")):
        found, left_out = problems(function, x)
        assert not found
        assert reason in left_out[0]
        with pytest.raises(ValueError, match="calls no separable"):
            fsc.ops.tune(function, x)


def test_tune_returns_the_table(tmp_path, capsys):
    x, k, w, b, _ = SHAPE._replace(batch=1).operands("float32")
    made = fsc.ops.tune(
        functools.partial(fsc.ops.separable_conv1d, padding="same"),
        *(x, k, w, b),
        folder=tmp_path,
        seconds=1e-3,
    )
    assert [row.of.program for row in made.rows] == ["forward", "forward_backward"]
    assert (
        table.read(table.file_of(tmp_path, HERE)).rows[0].problem
        == "B1 L40 C8->16 K5 S1 D1 M1 same"
    )
    assert "best/copy" in capsys.readouterr().out


def test_the_suites_are_those_of_the_benchmarks():
    known = {each.name: each for each in workloads.load()}

    assert {problem_of(known[name]) for name in SUITE} == set(ACCELERATOR_SUITE)
    cut = (known[name].within(workloads.ELEMENTS) for name in workloads.SELECTION)
    assert {problem_of(each) for each in cut} == set(CPU_SUITE)


def command(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["tune", *words])
    return status, out.getvalue(), err.getvalue()


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(session.ceilings, "measure", lambda *_: RATES)
    quick = ["--seconds", "0.001", "--output", str(tmp_path)]
    one = ["--shape", "B2 L40 C8->16 K5", "--dtypes", "bfloat16", "--lowerings", "shifted_sum"]
    status, out, err = command(*one, *quick, "--programs", "forward")
    assert (status, err) == (0, "")
    assert re.search(r"forward bfloat16 B2 L40 C8->16 K5 S1 D1 M1 same +[\d.]+", out)
    assert f"written to {table.file_of(tmp_path, HERE)} (1 rows)" in out
    status, out, _ = command(*one, *quick, "--programs", "kernel_gradient")
    assert "(2 rows)" in out


def test_the_command_ends_with_1_where_something_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(session.ceilings, "measure", lambda *_: RATES)
    monkeypatch.setitem(LOWERINGS, "native", Planted(output=off))
    words = ["--shape", "B2 L40 C8 K5", "--dtypes", "float32", "--programs", "output"]
    status, out, _ = command(*words, "--seconds", "0.001", "--output", str(tmp_path))
    assert status == 1
    assert "is the report" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--dtypes", "int8"], "--dtypes must be of bfloat16, float16, float32, got int8"),
        (["--programs", "all"], "--programs must be of forward, "),
        (["--lowerings", "magic"], "--lowerings must be of grouped_conv, "),
        (["--platform", "abacus"], "--platform: "),
        (["--seconds", "0"], "--seconds must be positive, got 0.0"),
        (["--shape", "B2 L40 C8"], "--shape must name K, got 'B2 L40 C8'"),
        (["--shape", "B2 L4 C8 K5 valid"], "the output would have no steps"),
        (["--from-run", "nowhere"], "nowhere holds no run: there is no such folder"),
    ],
)
def test_what_the_command_refuses(words, told):
    status, _, err = command(*words)
    assert status == 2
    assert err.startswith("error: ")
    assert told in err


def test_no_folder_to_write_to(monkeypatch):
    monkeypatch.setenv(reading.VARIABLE, "")
    status, _, err = command("--shape", "B2 L40 C8 K5", "--seconds", "0.001")
    assert status == 2
    assert "FLAX_SEPCONV_TUNED is empty" in err


def test_shapes_are_read_as_they_are_printed():
    for problem in (*CPU_SUITE, *ACCELERATOR_SUITE, SHAPE._replace(filters=0)):
        assert shape(str(problem)) == problem
    for text in ("", "B2 L40 C8->x K5", "B2->3 L40 C8 K5", "B0 L40 C8 K5", "x"):
        with pytest.raises(TuneError, match="--shape must"):
            shape(text)


def test_the_layers_of_a_run(tmp_path, monkeypatch):
    config = pytest.importorskip("flax_sepconv.training.config")
    given = {"model": {"padding": "causal", "width": 8, "blocks": 1, "kernel_size": 3}}
    part = {"series": 40, "channels": 6, "longest": 100, "labels": "", "values": ""}
    record = {
        "config": dataclasses.asdict(config.from_config_dict(given)),
        "data": {
            "classes": ["a", "b"],
            "mean": [0.0] * 6,
            "deviation": [1.0] * 6,
            "files": {"TRAIN": part, "TEST": part | {"longest": 110}},
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(record))
    monkeypatch.setattr(session.ceilings, "measure", lambda *_: RATES)
    tried = []
    row = tables.row("shifted_sum")
    candidates = {"shifted_sum": {"milliseconds": 1.0, "over_copy": 1.0, "over_matmul": 1.0}}
    row = dataclasses.replace(row, candidates=candidates)
    monkeypatch.setattr(session, "measure", lambda *case: tried.append(case[:3]) or row)
    status, _, err = command("--from-run", str(tmp_path), "--output", str(tmp_path))
    assert (status, err) == (0, "")
    multiplier = record["config"]["model"]["stem_multiplier"]
    stem = Problem(32, 110, 6, 8, 3, 1, 1, multiplier, "causal", "lengths")
    block = Problem(32, 110, 8, 8, 3, padding="causal", limits="lengths")
    assert tried == [
        (problem, program, "float32")
        for problem in (stem, block)
        for program in ("forward", "forward_backward")
    ]
