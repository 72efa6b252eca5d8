"""What divided programs send is counted by the rule, and the command writes and checks it."""

import json
import os

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.__main__ import main
from benchmarks.aot import hlo, traffic
from benchmarks.networks.quartznet import QuartzNet
from benchmarks.scaling import collectives, cpu, divisions, network, picture, suite, teams
from benchmarks.scaling.collectives import Sent
from benchmarks.worker import Declined, NoAnswerError, Worker
from benchmarks.workloads import Workload
from tests.conftest import DEVICES
from tests.pictures import apart, check, drawn, points

__all__ = ["drawn"]

# On 8 devices; x has 6 rows of 4 floats, 96 bytes, and is padded to 4096 in its tiles.
MODULE = """\
HloModule jit_f, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {{
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}}

%all-reduce-scatter.1 (input: f32[6,4]) -> f32[3,4] {{
  %input = f32[6,4]{{1,0:T(8,128)}} parameter(0)
  %whole = f32[6,4]{{1,0:T(8,128)}} all-reduce(%input), replica_groups=[4,2]<=[8], to_apply=%add
  ROOT %part = f32[3,4]{{1,0:T(8,128)}} slice(%whole), slice={{[0:3], [0:4]}}
}}

%aside (p: f32[6,4]) -> f32[6,4] {{
  %p = f32[6,4]{{1,0:T(8,128)}} parameter(0)
  ROOT %exchanged = f32[6,4]{{1,0:T(8,128)}} all-to-all(%p), replica_groups={{{{0,1,2}}}}
}}

%body (state: (s32[], f32[6,4])) -> (s32[], f32[6,4]) {{
  %state = (s32[], f32[6,4]{{1,0:T(8,128)}}) parameter(0)
  %turn = s32[] get-tuple-element(%state), index=0
  %row = f32[6,4]{{1,0:T(8,128)}} get-tuple-element(%state), index=1
  %passed = f32[6,4]{{1,0:T(8,128)}} collective-permute(%row), source_target_pairs={{{{0,1}}}}
  ROOT %next = (s32[], f32[6,4]{{1,0:T(8,128)}}) tuple(%turn, %passed)
}}

%condition (s: (s32[], f32[6,4])) -> pred[] {{
  %s = (s32[], f32[6,4]{{1,0:T(8,128)}}) parameter(0)
  ROOT %go = pred[] constant(true)
}}

ENTRY %main (x: f32[6,4]) -> f32[6,4] {{
  %x = f32[6,4]{{1,0:T(8,128)}} parameter(0)
  %n = s32[] constant(0)
  {line}
  ROOT %y = f32[6,4]{{1,0:T(8,128)}} copy(%x)
}}
"""
WIDE, LAYOUT = "f32[48,4]", "f32[6,4]{1,0:T(8,128)}"
LINES = {
    "%r = f32[6,4] all-reduce(%x), replica_groups={}, to_apply=%add": ("all-reduce", 1, 168),
    "%r = f32[6,4] all-reduce(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add": (
        *("all-reduce", 1),
        144,
    ),
    "%r = (f32[6,4], f32[6,4]) all-reduce(%x, %x), replica_groups=[4,2]<=[2,4]T(1,0), "
    "to_apply=%add": ("all-reduce", 1, 192),
    f"%r = {WIDE} all-gather(%x), replica_groups=[1,8]<=[8], dimensions={{0}}": (
        *("all-gather", 1),
        672,
    ),
    f"%r = (f32[6,4], {WIDE}) all-gather-start(%x), dimensions={{0}}, "
    "replica_groups=mesh['a'=8] {'a'}": ("all-gather", 1, 672),
    "%r = f32[3,4] reduce-scatter(%x), replica_groups=mesh['a'=4,'b'=2] {'b'}, dimensions={0}, "
    "to_apply=%add": ("reduce-scatter", 1, 48),
    "%r = f32[3,4] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1": (
        *("reduce-scatter", 1),
        48,
    ),
    f"%r = (({LAYOUT}), {LAYOUT}) async-start(%x), calls=%aside": ("all-to-all", 1, 64),
    "%r = f32[6,4] collective-permute(%x), source_target_pairs={{0,1},{1,2}}": (
        *("collective-permute", 1),
        96,
    ),
    "%r = (f32[6,4], f32[6,4], u32[], u32[]) collective-permute-start(%x), "
    "source_target_pairs={{0,1}}": ("collective-permute", 1, 96),
    f"%z = (s32[], {LAYOUT}) tuple(%n, %x)\n"
    f"  %r = (s32[], {LAYOUT}) while(%z), condition=%condition, body=%body, "
    'backend_config={"known_trip_count":{"n":"5"}}': ("collective-permute", 5, 480),
}


def sent(line):
    module = hlo.parse(MODULE.format(line=line))
    return collectives.count(module, traffic.operations(module), 8)


@pytest.mark.parametrize("line", LINES)
def test_what_an_operation_sends_goes_by_the_rule(line):
    kind, number, size = LINES[line]
    assert sent(line) == {kind: Sent(number, size)}


def test_kinds_are_added_up():
    both = "\n  ".join(line.replace("%r", f"%r{i}") for i, line in enumerate(list(LINES)[:4]))
    found = sent(both)
    assert found == {"all-reduce": Sent(3, 504), "all-gather": Sent(1, 672)}
    assert collectives.total(found) == 1176


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%r = f32[6,4] collective-broadcast(%x), replica_groups={}", "what collective-broadcast"),
        (
            "%r = f32[6,4] all-reduce(%x), replica_groups=mesh['a'=8] {'a':(1)2}, to_apply=%add",
            "groups of devices that are not known: mesh",
        ),
    ],
)
def test_what_is_not_known_is_refused(line, message):
    with pytest.raises(ValueError, match=message):
        sent(line)


@pytest.mark.skipif(DEVICES != 4, reason="for four devices")
@pytest.mark.parametrize(
    ("spec", "out", "expected"),
    [
        (P("d"), P(), {"all-gather": Sent(1, 3 * 8 * 16)}),
        (P(None, "d"), P("d"), {"all-to-all": Sent(1, 3 * 8 * 4)}),
    ],
    ids=str,
)
def test_a_real_program_sends_what_its_shapes_say(spec, out, expected):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
    x = jax.ShapeDtypeStruct((8, 16), np.float32, sharding=NamedSharding(mesh, spec))
    moved = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, out)).lower(x).compile()
    module = hlo.parse(moved.as_text())
    assert collectives.count(module, traffic.operations(module), 4) == expected


LAYER = Workload("small", 8, 64, 16, 32, 5, 1, 2, 1, "same", 0, "")


@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [
        ("whole", 0, 0),
        ("data", 0, 2 * 0.75 * (5 * 16 + 16 * 32 + 32)),
        ("sequence", 8 * 8 * 16, 2 * 8 * 8 * 16 + 2 * 0.75 * (5 * 16 + 16 * 32 + 32)),
        ("data+sequence", 8 * 4 * 16, 2 * 8 * 4 * 16 + 2 * 0.75 * (5 * 16 + 16 * 32 + 32)),
        ("tensor filters", 0, 2 * 0.75 * 8 * 64 * 16),
        ("tensor rows", 2 * 0.75 * 8 * 64 * 32, 2 * 0.75 * 8 * 64 * 32),
        ("fsdp", 0.75 * (80 + 512), 2 * 0.75 * (80 + 512 + 32)),
    ],
)
def test_the_fewest_bytes(name, forward, backward):
    for program, elements in (("forward", forward), ("forward_backward", backward)):
        assert divisions.fewest(LAYER, name, 4, program, 4) == 4 * elements


def test_a_layer_is_divided_where_all_get_equally_much():
    assert cpu.ways(LAYER, 1) == ["whole"]
    assert cpu.ways(LAYER, 2) == ["data", "sequence", "tensor filters", "tensor rows", "fsdp"]
    assert cpu.ways(LAYER, 4) == list(divisions.DIVISIONS)
    assert cpu.ways(LAYER._replace(batch=1, channels=6), 4) == ["sequence", "tensor filters"]


def test_a_network_needs_its_halos_and_its_gradients():
    small = QuartzNet(batch=2, length=64, filters=(8,), kernel_sizes=(5,), repeats=2)
    gradients = 2 * 0.75 * 2 * 1000
    assert network.fewest(small, "data", 4, 1000, 2) == gradients
    assert network.fewest(small, "fsdp", 4, 1000, 2) == gradients
    assert network.fewest(small, "tensor", 4, 1000, 2) is None
    halos = 64 * 31 + 2 * 8 * 8 + 8 * 2 * 172
    assert network.fewest(small, "sequence", 4, 1000, 2) == gradients + 2 * 2 * halos


@pytest.mark.skipif(teams.cores() < 2, reason="two processes want two cores")
def test_the_command_measures_and_checks(tmp_path, monkeypatch, capsys):
    """Two devices and two processes: right numbers, counted alike; the check is what rows say."""
    monkeypatch.setattr(cpu, "LAYERS", (LAYER,))
    monkeypatch.setattr(cpu, "COUNTED", ())
    monkeypatch.setattr(
        cpu, "DIVISIONS", {name: divisions.DIVISIONS[name] for name in ("data", "sequence")}
    )
    monkeypatch.setattr(cpu, "CANDIDATES", ("explicit", "selected"))
    monkeypatch.setattr(suite, "ALLOWED", 0.5)
    with pytest.raises(SystemExit, match="1"):
        main(["scaling", "--seconds", "0.001", "--check", "--output", str(tmp_path)])
    record = json.loads((tmp_path / "scaling_cpu.json").read_text())
    assert record["complete"]
    rows = {
        (row["kind"], row["number"], row["division"], row["program"]): row["candidates"]
        for row in record["rows"]
    }
    assert {key[:2] for key in rows} == {
        (kind, number) for kind in ("devices", "processes") for number in (1, 2)
    }
    for (kind, number, division, program), found in rows.items():
        if number == 1:
            assert all(facts["bytes"] == 0 for facts in found.values())
        if kind == "processes":
            same = rows["devices", number, division, program]
            assert {name: facts["sent"] for name, facts in found.items()} == {
                name: facts["sent"] for name, facts in same.items()
            }
        assert all(facts["times_faster_than_one"] > 0 for facts in found.values())
    weights = 4 * (5 * 16 + 16 * 32 + 32)
    summed = {"all-reduce": {"number": 1, "bytes": weights}}
    for facts in rows["devices", 2, "data", "forward_backward"].values():
        assert facts["sent"] == summed
    assert (tmp_path / "scaling_cpu.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "2 processes" in said
    assert "over 0.5 times the fewest bytes" in said


def test_wrong_numbers_end_the_run():
    class Wrong:
        def add(self, workload, division, names):
            return {f"{division}/{name}/forward": {} for name in names}

        def numbers(self, program):
            return {"y": np.ones((8, 64, 32)) * 1.01}

    right = {"y": np.ones((8, 64, 32))}
    with pytest.raises(SystemExit, match="2 devices: small data/explicit/forward: y is off by"):
        cpu.build(Wrong(), teams.Setting("devices", 2), LAYER, right)


def made(division, shape, kind, number, program, facts):
    return {
        "workload": shape,
        "shape": shape,
        "kind": kind,
        "number": number,
        "division": division,
        "program": program,
        "fewest_bytes": 100.0,
        "candidates": {name: dict(facts) for name in cpu.CANDIDATES},
    }


def test_the_picture_shows_every_row(drawn):
    shapes = {"B16 L512 C128->256 K15 S1 D1 M1 same": list(divisions.DIVISIONS)}
    shapes["B1 L131072 C64->64 K31 S1 D1 M1 causal"] = ["sequence"]
    rows = [
        made(division, shape, kind, number, program, {"bytes": 110, "times_faster_than_one": 1.5})
        for shape, names in shapes.items()
        for division in names
        for program in ("forward", "forward_backward")
        for kind, number in (("devices", 8), ("processes", 2))
        if (number, division) != (2, "data+sequence")
    ]
    for place, factor in ((0, 0), (3, 9)):
        rows[place]["candidates"]["stock"]["bytes"] *= factor
    rows[0]["fewest_bytes"] = 0.0
    record = {"rows": rows, "processor": "made", "cores": 2, "date": "2000-01-01"}
    picture.draw(record | {"versions": {"jax": "0"}}, "never.png")
    ((figure, texts),) = drawn
    check(figure, texts)
    forward, backward, times = figure.axes
    assert [len(points(axes)) for axes in (forward, backward, times)] == [30, 35, 30]
    assert all(apart(points(axes)) > 5 for axes in (forward, backward, times))
    assert [text.get_text() for text in times.texts] == ["not timed"]
    assert "nothing due, but sent" in [text.get_text() for text in forward.texts]


class FakeWorker(Worker):
    """Answers at once, and once does not."""

    def __init__(self, name, environment, patience):
        self.name, self.patience = name, patience

    def call(self, task, name, folder, described, dtype, candidate, division):
        assert (task, dtype) == ("benchmarks.scaling.network:measure", "bfloat16")
        assert (described.repeats, described.batch) == (2, suite.NETWORK.batch)
        if (candidate, division) == ("stock", "tensor"):
            raise NoAnswerError("late", "no answer within 3 s")
        if (candidate, division) == ("ours", "sequence"):
            raise Declined("it has no text")
        return {
            "roof_microseconds": 2.0,
            "link_microseconds": 1.0,
            "temporary_bytes": 2**20,
            "sent": {"all-reduce": {"number": 3, "bytes": 3000}},
            "sent_bytes": 3000,
            "fewest_bytes": None if division == "tensor" else 2000.0,
            "compile_seconds": 1.0,
        }

    def stop(self):
        pass


def test_steps_are_compiled_for_slices(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(suite, "Worker", FakeWorker)
    monkeypatch.setattr(suite.machine, "present", lambda named: (list(named), {}))
    monkeypatch.setattr(suite.machine, "facts", lambda *packages: {"versions": packages})
    main(["scaling", "--targets", "v5p,v5e", "--repeats", "2", "--output", str(tmp_path)])
    record = json.loads((tmp_path / "scaling_v5e.json").read_text())
    assert (record["network"], record["title"]) == ("QuartzNet-5x2", "TPU v5e, 2x4")
    assert record["compiled, not run"] is True
    rows = {row["division"]: row["candidates"] for row in record["rows"]}
    assert list(rows) == ["data", "fsdp", "tensor", "sequence"]
    assert rows["sequence"]["ours"] == {"declined": "it has no text"}
    assert rows["tensor"]["stock"] == {"declined": "no answer within 3 s"}
    said = capsys.readouterr().out
    assert "v5p data: ours" in said
    assert "1.50" in said
    assert "3 all-reduce" in said


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--targets", "v9"], "--targets: must be of cpu, v5e, v5p, got v9"),
        (["--seconds", "0"], "--seconds: must be positive, got 0"),
        (["--repeats", "0"], "--repeats: must be positive, got 0"),
        (["--patience", "0"], "--patience: must be positive, got 0"),
        (["--check", "--targets", "v5e"], "--check: --targets must have cpu"),
        (["--output", os.devnull], "--output: "),
    ],
)
def test_unusable_flags_end_the_command(argv, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["scaling", *argv])
    assert message in capsys.readouterr().err
