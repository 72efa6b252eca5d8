"""What a network may learn: classes, values, or sets of labels. The loss and the answers of each.

The outputs of the network are logits (N, classes), standardised values (N, 1) or a logit for each
label (N, labels).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flax_sepconv.training.config import TaskName
from flax_sepconv.training.splits import Scaling


class Task(NamedTuple):
    """One of them, as functions of the network's outputs.

    Attributes:
      losses: from (outputs, labels, smoothing) to the loss of each series (N,).
      counted: what is added up beside the loss, by the name of its sum: "correct" series, or the
        "absolute_error" in deviations of the training targets.
      counts: from (outputs, labels) to that of each series (N,).
      answers: from outputs to what a user is told: probabilities that add up to one, standardised
        values (N,), or a probability for each label.
    """

    losses: Callable[[jax.Array, jax.Array, float], jax.Array]
    counted: str
    counts: Callable[[jax.Array, jax.Array], jax.Array]
    answers: Callable[[jax.Array], jax.Array]


def _entropies(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, targets)


def _squares(outputs: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    del smoothing  # Of values there is none: the config refuses it.
    return jnp.square(outputs[:, 0] - labels)


def _binary_entropies(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    targets = labels * (1 - smoothing) + smoothing / 2  # of the two outcomes of each label
    return optax.sigmoid_binary_cross_entropy(logits, targets).mean(-1)


TASKS: dict[TaskName, Task] = {
    "classification": Task(
        _entropies,
        "correct",
        lambda logits, labels: logits.argmax(-1) == labels,
        jax.nn.softmax,
    ),
    "regression": Task(
        _squares,
        "absolute_error",
        lambda outputs, labels: jnp.abs(outputs[:, 0] - labels),
        lambda outputs: jnp.squeeze(outputs, -1),
    ),
    "multilabel": Task(
        _binary_entropies,
        "correct",
        lambda logits, labels: ((logits > 0) == (labels > 0.5)).all(-1),
        jax.nn.sigmoid,
    ),
}
# The names of the means of what is counted, in metrics.jsonl.
MEANS = {"correct": "accuracy", "absolute_error": "standardized_mae"}


def answers(task: TaskName, outputs: jax.Array, target_scaling: Scaling | None) -> np.ndarray:
    """Return what a user is told, from the network's outputs (N, classes).

    Args:
      task: what was learned.
      outputs: of the network.
      target_scaling: of the training split, or of the run's record; None unless for regression.

    Returns:
      The probabilities of the classes (N, classes), which add up to one; values in the unit of the
      data (N,); or the probability of each label (N, labels).
    """
    found = np.asarray(TASKS[task].answers(outputs))
    return found if target_scaling is None else target_scaling.undo(found[:, None])[:, 0]
