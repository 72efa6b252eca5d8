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


def test_a_product_that_is_off_is_not_timed(monkeypatch):
    monkeypatch.setattr(step, "product", lambda x, state, depthwise, pointwise, bias: x @ pointwise)
    with pytest.raises(SystemExit, match="B2 T3 C4->5 K6: product is off by"):
        step.measure(TINY, 1e-3)


@pytest.mark.parametrize(("product", "floor"), [(6.0, 6.0), (9.0, 7.0)])
def test_the_floor_is_the_lesser_of_two_products_with_the_call_around_them(
    product, floor, monkeypatch
):
    times = {"dispatch": 3.0, "numpy": 4.0, "product": product, "step": 10.0, "flax": 20.0}
    samples = {name: [1e-6 * value] for name, value in times.items()}
    monkeypatch.setattr(step.timing, "interleaved", lambda clocks, seconds: samples)
    row = step.measure(TINY, 1.0)
    assert row["step_over_floor"] == pytest.approx(10 / floor)
    assert row["step_over_product"] == pytest.approx(10 / product)
    assert row["flax_over_step"] == pytest.approx(2)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Measure small streams; return the flags, and the file that is written."""
    monkeypatch.setattr(step, "STREAMS", (TINY, TINY._replace(batch=1)))
    file = tmp_path / "step.json"
    return ["--seconds=1e-3", f"--output={file}"], file


@pytest.mark.parametrize("allowed", [1e9, 0.0])
def test_results_are_written_and_checked(allowed, tiny, monkeypatch, capsys):
    monkeypatch.setattr(step, "ALLOWED", allowed)
    flags, file = tiny
    if allowed:
        step.main([*flags, "--check"])
    else:
        with pytest.raises(SystemExit, match=r"over 0\.0 times its floor"):
            step.main([*flags, "--check"])
    record = json.loads(file.read_text())
    assert record["complete"]
    assert len(record["rows"]) == 2
    assert all(record["rows"][0][name]["milliseconds"] > 0 for name in step.NAMES)
    assert "B2 T3 C4->5 K6" in capsys.readouterr().out


@pytest.mark.parametrize("problem", [KeyboardInterrupt, SystemExit("step is off by 1")])
def test_what_was_measured_before_an_end_is_kept(problem, tiny, monkeypatch):
    flags, file = tiny
    whole = step.measure

    def measure(stream, seconds):
        if stream.batch == 1:
            raise problem
        return whole(stream, seconds)

    monkeypatch.setattr(step, "measure", measure)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        step.main(flags)
    record = json.loads(file.read_text())
    assert len(record["rows"]) == 1
    assert not record["complete"]


def test_help_keeps_its_paragraphs(capsys):
    with pytest.raises(SystemExit, match="0"):
        step.main(["--help"])
    assert step.__doc__ in capsys.readouterr().out
