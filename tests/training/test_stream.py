"""Series that come step by step: the network's memory, and the command that reads lines."""

import functools
import pathlib
import re
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from flax_sepconv.training import data
from flax_sepconv.training import stream as training_stream
from flax_sepconv.training.config import DataConfig, ModelConfig
from flax_sepconv.training.model import SeparableResNet
from flax_sepconv.training.running import RunningSummary
from flax_sepconv.training.workdir import read_record
from tests.training_runs import random_like, stream

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

CLASSES = ["standing", "running", "walking", "badminton"]


@pytest.mark.parametrize(
    "settings",
    [
        {"pool": 1, "blocks": 1},
        {"pool": 2, "blocks": 2},
        {"pool": 3, "blocks": 3},
        {"pool": 1, "blocks": 3, "dilation": 2, "differences": True, "summary": "mean"},
        {"pool": 1, "blocks": 1, "fixed_filters": 2, "differences": True, "detail_gain": 4.0},
        {"pool": 2, "blocks": 2, "differences": True, "stem_kernel_size": 9, "stem_branches": 3},
    ],
)
def test_after_every_step_it_answers_as_for_a_series_that_ends_there(settings):
    B, L, C = 2, 19, 4  # two full windows of windows of three, and a start of a third
    config = ModelConfig(**{"width": 16, "kernel_size": 3, "padding": "causal"} | settings)
    model = SeparableResNet(3, config)
    x = np.random.default_rng(0).normal(size=(B, L, C)).astype(np.float32)
    streamed = model.clone(decode=True)
    shapes = dict(jax.eval_shape(streamed.init, jax.random.key(0), x[:, :1]))
    first = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.pop("cache"))
    variables = random_like(shapes, 1)
    offline = jax.jit(model.apply)
    wanted = np.stack([offline(variables, x, np.full(B, n)) for n in range(1, L + 1)])
    step = functools.partial(streamed.apply, mutable=["cache"])

    def advance(cache, x):
        logits, changed = step(variables | {"cache": cache}, x[:, None])
        return changed["cache"], logits

    _, got = jax.jit(lambda x: jax.lax.scan(advance, first, x.swapaxes(0, 1)))(x)
    assert np.mean(np.abs(np.diff(wanted, axis=0)).max(-1) > 1e-3) > 0.8  # steps matter
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_the_mean_of_a_long_stream_does_not_drift():
    """Without what rounding took, it is 2e-4 off after so many steps."""
    n, value = 1_000_000, np.float32(0.1)
    summary = RunningSummary()

    def advance(cache, _):
        features, changed = summary.apply(
            {"cache": cache}, jnp.full((1, 1, 1), value), jnp.array(True), mutable=["cache"]
        )
        return changed["cache"], features[0, 0]

    first = summary.init(jax.random.key(0), jnp.ones((1, 1, 1)), jnp.array(True))["cache"]
    last, _ = jax.jit(lambda c: jax.lax.scan(advance, c, length=n))(first)
    np.testing.assert_allclose(last["total"][0, 0] / n, value, rtol=1e-6)
    assert int(last["count"]) == n


@pytest.mark.parametrize(
    ("decode", "steps", "lengths"), [(False, 3, None), (True, 3, None), (True, 1, [1])]
)
def test_a_call_of_the_other_mode_is_refused(decode, steps, lengths):
    config = ModelConfig(width=5, blocks=1, padding="causal")
    model = SeparableResNet(3, config, decode=decode)
    with pytest.raises(ValueError, match="one step and no lengths"):
        model.init(jax.random.key(0), jnp.ones((1, steps, 2)), lengths)


@functools.cache
def network(workdir, kind):
    """Compile what the command compiles, once for all tests."""
    return make_network(workdir, kind, read_record(workdir), 6)


make_network = training_stream._network


@pytest.fixture
def compiled_once(monkeypatch):
    monkeypatch.setattr(
        training_stream, "_network", lambda workdir, kind, *_: network(workdir, kind)
    )


@pytest.fixture(scope="module")
def series():
    """Return two series of six channels as the file of the data set has them."""
    raw, _ = data.load(DataConfig(name="BasicMotions", standardize="none"))
    return raw.inputs[0, :14].astype(np.float64), raw.inputs[30, 5:12].astype(np.float64)


def text(series, separator=" "):
    return "".join(separator.join(map(repr, row)) + "\n" for row in series.tolist())


def table(out):
    header, *rows = (line.split("\t") for line in out.splitlines())
    return header, np.array(rows, float).reshape(-1, len(header))


@functools.cache
def offline(workdir, kind):
    """Return a function from a series as it is to its probabilities, by other ways than ours."""
    (step,) = (p for p in (workdir / "checkpoints" / kind).iterdir() if p.name.isdigit())
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(step / "default")
    weights = tree if kind == "best" else tree["averaged"]
    config = read_record(workdir).config
    train, _ = data.load(DataConfig(name="BasicMotions", standardize="none"))
    points = train.inputs.reshape(-1, 6).astype(np.float64)  # all of one length
    apply = jax.jit(SeparableResNet(4, config.model).apply)

    def probabilities(series):
        x = (series - points.mean(0)) / points.std(0)
        padded = np.full((1, 20, 6), np.nan, np.float32)
        padded[0, : len(x)] = x
        return jax.nn.softmax(apply(weights, padded, np.array([len(x)])))[0]

    return probabilities


@pytest.mark.parametrize(("kind", "separator"), [("last", " "), ("best", ","), ("last", " ,\t")])
def test_lines_are_answered_as_the_series_so_far(run, series, monkeypatch, capsys, kind, separator):
    lines = text(series[0], separator) + "\n \n" + text(series[1], separator).rstrip("\n")
    status, out, err = stream(monkeypatch, capsys, run, lines, f"--checkpoint={kind}")
    assert (status, err) == (0, "")
    header, rows = table(out)
    assert header == ["series", "step", *CLASSES]
    counted = [(s, n) for s in (1, 2) for n in range(1, len(series[s - 1]) + 1)]
    assert [(row[0], row[1]) for row in rows] == counted
    wanted = [offline(run, kind)(series[s - 1][:n]) for s, n in counted]
    np.testing.assert_allclose(rows[:, 2:], wanted, atol=2e-6)
    assert np.ptp(rows[:, 2:], axis=0).max() > 0.05  # the steps matter


def test_every_few_steps_and_at_the_end_of_a_series(
    compiled_once, run, series, monkeypatch, capsys
):
    lines = "\n\n" + text(series[0]) + "\n\n\n" + text(series[1]) + "\n"
    _, out, _ = stream(monkeypatch, capsys, run, lines)
    _, sparse, _ = stream(monkeypatch, capsys, run, lines, "--every=7")
    (header, rows), (sparse_header, sparse_rows) = table(out), table(sparse)
    assert sparse_header == header
    assert sparse_rows[:, :2].tolist() == [[1, 7], [1, 14], [2, 7]]
    _, sparse, _ = stream(monkeypatch, capsys, run, lines, "--every=5", "--checkpoint=last")
    wanted = [row for row in rows.tolist() if row[:2] in ([1, 5], [1, 10], [1, 14], [2, 5], [2, 7])]
    assert table(sparse)[1].tolist() == wanted  # `last` is what this run was scored with


def test_no_lines_no_answers(compiled_once, run, monkeypatch, capsys):
    status, out, err = stream(monkeypatch, capsys, run, "\n\n")
    assert (status, len(out.splitlines()), err) == (0, 1, "")


LINES = {
    "too few": ("1 2 3 4 5", "line 3: the count of numbers must be 6, one a channel, got 5"),
    "too many": ("1,2,3,4,5,6,", "got 7"),
    "a word": ("1 2 3 x 5 6", "line 3: 'x' is not a number"),
    "one left out": ("1,2,,4,5,6", "line 3: '' is not a number"),
    "NaN": ("1 2 3 4 nan 6", "line 3: numbers must be finite, got 'nan'"),
    "infinite": ("1 2 3 4 5 1e999", "line 3: numbers must be finite, got '1e999'"),
    "too large": ("1 2 3 4 5 1e99", "line 3: the numbers so far are too large"),
    "no text": (b"\xff\x00 2 3 4 5 6", "line 3: "),
}


@pytest.mark.parametrize("case", LINES)
def test_a_bad_line_is_named_after_the_answers_to_those_before(
    compiled_once, case, run, monkeypatch, capsys
):
    line, words = LINES[case]
    line = line.encode() if isinstance(line, str) else line
    good = b"1 2 3 4 5 6\n"
    status, out, err = stream(monkeypatch, capsys, run, good + b"\n" + line + b"\n" + good)
    assert status == 2
    assert len(out.splitlines()) == 2
    assert err.startswith("error: " + words) or (err.startswith("error: ") and words in err)
    assert len(err.splitlines()) == 1


def test_answers_come_at_once_and_control_c_ends_it(run):
    line = [sys.executable, "-m", "flax_sepconv.training", "stream", f"--workdir={run}"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    # A shell may have started us with "&", which lets its children ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(line, text=True, bufsize=1, **pipes)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stdout.readline().startswith("series\tstep\t")
        for n in (1, 2):
            process.stdin.write("1 2 3 4 5 6\n")
            assert process.stdout.readline().startswith(f"1\t{n}\t")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stdout.read() == ""
        assert process.stderr.read() == "interrupted\n"


def test_a_reader_that_has_gone_is_no_error(run):
    line = [sys.executable, "-m", "flax_sepconv.training", "stream", f"--workdir={run}"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(line, **pipes) as process:
        assert process.stdout.readline().startswith(b"series\tstep\t")
        process.stdout.close()
        process.stdin.write(b"1 2 3 4 5 6\n")
        process.stdin.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""


def test_the_utterances_of_the_guide(tmp_path):
    page = (pathlib.Path(__file__).parents[2] / "docs" / "guides" / "training.md").read_text()
    (program,) = re.findall(r"python - > runs/utterances.txt <<END\n(.*?)END\n", page, re.DOTALL)
    written = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    ).stdout
    _, test = data.load(DataConfig(name="JapaneseVowels", standardize="none"))
    series = written.removesuffix("\n\n").split("\n\n")
    for lines, values, length in zip(series, test.inputs, test.lengths, strict=True):
        read = [training_stream._values(line.encode(), "", 12) for line in lines.split("\n")]
        np.testing.assert_array_equal(np.float32(read), values[:length])
