"""A learning rate to begin with: the real training step, while the rate rises from tiny to huge.

The loss stays where it is while the rate is too small, falls where the network learns, and rises
where it is too large (Smith, "Cyclical Learning Rates for Training Neural Networks", 2017). The
proposal is the rate at which it falls fastest.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax
from scipy import signal  # type: ignore[import-untyped]

from flax_sepconv.training import data, distributed
from flax_sepconv.training import step as steps
from flax_sepconv.training.complaints import writing
from flax_sepconv.training.config import Config
from flax_sepconv.training.console import say
from flax_sepconv.training.datasets import formats
from flax_sepconv.training.model import SeparableResNet
from flax_sepconv.training.prepare import Prepared, prepare
from flax_sepconv.training.search_plots import learning_rates
from flax_sepconv.training.workdir import write_atomically

LOWEST, HIGHEST = 1e-6, 10.0
_PER_DECADE = 50
_STEPS = 7 * _PER_DECADE + 1
# The loss is smoothed by a line through the steps of half a decade to either side: unlike a moving
# average it does not lag behind, and its slope is the one asked for.
_WINDOW = _PER_DECADE + 1
# The loss has diverged where its moving average is so many times the lowest one, or not finite.
_DIVERGED, _DECAY = 4.0, 0.9


class Proposal(NamedTuple):
    """What the losses say of the rates."""

    rate: float  # where the smoothed loss falls fastest before its lowest point
    low: float  # from here...
    high: float  # ...to here it falls at least half as fast
    smoothed: np.ndarray  # one for each loss


def propose(rates: np.ndarray, losses: np.ndarray) -> Proposal | None:
    """Return the proposal; None where the loss does not fall by more than its noise.

    Args:
      rates: (N,), rising exponentially.
      losses: (N,), one of each rate; N is at least 51.

    >>> rates = np.geomspace(1e-6, 10, 351)
    >>> found = propose(rates, 2 - np.tanh(2 * np.log10(rates / 1e-2)))
    >>> f"{found.rate:.2g}, from {found.low:.1g} to {found.high:.1g}"
    '0.01, from 0.003 to 0.04'
    >>> propose(rates, np.ones(351)) is None
    True
    """
    smoothed = signal.savgol_filter(losses, _WINDOW, 1, mode="nearest")
    slopes = signal.savgol_filter(losses, _WINDOW, 1, deriv=1, mode="nearest")
    lowest = int(smoothed.argmin())
    noise = float(np.std((losses - smoothed)[: lowest + 1]))
    if smoothed[0] - smoothed[lowest] <= max(noise, 1e-6 * abs(smoothed[0])):
        return None
    best = int(slopes[: lowest + 1].argmin())
    steep = slopes <= slopes[best] / 2
    low, high = best, best
    while low > 0 and steep[low - 1]:
        low -= 1
    while high < lowest and steep[high + 1]:
        high += 1
    rate, at_least, at_most = (float(f"{rates[i]:.2g}") for i in (best, low, high))
    return Proposal(rate, at_least, at_most, smoothed)


def measure(config: Config, prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """Return rates and losses (N,): of each step until the loss diverges; all processes call this.

    Augmentation, clipping, weight decay, constraints and all else of a step are those of the run,
    and so are its batches.
    """
    split, _, _, placement, weights = prepared
    train = config.train
    rate = optax.exponential_decay(LOWEST, _STEPS - 1, HIGHEST / LOWEST)
    model = SeparableResNet(len(split.classes), config.model)
    example = next(data.eval_batches(split, 1))
    per_epoch = data.steps_per_epoch(split, train.batch_size)
    state = steps.create_state(config, model, example, per_epoch, rate)
    train_step = steps.make_train_step(config, placement.divide, weights)

    def one_step(state: steps.TrainState, batch: Any) -> tuple[steps.TrainState, Any]:
        after = train_step(state, batch)
        return after.replace(sums=state.sums), after.sums["loss"]  # from sums that are zero

    state = placement.put(distributed.share(state))
    held, whole = placement.of_state(state), placement.whole()
    step = placement.jit(one_step, (held, whole), donate=())
    size = min(train.batch_size, len(split))
    rows = placement.rows(size)
    losses: list[float] = []
    average, lowest = 0.0, np.inf
    batches = data.train_batches(split, train.batch_size, train.seed, 0, _STEPS, rows)
    for number, batch in enumerate(batches, 1):
        state, loss = step(state, placement.batch(batch, size))
        value = float(np.asarray(loss))
        if not np.isfinite(value):
            break
        losses.append(value)
        average = _DECAY * average + (1 - _DECAY) * value
        corrected = average / (1 - _DECAY**number)
        lowest = min(lowest, corrected)
        if corrected > _DIVERGED * lowest and number > _WINDOW:
            break
    rates = np.geomspace(LOWEST, HIGHEST, _STEPS)[: len(losses)]
    return rates, np.array(losses)


def search(config: Config, workdir: Path, write: Callable[[str], None]) -> None:
    """Look for a learning rate; leave learning_rates.json and .png in `workdir`; print it.

    All processes call this; the first one writes. The result depends on the config alone, its seed
    included.

    Args:
      config: of the run to be; its learning rate and schedule are not looked at.
      workdir: a folder, made if it is not there; what was found in it before is replaced.
      write: prints lines.

    Raises:
      UserError: data or folder will not do, the processes were asked for different things, or the
        loss falls at no rate.
    """
    prepared = prepare(config)
    with distributed.agreement(), writing(workdir):
        if distributed.is_first():
            workdir.mkdir(parents=True, exist_ok=True)
    say(f"{_STEPS} steps, from learning rate {LOWEST:g} to {HIGHEST:g}")
    rates, losses = measure(config, prepared)
    name = formats.title(config.data)
    found = propose(rates, losses) if len(losses) >= _WINDOW else None
    record = {
        "data_set": name,
        "seed": config.train.seed,
        "proposal": found and found.rate,
        "range": found and [found.low, found.high],
        "diverged_at": None
        if len(losses) == _STEPS
        else float(rates[-1])
        if len(rates)
        else LOWEST,
        "learning_rates": rates.tolist(),
        "losses": losses.tolist(),
        "smoothed": found and found.smoothed.tolist(),
    }
    with distributed.agreement(), writing(workdir):
        if distributed.is_first():
            text = json.dumps(record, indent=2) + "\n"
            write_atomically(workdir / "learning_rates.json", text)
            title = f"{name}, seed {config.train.seed}"
            learning_rates(rates, losses, found, title, workdir / "learning_rates.png")
    if found is None:  # in all processes, which have the same losses
        raise distributed.TogetherError(
            f"the loss falls at no learning rate from {LOWEST:g} to {HIGHEST:g}: "
            f"see {workdir / 'learning_rates.png'}"
        )
    if distributed.is_first():
        write(
            f"learning rate  {found.rate:g} (the loss falls fastest; at least half as fast from "
            f"{found.low:g} to {found.high:g})\n"
            f"use it with     --config.train.learning_rate={found.rate:g}"
        )


def run(
    *,
    config: Config,
    workdir: Path,
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    write: Callable[[str], None],
) -> int:
    """Do what `search` does, in this process or with others; return the exit status.

    Raises:
      UserError: as `search`, or the processes cannot meet.
    """
    try:
        with distributed.meeting(distributed.Group(coordinator, processes, process)):
            search(config, distributed.share_path(workdir), write)
    except distributed.LostProcessError as error:
        say(f"error: {error}; begin the search again")
        return 75
    return 0
