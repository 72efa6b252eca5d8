"""Class probabilities of series that come line by line, after each step that has come."""

import itertools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import numpy as np

from flax_sepconv.training.checkpoint import read_weights
from flax_sepconv.training.config import UserError
from flax_sepconv.training.model import SeparableResNet
from flax_sepconv.training.workdir import Record, read_record

# From a cache and a step (1, 1, C) to the cache behind it and the probabilities (classes,).
_Step = Callable[[Any, np.ndarray], tuple[Any, jax.Array]]


def _check_causal(workdir: Path, record: Record) -> None:
    reason = ""
    if record.config.model.padding != "causal":
        reason = f"config.model.padding is {record.config.model.padding!r}, not 'causal'"
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

    @jax.jit
    def step(cache: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        logits, changed = model.apply(weights | {"cache": cache}, x, mutable=["cache"])
        return changed["cache"], jax.nn.softmax(logits[0])

    return step.lower(fresh, example).compile(), fresh


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


def run(workdir: Path, kind: str | None, every: int, lines: Iterable[bytes], out: TextIO) -> None:
    """Print the probabilities after every `every` steps of each series, and at its end.

    Args:
      workdir: of a causal run.
      kind: which weights, "last" or "best"; None: those that the run was scored with.
      every: how many steps there are between two answers.
      lines: a step each, as in the data set; a blank one ends a series.
      out: where to print.

    Raises:
      UserError: the run will not do, or a line.
    """
    record = read_record(workdir)
    _check_causal(workdir, record)
    assert record.scaling is not None
    channels = len(record.scaling.mean)
    step, fresh = _network(workdir, kind or record.config.train.evaluate, record, channels)
    print("series", "step", *record.classes, sep="\t", file=out, flush=True)
    series, count, cache, answer = 1, 0, fresh, None
    # One blank line more: the end of the input ends a series too.
    for number, line in enumerate(itertools.chain(lines, [b""]), 1):
        values = _values(line, f"line {number}", channels)
        if values is not None:
            with np.errstate(over="ignore"):  # such an answer is refused below
                x = record.scaling(values).astype(np.float32)
            cache, answer = step(cache, x[None, None])
            count += 1
        if answer is not None and (values is None or count % every == 0):
            shares = np.asarray(answer)
            if not np.isfinite(shares).all():
                raise UserError(f"line {number}: the numbers so far are too large for the network")
            print(series, count, *(f"{p:.6f}" for p in shares), sep="\t", file=out, flush=True)
            answer = None
        if values is None and count:
            series, count, cache = series + 1, 0, fresh
