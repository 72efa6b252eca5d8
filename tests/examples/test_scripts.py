"""The scripts of examples/tasks/ run, compute what they claim, and print what their pages show."""

import re
import subprocess
import sys

import pytest

from examples.tasks import (
    eeg_constraints,
    eight_devices,
    from_keras,
    keyword_spotting,
    quantized,
    streaming,
)
from tests import peers, processes


def forms(text):
    """Return the lines of a text without their numbers and spaces."""
    return {
        re.sub(r"[-+]?\d[\d.]*(e[-+]\d+)?", "#", " ".join(s.split())) for s in text.splitlines()
    }


def shown(script):
    """Return the output that a script's docstring shows."""
    _, told = script.__doc__.split("A real run:")
    return forms(told) - {""}


def test_keyword_spotting(capsys):
    accuracy = keyword_spotting.main(train=500, test=60, epochs=6)
    printed = capsys.readouterr().out
    assert accuracy > 0.3  # chance is 1/6
    assert f"accuracy on 60 other words: {accuracy:.3f}" in printed
    assert float(re.search(r"alone: logits differ by (\S+)", printed)[1]) < 1e-5
    assert forms(printed) == shown(keyword_spotting)


def test_eeg_constraints(capsys):
    results = eeg_constraints.main(seeds=2, count=40, test=20, epochs=8)
    (_, bounded), (_, free) = results[True], results[False]
    assert max(bounded.values()) <= eeg_constraints.BOUND * (1 + 1e-6)
    assert max(free.values()) > eeg_constraints.BOUND * 1.05
    assert forms(capsys.readouterr().out) == shown(eeg_constraints)


def test_streaming(capsys):
    apart = streaming.main(seconds=0.6, chunks=(1, 12))
    assert set(apart) == {1, 12}
    assert max(apart.values()) < 1e-5
    assert forms(capsys.readouterr().out) == shown(streaming)


def test_quantized(capsys):
    found = quantized.main(train=500, test=200, epochs=12)
    assert min(found.values()) > 0.3  # chance is 1/6
    assert max(found.values()) - min(found.values()) < 0.15
    printed = capsys.readouterr().out
    real, whole = map(
        int, re.search(r"file: (\d+) bytes in float32, (\d+) in int8", printed).groups()
    )
    assert whole < 0.6 * real
    assert forms(printed) == shown(quantized)


# Of Keras, which NumPy 2 warns of.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_from_keras(capsys):
    peers.keras()
    apart = from_keras.main(steps=30)
    assert set(apart) == {"first", "second", "third"}
    assert max(apart.values()) < 1e-5
    assert forms(capsys.readouterr().out) == shown(from_keras)


def test_from_keras_says_that_keras_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(SystemExit, match="needs Keras 3: pip install keras"):
        from_keras.main()


def test_eight_devices():
    """By its path, in a process of its own, which sets how many devices there are."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", eight_devices.__file__],
        env=processes.environment(1),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    apart = re.findall(r"apart by (\S+);", ran.stdout)
    assert len(apart) == 3
    assert max(map(float, apart)) < 1e-5
    losses = re.findall(r"loss (\S+) to (\S+),", ran.stdout)
    assert all(float(last) < 0.9 * float(first) for first, last in losses)
    one, batch, steps = re.findall(r"a step sends (.*)", ran.stdout)
    assert (one, batch) == ("nothing", "1 all-reduce")
    assert "collective-permute" in steps
    assert forms(ran.stdout) == shown(eight_devices)


def test_eight_devices_says_that_there_are_others():
    with pytest.raises(SystemExit, match="needs 8 devices, there are 4"):
        eight_devices.main()
