"""The benchmark of steps: its numbers are compared before they are timed, and its claim checked."""

import json

import numpy as np
import pytest

from benchmarks import step
from tests import oracle

TINY = step.Stream(batch=2, steps=3, channels=4, filters=5, kernel_size=6)


def test_what_is_expected_is_the_definition():
    drawn = step.operands(TINY)
    joined = np.concatenate([drawn["history"], drawn["x"]], 1)
    weights = (drawn[name] for name in ("depthwise", "pointwise", "bias"))
    np.testing.assert_allclose(step.expected(drawn), oracle.separable(joined, *weights), rtol=1e-12)


def test_a_step_that_is_off_is_not_timed(monkeypatch):
    monkeypatch.setattr(step, "expected", lambda drawn: np.ones((2, 3, 5)))
    with pytest.raises(SystemExit, match="B2 T3 C4->5 K6: step is off by"):
        step.measure(TINY, 1e-3)


@pytest.mark.parametrize("allowed", [1e9, 0.0])
def test_results_are_written_and_checked(allowed, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(step, "STREAMS", (TINY,))
    monkeypatch.setattr(step, "ALLOWED", allowed)
    path = tmp_path / "step.json"
    flags = ["--seconds", "1e-3", "--output", str(path), "--check"]
    if allowed:
        step.main(flags)
    else:
        with pytest.raises(SystemExit, match=r"over 0\.0 times its product"):
            step.main(flags)
    (row,) = json.loads(path.read_text())["rows"]
    times = {name: row[name]["milliseconds"] for name in ("product", "step", "flax")}
    assert row["step_over_product"] == pytest.approx(times["step"] / times["product"])
    assert "B2 T3 C4->5 K6" in capsys.readouterr().out
