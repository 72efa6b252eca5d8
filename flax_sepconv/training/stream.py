"""Answers about series that come line by line, after each step that has come."""

import codecs
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from flax_sepconv.training.config import UserError
from flax_sepconv.training.model import SeparableResNet
from flax_sepconv.training.tasks import TASKS
from flax_sepconv.training.weights import read_weights
from flax_sepconv.training.workdir import Record, read_record

_LONGEST = 2**20  # bytes of a line: tens of thousands of channels

# From a cache and a step (1, 1, C) to the cache behind it and the answers (classes,), as `Task`.
_Step = Callable[[Any, np.ndarray], tuple[Any, jax.Array]]


def _check_causal(workdir: Path, record: Record) -> None:
    reason = ""
    if record.config.model.padding != "causal":
        reason = f"config.model.padding is {record.config.model.padding!r}, not 'causal'"
    elif not record.classes:
        reason = "it was recorded by a version that did not note the data's scaling; train it again"
    elif record.scaling is None:
        reason = "config.data.standardize is 'series', which needs the whole series"
    if reason:
        raise UserError(f"{workdir} cannot be streamed: {reason}")


def _network(workdir: Path, kind: str, record: Record, channels: int) -> tuple[_Step, Any]:
    """Return the compiled function of a step, and the cache of a series that has not begun."""
    model = SeparableResNet(len(record.classes), record.config.model, decode=True)
    example = jnp.zeros((1, 1, channels))
    shapes = dict(jax.eval_shape(model.init, jax.random.key(0), example))
    fresh = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.pop("cache"))
    weights = read_weights(workdir, kind, shapes)
    answers = TASKS[record.config.data.task].answers

    @jax.jit
    def step(cache: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        logits, changed = model.apply(weights | {"cache": cache}, x, mutable=["cache"])
        return changed["cache"], jnp.atleast_1d(answers(logits[0]))

    return step.lower(fresh, example).compile(), fresh


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Iterate over the lines of a stream as they come, without its byte order mark."""
    for number in itertools.count(1):
        try:
            line = stream.readline(_LONGEST + 1)
        except OSError as error:
            raise UserError(f"cannot read stdin: {error.strerror or error}") from error
        if not line:
            return
        if len(line) > _LONGEST:
            raise UserError(f"line {number} is longer than {_LONGEST} bytes")
        yield line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def _values(line: bytes, place: str, channels: int) -> np.ndarray | None:
    """Return the numbers of a line (C,) float64; None if it is blank."""
    text = line.decode(errors="replace").strip()
    if not text:
        return None
    words = re.split(r"\s*,\s*|\s+", text)
    if len(words) != channels:
        raise UserError(
            f"{place}: the count of numbers must be {channels}, one a channel, got {len(words)}"
        )
    values = np.empty(channels)
    for channel, word in enumerate(words):
        try:
            values[channel] = float(word)
        except ValueError:
            raise UserError(f"{place}: {word[:40]!r} is not a number") from None
        if not np.isfinite(values[channel]):
            raise UserError(f"{place}: numbers must be finite, got {word[:40]!r}")
    return values


def run(
    workdir: Path, kind: str | None, every: int, stream: BinaryIO, write: Callable[[str], None]
) -> None:
    """Print the answers after every `every` steps of each series, and at its end.

    They are the probabilities of the classes; a value; or a probability for each label.

    Args:
      workdir: of a causal run.
      kind: which weights, "last" or "best"; None: those that the run was scored with.
      every: how many steps there are between two answers.
      stream: of lines, a step each, as in the data set; a blank one ends a series.
      write: is given each line of the answers.

    Raises:
      UserError: the run will not do, or a line; or the lines cannot be read.
    """
    record = read_record(workdir)
    _check_causal(workdir, record)
    assert record.scaling is not None
    channels = len(record.scaling.mean)
    step, fresh = _network(workdir, kind or record.config.train.evaluate, record, channels)
    target_scaling = record.target_scaling

    def shown(answer: Any) -> str:
        return f"{target_scaling.undo(answer)[0]:.6g}" if target_scaling else f"{answer:.6f}"

    write("\t".join(["series", "step", *record.classes]))
    series, count, cache, answer = 1, 0, fresh, None
    # One blank line more: the end of the input ends a series too.
    for number, line in enumerate(itertools.chain(_lines(stream), [b""]), 1):
        values = _values(line, f"line {number}", channels)
        if values is not None:
            with np.errstate(over="ignore"):  # such an answer is refused below
                x = record.scaling(values).astype(np.float32)
            cache, answer = step(cache, x[None, None])
            count += 1
        if answer is not None and (values is None or count % every == 0):
            told = np.asarray(answer)
            if not np.isfinite(told).all():
                raise UserError(f"line {number}: the numbers so far are too large for the network")
            write("\t".join([str(series), str(count), *map(shown, told)]))
            answer = None
        if values is None and count:
            series, count, cache = series + 1, 0, fresh
