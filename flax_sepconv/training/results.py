"""What a run ends with: results.json, two pictures and a few lines to print."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from flax_sepconv.training import early_stopping
from flax_sepconv.training import step as steps
from flax_sepconv.training.config import Config
from flax_sepconv.training.console import say
from flax_sepconv.training.distributed import is_first
from flax_sepconv.training.evaluate import Evaluator, forward_flops
from flax_sepconv.training.model import SeparableResNet
from flax_sepconv.training.plots import confusion_matrix, learning_curves
from flax_sepconv.training.prepare import Prepared
from flax_sepconv.training.record import Row
from flax_sepconv.training.workdir import write_atomically

Results = dict[str, Any]


class Outcome(NamedTuple):
    """What a run came to."""

    results: Results  # as in results.json
    answers: np.ndarray  # (N, classes), the probabilities for the test series
    targets: np.ndarray  # (N,), their true classes


def measures(answers: np.ndarray, targets: np.ndarray) -> dict[str, float | int]:
    """Return how good the answers for the test series are, by the names of results.json.

    Args:
      answers: as in `Outcome`, of a run or of several together.
      targets: as in `Outcome`.
    """
    right = answers.argmax(-1) == targets
    return {"test_accuracy": float(right.mean()), "test_errors": int((~right).sum())}


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
    evaluate = Evaluator(model.apply, config.train.eval_batch_size, placement)
    scores = evaluate(variables, test)
    outcome = Outcome({}, np.asarray(jax.nn.softmax(np.asarray(scores["logits"]))), test.labels)
    measured = measures(outcome.answers, outcome.targets)
    accuracy = measured["test_accuracy"]
    weights = (state.params, variables["params"])
    violation = max(float(steps.violation(state.constraints, params)) for params in weights)
    speeds = [float(row["examples_per_second"]) for row in rows]
    stopped = early_stopping.has_stopped(state.stopping)
    stopped_at = int(state.step) / per_epoch if stopped else None
    held_out = evaluate(variables, validation) if validation else {}
    results: Results = {
        "data_set": config.data.name,
        "seed": config.train.seed,
        "weights": f"averaged, {config.train.evaluate} (step "
        f"{int(state.best_step if best else state.step)})",
        "stopped_at_epoch": stopped_at,
        "class_weights": None
        if class_weights is None
        else dict(zip(test.classes, class_weights.tolist(), strict=True)),
        **{f"validation_{n}": float(held_out[n]) for n in ("loss", "accuracy") if held_out},
        **measured,
        "test_loss": float(scores["loss"]),
        "test_examples": len(test),
        "largest_constraint_violation": violation,
        "parameters": sum(p.size for p in jax.tree.leaves(state.params)),
        "forward_flops_per_example": forward_flops(model, variables, test),
        "padded_length": test.inputs.shape[1],
        "training_examples_per_second": statistics.median(speeds) if speeds else None,
    }
    outcome = outcome._replace(results=results)
    if not is_first():
        return outcome
    write_atomically(workdir / "results.json", json.dumps(results, indent=2) + "\n")
    title = f"{config.data.name}, seed {config.train.seed}"
    ending = "" if stopped_at is None else f": stopped at epoch {stopped_at:g}"
    if rows:
        curves = workdir / "learning_curves.png"
        learning_curves(rows, accuracy, int(state.best_step) / per_epoch, title + ending, curves)
    else:
        say("no row is recorded: learning_curves.png is not drawn")
    title += f": {100 * accuracy:.1f} % of {len(test)} test series right"
    picture = workdir / "confusion_matrix.png"
    predicted = outcome.answers.argmax(-1)
    confusion_matrix(test.labels, predicted, test.classes, title, picture)
    return outcome


def summary(results: Mapping[str, Any]) -> str:
    """Return the results as lines to print."""
    right = results["test_examples"] - results["test_errors"]
    lines = {
        "test accuracy": f"{results['test_accuracy']:.4f} "
        f"({right} of {results['test_examples']}; weights: {results['weights']})",
        "largest constraint violation": f"{results['largest_constraint_violation']:.1e}",
        "parameters": f"{results['parameters']:,}",
        "FLOPs": f"{results['forward_flops_per_example']:,} "
        f"(forward pass of one series of length {results['padded_length']})",
    }
    speed = results["training_examples_per_second"]
    lines["training speed"] = "unknown" if speed is None else f"{speed:,.0f} examples/s"
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in lines.items())
