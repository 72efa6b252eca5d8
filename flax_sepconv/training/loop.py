"""One run from start to finish: train, survive interruptions, evaluate, leave a report."""

import contextlib
import functools
from pathlib import Path

from flax_sepconv.training import data, distributed, early_stopping
from flax_sepconv.training import step as steps
from flax_sepconv.training.checkpoint import Checkpoints
from flax_sepconv.training.complaints import reason, writing
from flax_sepconv.training.config import Config, UserError
from flax_sepconv.training.console import say
from flax_sepconv.training.evaluate import Evaluator
from flax_sepconv.training.model import SeparableResNet
from flax_sepconv.training.prepare import Prepared, prepare
from flax_sepconv.training.record import Recorder
from flax_sepconv.training.reports import DivergedError, Reports
from flax_sepconv.training.results import Outcome, Results, finish
from flax_sepconv.training.stop import Agreement, Stop
from flax_sepconv.training.workdir import open_workdir


class InterruptedRunError(Exception):
    """A signal asked the run to stop; it did so with a checkpoint."""

    together = True

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


def _fit(
    state: steps.TrainState,
    config: Config,
    prepared: Prepared,
    checkpoints: Checkpoints | None,
    recorder: Recorder | None,
    agreed: Agreement,
) -> steps.TrainState:
    """Train from the step the state is at to the last one; the first process has what writes."""
    split, validation, _, placement, weights = prepared
    train = config.train
    per_epoch = data.steps_per_epoch(split, train.batch_size)
    start, total = int(state.step), steps.total_steps(config, per_epoch)
    if start == total or early_stopping.has_stopped(state.stopping):
        return state
    size = min(train.batch_size, len(split))
    batches = functools.partial(data.train_batches, split, train.batch_size, train.seed)
    rows = placement.rows(size)
    held, whole = placement.of_state(state), placement.whole()
    train_step = steps.make_train_step(config, placement.divide, weights)
    train_step = placement.jit(train_step, held, donate=0)
    example = placement.batch(next(batches(0, 1, rows)), size)
    compiled = train_step.lower(state, example).compile()
    rule = early_stopping.Rule.of(train, per_epoch)
    report = functools.partial(steps.report, rule=rule)
    report = placement.jit(report, (held, whole), donate=0)
    task = config.data.task
    evaluate = Evaluator(state.apply_fn, train.eval_batch_size, placement, task)
    agreed.listen()
    reports = Reports(config, recorder, per_epoch, start)
    stopped = False
    for done, batch in enumerate(batches(start, total, rows), start + 1):
        state = compiled(state, placement.batch(batch, size))
        if recorder:
            recorder.advance()
        if done == total or done % (train.report_every * per_epoch) == 0:
            scores = evaluate(state.averaged, validation) if validation else {}
            state, metrics = report(state, scores.get("loss"))
            kept = {f"validation_{n}": score for n, score in scores.items() if n != "logits"}
            reports.put(metrics | kept)
            stopped = early_stopping.has_stopped(state.stopping)
        number = agreed.number()
        if number or stopped or done == total or done % (train.checkpoint_every * per_epoch) == 0:
            reports.flush()
            if not steps.is_finite(state):
                raise DivergedError(f"not finite any more at step {done}")
            whole_state = placement.fetch(state)
            if checkpoints:
                checkpoints.save(whole_state)
        if number:
            raise InterruptedRunError(number, f"stopped at step {done} of {total}")
        if stopped:
            say(f"stopped at epoch {done / per_epoch:g}: the validation loss did not improve")
            break
    return state


def _describe(checkpoints: Checkpoints | None) -> str:
    return checkpoints.describe() if checkpoints else "the first process knows the checkpoints"


def run(config: Config, workdir: Path, *, resume: bool = False) -> Results:
    """Train and evaluate as `config` says, like `complete`; return what results.json holds."""
    return complete(config, workdir, resume=resume).results


def complete(config: Config, workdir: Path, *, resume: bool = False) -> Outcome:
    """Train and evaluate as `config` says; everything is left in `workdir`.

    All processes of a run call this; the first one reads and writes the folder.

    Returns:
      What results.json holds, and what it was counted from.

    Raises:
      UserError: the data set or the folder will not do; or the folder cannot be written any more.
      InterruptedRunError: a signal came, or nobody reads stderr; a checkpoint was written.
      DivergedError: something is not finite any more; the last good checkpoint was kept.
    """
    prepared = prepare(config)
    split, _, test, placement, _ = prepared
    distributed.check_same({"--resume": resume})
    with contextlib.ExitStack() as stack:
        with distributed.agreement():
            if distributed.is_first():
                stack.enter_context(open_workdir(workdir, config, split, test, resume=resume))
        say(f"workdir: {workdir}")
        if placement.note:
            say(placement.note)
        model = SeparableResNet(len(split.classes), config.model)
        per_epoch = data.steps_per_epoch(split, config.train.batch_size)
        total = steps.total_steps(config, per_epoch)
        every = config.train.report_every * per_epoch
        state = steps.create_state(config, model, next(data.eval_batches(split, 1)), per_epoch)
        with Stop() as stop:
            agreed = Agreement(stop, placement)
            with contextlib.ExitStack() as writers, writing(workdir):
                checkpoints, recorder = None, None
                with distributed.agreement():
                    if distributed.is_first():
                        checkpoints = writers.enter_context(Checkpoints(workdir))
                        state = checkpoints.restore(state)
                        done = int(state.step)
                        recorder = writers.enter_context(Recorder(workdir, done, total, every))
                state = placement.put(distributed.share(state))
                try:
                    state = _fit(state, config, prepared, checkpoints, recorder, agreed)
                except DivergedError as error:
                    raise DivergedError(f"{error}; {_describe(checkpoints)}") from error
                except OSError as error:
                    said = f"cannot write {workdir}: {reason(error)}"
                    raise UserError(f"{said}; {_describe(checkpoints)}") from error
            if number := agreed.last():
                raise InterruptedRunError(number, f"stopped at step {int(state.step)} of {total}")
        rows = recorder.rows if recorder else []
        with distributed.agreement(), writing(workdir):
            return finish(state, config, model, prepared, rows, per_epoch, workdir)
