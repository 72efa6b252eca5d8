"""One run from start to finish: train, survive interruptions, evaluate, leave a report."""

import contextlib
import functools
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from flax_sepconv.training import data
from flax_sepconv.training import step as steps
from flax_sepconv.training.checkpoint import Checkpoints
from flax_sepconv.training.complaints import reason
from flax_sepconv.training.config import Config, UserError
from flax_sepconv.training.console import say
from flax_sepconv.training.evaluate import Evaluator
from flax_sepconv.training.model import SeparableResNet
from flax_sepconv.training.record import Recorder
from flax_sepconv.training.results import Results, finish
from flax_sepconv.training.stop import Stop
from flax_sepconv.training.workdir import open_workdir


class DivergedError(Exception):
    """The loss, a gradient or a weight is no longer a number."""


class InterruptedRunError(Exception):
    """A signal asked the run to stop; it did so with a checkpoint."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


class _Reports:
    """Turn device metrics into recorded rows, one report late: the device never waits."""

    def __init__(self, config: Config, recorder: Recorder, per_epoch: int, start: int) -> None:
        self._recorder, self._per_epoch = recorder, per_epoch
        self._rate = steps.schedule(config, per_epoch)
        self._pending: steps.Arrays | None = None
        self._done, self._clock = start, time.perf_counter()

    def put(self, metrics: steps.Arrays) -> None:
        """Start copying new metrics to the host and record those before them."""
        for value in metrics.values():
            value.copy_to_host_async()
        self.flush()
        self._pending = metrics

    def flush(self) -> None:
        """Wait for the pending metrics and record them.

        Raises:
          DivergedError: they are not finite.
        """
        if self._pending is None:
            return
        values = {name: value.item() for name, value in self._pending.items()}
        self._pending = None
        now, step, examples = time.perf_counter(), values.pop("step"), values.pop("examples")
        if not values.pop("finite"):
            raise DivergedError(f"not finite any more between steps {self._done} and {step}")
        values["learning_rate"] = float(self._rate(step - 1))
        values["steps_per_second"] = (step - self._done) / (now - self._clock)
        values["examples_per_second"] = examples / (now - self._clock)
        self._done, self._clock = step, now
        row = {"step": step, "epoch": step / self._per_epoch, "time": time.time()}
        self._recorder.add(row | values)


def _fit(
    state: steps.TrainState,
    config: Config,
    split: data.Split,
    validation: data.Split | None,
    checkpoints: Checkpoints,
    recorder: Recorder,
    stop: Stop,
) -> steps.TrainState:
    """Train from the step the state is at to the last one."""
    train = config.train
    per_epoch = data.steps_per_epoch(split, train.batch_size)
    start, total = int(state.step), train.epochs * per_epoch
    batches = functools.partial(data.train_batches, split, train.batch_size, train.seed)
    train_step = jax.jit(steps.make_train_step(config), donate_argnums=0)
    compiled = train_step.lower(state, next(batches(0, 1))).compile()
    report = jax.jit(steps.report, donate_argnums=0)
    evaluate = Evaluator(state.apply_fn, train.eval_batch_size)
    stop.listen()
    reports = _Reports(config, recorder, per_epoch, start)
    for done, batch in enumerate(batches(start, total), start + 1):
        state = compiled(state, batch)
        recorder.advance()
        if done == total or done % (train.report_every * per_epoch) == 0:
            scores = evaluate(state.averaged, validation) if validation else {}
            state, metrics = report(state, scores.get("loss"))
            kept = {f"validation_{n}": scores[n] for n in ("loss", "accuracy") if scores}
            reports.put(metrics | kept)
        if stop.number or done == total or done % (train.checkpoint_every * per_epoch) == 0:
            reports.flush()
            if not steps.is_finite(state):
                raise DivergedError(f"not finite any more at step {done}")
            checkpoints.save(state)
        if stop.number:
            raise InterruptedRunError(stop.number, f"stopped at step {done} of {total}")
    return state


@contextlib.contextmanager
def _writing(workdir: Path) -> Iterator[None]:
    """Turn what the system says where a folder cannot be written into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {error.filename or workdir}: {reason(error)}") from error


def run(config: Config, workdir: Path, *, resume: bool = False) -> Results:
    """Train and evaluate as `config` says; everything is left in `workdir`.

    Returns:
      What results.json holds.

    Raises:
      UserError: the data set or the folder will not do; or the folder cannot be written any more.
      InterruptedRunError: a signal came, or nobody reads stderr; a checkpoint was written.
      DivergedError: something is not finite any more; the last good checkpoint was kept.
    """
    split, test = data.load(config.data)
    validation = None
    if config.data.validation_fraction:
        split, validation = data.hold_out(split, config.data.validation_fraction, config.train.seed)
    with open_workdir(workdir, config, split, test, resume=resume):
        say(f"workdir: {workdir}")
        model = SeparableResNet(len(split.classes), config.model)
        per_epoch = data.steps_per_epoch(split, config.train.batch_size)
        total = config.train.epochs * per_epoch
        every = config.train.report_every * per_epoch
        state = steps.create_state(config, model, next(data.eval_batches(split, 1)), per_epoch)
        with Stop() as stop:
            with Checkpoints(workdir) as checkpoints, _writing(workdir):
                state = checkpoints.restore(state)
                with Recorder(workdir, int(state.step), total, every) as recorder:
                    try:
                        state = _fit(state, config, split, validation, checkpoints, recorder, stop)
                    except DivergedError as error:
                        raise DivergedError(f"{error}; {checkpoints.describe()}") from error
                    except OSError as error:
                        said = f"cannot write {workdir}: {reason(error)}"
                        raise UserError(f"{said}; {checkpoints.describe()}") from error
            if stop.number:
                raise InterruptedRunError(stop.number, f"stopped at step {total} of {total}")
        with _writing(workdir):
            return finish(state, config, model, test, recorder.rows, per_epoch, workdir)
