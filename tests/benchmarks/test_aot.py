"""What is counted of compiled programs; compilers themselves are asked only where they are."""

import json
import pathlib
import tempfile
from concurrent.futures import CancelledError

import pytest

from benchmarks import candidates, workloads
from benchmarks.__main__ import main
from benchmarks.aot import bundles, compiling, report, suite
from benchmarks.aot.targets import TARGETS
from benchmarks.aot.traffic import Operation
from benchmarks.worker import Declined, Worker, WorkerError

# A grid of 6 steps and, in it, a loop over 24 rows by 8, one over a partial block, and a branch
# that skips a bundle.
LISTING = """
= control target key start
LB: loop body
= control target key end

     0   :  { %s1_s0 = inlined_call_operand.hbm [shape: f32[48,128]] } /* entry bundle: %f */
   0x1   :  { %s2_s1 = smov.u32 0 } /* Start region 3 */
   0x2 LB: > { %s9_s2 = sadd.s32 1, %s8_s2 } /* Start region 7 :: Start region 5 */
   0x3   : > { %12 = sbr.rel (%p4_p3) target = $region9 }
   0x4   : > { %v3_v0 = vld [vmem:[%s2_s1] sm:$0xff] }
   0x5 PF: > { %s11_s4 = smov.u32 0 } /* Start region 9 */
   0x6 LB: >> { %s13_s4 = sadd.s32 8, %s12_s4 } /* Start region 11 */
   0x7   : >> { %p14_p5 = scmp.gt.s32.totalorder %s13_s4, 16  ;;  %v4 = vadd.f32 %v3_v0, %v3_v0 }
   0x8   : > { %20 = sbr.rel (!%p14_p5) target = $region11 }
   0x9 LB: >> { %s23_s6 = sadd.s32 1, %s22_s6 } /* Start region 13 */
   0xa   : >> { %p24_p6 = scmp.ge.s32.totalorder %s23_s6, %s30_s7 }
   0xb   : > { %28 = sbr.rel (!%p24_p6) target = $region13 }
   0xc   : > { %p10_p7 = scmp.ge.s32.totalorder %s9_s2, 6 }
   0xd   : > { %40 = sbr.rel (!%p10_p7) target = $region7  ;;  %s41 = sadd.s32 4, %s2_s1 }
   0xe   :  {}
"""

FACTS = {
    "bytes": 200,
    "ideal_bytes": 100,
    "flops": 4000,
    "launches": 3,
    "roof_microseconds": 2.0,
    "temporary_bytes": 0,
    "compile_seconds": 0.1,
    "operations": [],
}


def test_bundles_are_counted_as_often_as_their_loops_turn():
    before_and_after = 3
    inner = 3 * 3
    assert bundles.count(LISTING) == before_and_after + 6 * (4 + inner + 3 + 2)


def test_a_listing_without_loops_counts_its_bundles():
    straight = "".join(line for line in LISTING.splitlines(True) if "sbr.rel" not in line)
    assert bundles.count(straight) == 11


def test_only_final_listings_of_operations_are_read(tmp_path):
    (tmp_path / "17-fusion.2-01-final_bundles.txt").write_text(LISTING)
    (tmp_path / "17-fusion.2-00-schedule-analysis_final_bundles.txt").write_text(LISTING)
    (tmp_path / "17-TLP-hlo.txt").write_text("HloModule m")
    assert bundles.dumped(tmp_path) == {"fusion.2": bundles.count(LISTING)}


def test_the_time_floor_is_the_longer_of_issuing_and_moving():
    operations = [
        Operation("fusion.1", "fusion", 2, 819_000, 819_000),  # 2 us of traffic
        Operation("fusion.2", "fusion", 1, 819, 0),
        Operation("copy-start", "copy-start", 1, 0, 8190),
    ]
    sums = compiling.sums("v5e", operations, {"fusion.1": 4500, "fusion.2": 1500})
    assert sums["roof_microseconds"] == pytest.approx(2 * 3.0 + 1.0 + 0.01)
    assert sums["bytes"] == 2 * 1_638_000 + 819 + 8190
    assert sums["launches"] == 4
    assert [row[0] for row in sums["operations"]] == ["fusion.1", "fusion.2", "copy-start"]
    on_gpu = compiling.sums("h100", operations, {})
    assert on_gpu["roof_microseconds"] == pytest.approx(1e-3 * sums["bytes"] / 3352)


def test_the_suite_names_workloads_that_exist():
    table = {workload.name: workload for workload in workloads.load()}
    assert all(table[name].filters for name in candidates.SUITE)
    few = [name for name in candidates.SUITE if table[name].kernel_size <= 5]
    assert len(few) >= 6
    assert {table[name].strides for name in candidates.SUITE} >= {1, 2}
    assert {table[name].depth_multiplier for name in candidates.SUITE} >= {1, 2}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--targets v9", "--targets: must be of v4, v5e, v5p, v6e, h100, got v9"),
        ("--filter nothing", "--filter: no workload's name contains 'nothing'"),
        ("--filter flashfft-0", "--filter: 'flashfft-0' finds only layers without a pointwise"),
        ("--candidates best", "--candidates: must be of selected, stock, grouped_conv"),
        ("--dtypes int8", "--dtypes: must be of bfloat16, float32, got int8"),
        ("--programs backward", "--programs: must be of forward, forward_backward, got backward"),
        ("--jobs 0", "--jobs: must be positive, got 0"),
        ("--patience 0", "--patience: must be positive, got 0"),
        ("--output {file}/folder", "--output: "),
    ],
)
def test_unusable_flags_end_in_one_line(flags, message, tmp_path, capsys, installed):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit) as end:
        main(["aot", *flags.format(file=file).split()])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_compiler_that_is_not_installed_is_named(monkeypatch, capsys):
    monkeypatch.setattr(
        suite.machine, "present", lambda named: ([], dict.fromkeys(named, "it is not installed"))
    )
    with pytest.raises(SystemExit) as end:
        main(["aot", "--targets", "v5e"])
    assert end.value.code == 2
    assert "v5e: it is not installed (pip install" in capsys.readouterr().err


@pytest.fixture
def installed(monkeypatch):
    """Take every compiler to be there."""
    monkeypatch.setattr(suite.machine, "present", lambda named: (list(named), {}))
    versions = {"versions": {"jax": "0"}, "date": "2000-01-01"}
    monkeypatch.setattr(suite.machine, "facts", lambda *packages: versions)


class FakeWorker(Worker):
    """Answers at once, and is interrupted at its last workload."""

    def __init__(self, name, environment):
        self.name, self.asked = name, 0
        assert "topology" not in environment

    def call(self, task, target, folder, workload, dtype, candidate, program, patience):
        assert task == "benchmarks.aot.compiling:measure"
        if workload.name == "shape_c-0" and candidate == "stock":
            raise TimeoutError
        assert target == self.name
        if candidate == "shifted_sum":
            raise Declined("too large")
        if workload.name == "shape_s-0":
            raise KeyboardInterrupt
        share = 0.5 if candidate == "selected" else 1
        return FACTS | {key: FACTS[key] * share for key in ("bytes", "roof_microseconds")}

    def stop(self):
        pass


def test_an_interrupted_run_keeps_its_rows(monkeypatch, tmp_path, capsys, installed):
    monkeypatch.setattr(suite, "Worker", FakeWorker)
    flags = ["--targets", "v5e,h100", "--filter", "shape_", "--output", str(tmp_path), "--jobs=1"]
    with pytest.raises(KeyboardInterrupt):
        main(["aot", *flags])
    record = json.loads((tmp_path / "v5e.json").read_text())
    assert record["compiled, not run"] is True
    shapes = {row["workload"] for row in record["rows"]}
    assert {"shape_b-0", "shape_c-0", "shape_d-0"} <= shapes
    assert "shape_s-0" not in shapes
    assert record["rows"][0]["candidates"]["shifted_sum"] == {"declined": "too large"}
    assert report.ratio(record["rows"][0], "bytes") == 0.5
    late = [row for row in record["rows"] if row["workload"] == "shape_c-0"]
    assert late[0]["candidates"]["stock"] == {"declined": "not compiled within 600 s"}
    assert report.ratio(late[0], "bytes") is None
    assert (tmp_path / "v5e.png").stat().st_size > 10_000
    assert "2.00 x ideal bytes" in capsys.readouterr().out


def test_nothing_is_opened_after_the_end(tmp_path):
    """A thread that comes late neither starts a worker nor leaves a folder behind."""
    opened = suite.Opened()
    folder = pathlib.Path(opened.enter(tempfile.TemporaryDirectory, None, None, tmp_path))
    assert folder.exists()
    opened.close()
    assert not folder.exists()
    with pytest.raises(CancelledError):
        opened.enter(tempfile.TemporaryDirectory, None, None, tmp_path)
    assert not list(tmp_path.iterdir())


def test_results_are_written_whole(tmp_path):
    path = tmp_path / "results.json"
    suite.machine.save(path, {"a": 1})
    with pytest.raises(TypeError):
        suite.machine.save(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


@pytest.mark.usefixtures("other_compilers")
@pytest.mark.parametrize("target", TARGETS)
def test_compiling(target, tmp_path):
    """With the target's own compiler, where it is installed."""
    _, absent = suite.machine.present({target: TARGETS[target]})
    if absent:
        pytest.skip(absent[target])
    workload = next(w for w in workloads.load() if w.name == "eegnet_sep-0")
    with Worker(target, TARGETS[target].environment(tmp_path / "listings")) as worker:

        def compiled(candidate, program):
            return worker.call(
                "benchmarks.aot.compiling:measure",
                *(target, pathlib.Path(tmp_path / "listings"), workload, "float32"),
                *(candidate, program),
            )

        forward = compiled("selected", "forward")
        assert 1 <= forward["bytes"] / forward["ideal_bytes"] < 20
        assert forward["launches"] >= 1
        assert compiled("stock", "forward_backward")["bytes"] > forward["bytes"]
        with pytest.raises(WorkerError):
            compiled("best", "forward")
