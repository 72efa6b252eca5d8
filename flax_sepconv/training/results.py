"""What a run ends with: results.json, two pictures and a few lines to print."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flax_sepconv.training import step as steps
from flax_sepconv.training.config import Config
from flax_sepconv.training.console import say
from flax_sepconv.training.data import Split
from flax_sepconv.training.distributed import is_first
from flax_sepconv.training.evaluate import Evaluator, forward_flops
from flax_sepconv.training.mesh import Placement
from flax_sepconv.training.model import SeparableResNet
from flax_sepconv.training.plots import confusion_matrix, learning_curves
from flax_sepconv.training.record import Row
from flax_sepconv.training.workdir import write_atomically

Results = dict[str, Any]


def finish(
    state: steps.TrainState,
    config: Config,
    model: SeparableResNet,
    test: Split,
    rows: Sequence[Row],
    per_epoch: int,
    workdir: Path,
    placement: Placement,
) -> Results:
    """Evaluate the weights the config chooses on the test split; write and return the results.

    Of several processes all call this, and the first one writes.

    Args:
      state: at the end of the run.
      config: of the run.
      model: its network.
      test: the test split.
      rows: what was recorded; none if the record was lost, which leaves the speed unknown.
      per_epoch: steps of an epoch.
      workdir: where the results go.
      placement: of the state.
    """
    best = config.train.evaluate == "best"
    variables = state.best if best else state.averaged
    scores = Evaluator(model.apply, config.train.eval_batch_size, placement)(variables, test)
    predicted = np.asarray(scores["logits"]).argmax(-1)
    accuracy = float(np.mean(predicted == test.labels))
    weights = (state.params, variables["params"])
    violation = max(float(steps.violation(state.constraints, params)) for params in weights)
    speeds = [float(row["examples_per_second"]) for row in rows]
    results: Results = {
        "data_set": config.data.name,
        "seed": config.train.seed,
        "weights": f"averaged, {config.train.evaluate} (step "
        f"{int(state.best_step if best else state.step)})",
        "test_accuracy": accuracy,
        "test_loss": float(scores["loss"]),
        "test_errors": int((predicted != test.labels).sum()),
        "test_examples": len(test),
        "largest_constraint_violation": violation,
        "parameters": sum(p.size for p in jax.tree.leaves(state.params)),
        "forward_flops_per_example": forward_flops(model, variables, test),
        "padded_length": test.inputs.shape[1],
        "training_examples_per_second": statistics.median(speeds) if speeds else None,
    }
    if not is_first():
        return results
    write_atomically(workdir / "results.json", json.dumps(results, indent=2) + "\n")
    title = f"{config.data.name}, seed {config.train.seed}"
    if rows:
        curves = workdir / "learning_curves.png"
        learning_curves(rows, accuracy, int(state.best_step) / per_epoch, title, curves)
    else:
        say("no row is recorded: learning_curves.png is not drawn")
    title += f": {100 * accuracy:.1f} % of {len(test)} test series right"
    picture = workdir / "confusion_matrix.png"
    confusion_matrix(test.labels, predicted, test.classes, title, picture)
    return results


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
