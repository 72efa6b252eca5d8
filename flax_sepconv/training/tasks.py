"""What a network may learn: classes, values, or sets of labels. The loss and the answers of each.

The outputs of the network are logits (N, classes), standardised values (N, 1) or a logit for each
label (N, labels).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from flax_sepconv.training.config import TaskName


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
    del smoothing  # a value is no distribution; config.train.label_smoothing is refused
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
        lambda outputs: outputs[..., 0],
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
