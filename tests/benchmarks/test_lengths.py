"""The benchmark of ragged batches: what is expected, what is refused, what is written."""

import json

import numpy as np
import pytest

from benchmarks import lengths
from benchmarks.case import Case
from benchmarks.worker import Worker
from benchmarks.workloads import Workload
from tests import oracle

TINY = Workload("tiny", 3, 10, 4, 5, 3, 2, 1, 2, "same", 3, "no network")


def test_lengths_are_between_half_and_all_and_one_is_all():
    drawn = lengths.lengths_of(TINY._replace(batch=100))
    assert drawn.dtype == np.int32
    assert drawn[0] == 10
    assert (drawn.min(), drawn.max()) == (5, 10)


def test_expected_rows_are_the_oracle_of_each_sequence():
    x, depthwise, pointwise, bias, _ = Case(TINY).operands()
    y = lengths.expected(TINY)["y"]
    for row, length in enumerate(lengths.lengths_of(TINY)):
        alone = oracle.separable(
            x[row : row + 1, :length], depthwise, pointwise, bias, 2, 1, "same"
        )
        steps = alone.shape[1]
        np.testing.assert_allclose(y[row, :steps], alone[0], rtol=1e-9, atol=1e-9)
        assert not y[row, steps:].any()


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Measure one small layer; return the flags, and the file that is written."""
    monkeypatch.setattr(lengths.flags, "chosen", lambda *_: [TINY])
    file = tmp_path / "lengths.json"
    return ["--seconds=1e-3", f"--output={file}"], file


@pytest.mark.parametrize("allowed", [1e9, 0.0])
def test_results_are_written_and_checked(allowed, tiny, monkeypatch, capsys):
    monkeypatch.setattr(lengths, "ALLOWED", allowed)
    given, file = tiny
    if allowed:
        lengths.main([*given, "--check"])
    else:
        with pytest.raises(SystemExit, match="1"):
            lengths.main([*given, "--check"])
    record = json.loads(file.read_text())
    (row,) = record["rows"]
    assert record["complete"]
    assert row["valid"] == pytest.approx(lengths.lengths_of(TINY).mean() / 10)
    for name, ratio in row["masked_over_unmasked"].items():
        times = [row["programs"][n]["milliseconds"] for n in (f"masked {name}", name)]
        assert ratio == pytest.approx(times[0] / times[1])
    assert str(TINY) in capsys.readouterr().out


def test_a_call_that_is_off_is_not_timed(monkeypatch):
    right = lengths.expected(TINY)
    right["dx"][0, 0, 0] += 1
    monkeypatch.setattr(lengths, "expected", lambda workload: right)
    with Worker("ours") as worker, pytest.raises(SystemExit, match=r"tiny: masked .*backward: dx"):
        lengths.measure(TINY, worker, 1e-3)


def test_an_interrupted_run_keeps_its_rows(tiny, monkeypatch):
    given, file = tiny
    monkeypatch.setattr(lengths.flags, "chosen", lambda *_: [TINY, TINY])
    whole, calls = lengths.measure, []

    def measure(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(lengths, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        lengths.main(given)
    record = json.loads(file.read_text())
    assert len(record["rows"]) == 1
    assert not record["complete"]
