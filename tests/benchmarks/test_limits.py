"""The benchmark of limits: what is expected, what is written, what is refused."""

import json

import numpy as np
import pytest

from benchmarks import limits
from benchmarks.case import Case
from benchmarks.workloads import Workload
from tests import oracle

TINY = Workload("tiny", 3, 150, 4, 5, 3, 1, 1, 2, "same", 3, "no network")


def test_every_segment_is_expected_as_if_it_were_alone():
    operands = Case(TINY).operands()
    ids = limits.ids_of(TINY)
    assert np.unique(ids).tolist() == [0, 1, 2]
    expected = limits.expected(TINY, "segments", operands)
    for number in range(3):
        own = ids[0] == number
        alone = oracle.depthwise(operands.x[:, own], operands.depthwise_kernel, 1, 1, "same")
        np.testing.assert_allclose(expected[:, own], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("allowed", [1e9, 0.0])
def test_results_are_written_and_checked(allowed, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(limits.flags, "chosen", lambda *_: [TINY])
    monkeypatch.setattr(limits, "ALLOWED", dict.fromkeys(limits.ALLOWED, allowed))
    file = tmp_path / "limits.json"
    given = ["--seconds=1e-3", f"--output={file}", "--check"]
    if allowed:
        limits.main(given)
    else:
        with pytest.raises(SystemExit, match="1"):
            limits.main(given)
    record = json.loads(file.read_text())
    assert record["complete"]
    assert [row["limits"] for row in record["rows"]] == list(limits.ALLOWED)
    for row in record["rows"]:
        ratio = row["limited"]["milliseconds"] / row["whole"]["milliseconds"]
        assert row["limited_over_whole"] == pytest.approx(ratio)
    assert "segments" in capsys.readouterr().out


def test_wrong_numbers_end_the_run(monkeypatch):
    right = limits.expected

    def wrong(*arguments):
        return right(*arguments) + 1

    monkeypatch.setattr(limits, "expected", wrong)
    with pytest.raises(SystemExit, match="tiny: layer: y is off by"):
        limits.measure(TINY, "layer", 1e-3)
