"""What a run ends with: results.json, two pictures and a few lines to print."""

import functools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from flax_sepconv.training import early_stopping, metrics, tasks
from flax_sepconv.training import step as steps
from flax_sepconv.training.config import Config
from flax_sepconv.training.console import say
from flax_sepconv.training.distributed import is_first
from flax_sepconv.training.evaluate import Evaluator, forward_flops
from flax_sepconv.training.model import SeparableResNet
from flax_sepconv.training.plots import learning_curves, outcome
from flax_sepconv.training.prepare import Prepared
from flax_sepconv.training.record import Row
from flax_sepconv.training.workdir import write_atomically

Results = dict[str, Any]


class Outcome(NamedTuple):
    """What a run came to."""

    results: Results  # as in results.json
    answers: np.ndarray  # for the test series, as `tasks.answers` returns them
    targets: np.ndarray  # the truth about them, as `Split.targets` has it
    classes: tuple[str, ...]


def finish(
    state: steps.TrainState,
    config: Config,
    model: SeparableResNet,
    prepared: Prepared,
    rows: Sequence[Row],
    per_epoch: int,
    workdir: Path,
) -> Outcome:
    """Evaluate the weights the config chooses on the test split; write and return the results.

    Of several processes all call this, and the first one writes.

    Args:
      state: at the end of the run.
      config: of the run.
      model: its network.
      prepared: its data, and where its arrays are.
      rows: what was recorded; none if the record was lost, which leaves the speed unknown.
      per_epoch: steps of an epoch.
      workdir: where the results go.
    """
    _, validation, test, placement, class_weights = prepared
    best = config.train.evaluate == "best"
    variables = state.best if best else state.averaged
    task = config.data.task
    evaluate = Evaluator(model.apply, config.train.eval_batch_size, placement, task)
    scores = evaluate(variables, test)
    answers = tasks.answers(task, scores["logits"], test.target_scaling)
    measures = metrics.of(task, answers, test.targets, test.classes)
    for each in ("confusion_matrix", "precision", "recall"):  # of `evaluate`, and the picture
        measures.pop(each, None)
    if task != "regression":
        measures["errors"] = len(test) - round(measures["accuracy"] * len(test))
    score = measures["mae" if task == "regression" else "accuracy"]
    # A split that was made by hand has no name.
    name = test.name or config.data.name
    weights = (state.params, variables["params"])
    violation_of = jax.jit(functools.partial(steps.violation, state.constraints))
    violation = max(float(violation_of(params)) for params in weights)
    speeds = [float(row["examples_per_second"]) for row in rows]
    stopped = early_stopping.has_stopped(state.stopping)
    stopped_at = int(state.step) / per_epoch if stopped else None
    held_out = evaluate(variables, validation) if validation else {}
    results: Results = {
        "data_set": name,
        "task": task,
        "seed": config.train.seed,
        "weights": f"averaged, {config.train.evaluate} (step "
        f"{int(state.best_step if best else state.step)})",
        "stopped_at_epoch": stopped_at,
        "class_weights": None
        if class_weights is None
        else dict(zip(test.classes, class_weights.tolist(), strict=True)),
        **{f"validation_{n}": float(v) for n, v in held_out.items() if n != "logits"},
        **{f"test_{measure}": value for measure, value in measures.items()},
        "test_loss": float(scores["loss"]),
        "test_examples": len(test),
        "largest_constraint_violation": violation,
        "parameters": sum(p.size for p in jax.tree.leaves(state.params)),
        "forward_flops_per_example": forward_flops(model, variables, test),
        "padded_length": test.inputs.shape[1],
        "training_examples_per_second": statistics.median(speeds) if speeds else None,
    }
    found = Outcome(results, answers, test.targets, test.classes)
    if not is_first():
        return found
    write_atomically(workdir / "results.json", json.dumps(results, indent=2) + "\n")
    title = f"{name}, seed {config.train.seed}"
    ending = "" if stopped_at is None else f": stopped at epoch {stopped_at:g}"
    if rows:
        curves = workdir / "learning_curves.png"
        unit = float(test.target_scaling.deviation[0]) if test.target_scaling else 1.0
        best_epoch = int(state.best_step) / per_epoch
        learning_curves(rows, score, best_epoch, title + ending, curves, unit)
    else:
        say("no row is recorded: learning_curves.png is not drawn")
    if task == "classification":
        title += f": {100 * score:.1f} % of {len(test)} test series right"
    else:
        title += f", {len(test)} test series: {metrics.headline(task, measures)}"
    outcome(task, answers, test.targets, test.classes, title, workdir)
    return found


def summary(results: Mapping[str, Any]) -> str:
    """Return the results as lines to print."""
    weights, count = results["weights"], results["test_examples"]
    lines: dict[str, str] = {}
    if results["task"] == "regression":
        for name, words in (("rmse", "RMSE"), ("mae", "MAE"), ("r2", "R2")):
            value = results[f"test_{name}"]
            lines[f"test {words}"] = "undefined" if value is None else f"{value:.4g}"
        lines["test RMSE"] += f" ({count} series; weights: {weights})"
    else:
        right = f"{count - results['test_errors']} of {count}"
        lines["test accuracy"] = f"{results['test_accuracy']:.4f} ({right}; weights: {weights})"
        lines["test macro F1"] = f"{results['test_macro_f1']:.4f}"
    lines |= {
        "largest constraint violation": f"{results['largest_constraint_violation']:.1e}",
        "parameters": f"{results['parameters']:,}",
        "FLOPs": f"{results['forward_flops_per_example']:,} "
        f"(forward pass of one series of length {results['padded_length']})",
    }
    speed = results["training_examples_per_second"]
    lines["training speed"] = "unknown" if speed is None else f"{speed:,.0f} examples/s"
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in lines.items())
