"""Early stopping: a run ends when the validation loss has not improved for some epochs.

What it goes by is a part of the train state, and so of every checkpoint: a resumed run stops at the
step at which the uninterrupted one does. `flax.training.early_stopping` counts calls on the host
instead of steps; where there is a call every epoch, the two stop at the same one (its patience
being one less).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flax_sepconv.training.config import TrainConfig


class Rule(NamedTuple):
    """When to stop."""

    patience: int  # steps without improvement; 0: never stop
    delta: float  # a loss improves if it falls below the lowest one so far by more than this

    @classmethod
    def of(cls, train: TrainConfig, steps_per_epoch: int) -> "Rule":
        """Return the rule of a run."""
        return cls(train.early_stopping * steps_per_epoch, train.early_stopping_delta)


NEVER = Rule(0, 0.0)


def start(train: TrainConfig) -> dict[str, jax.Array]:
    """Return what a run knows before its first step; nothing where it does not stop early."""
    if not train.early_stopping:
        return {}
    return {
        "loss": jnp.float32(jnp.inf),  # the lowest one, as the rule counts
        "step": jnp.int32(0),  # of that loss
        "stopped": jnp.bool_(False),
    }


def update(
    known: dict[str, jax.Array], rule: Rule, loss: jax.Array, step: Any
) -> dict[str, jax.Array]:
    """Return what is known after the validation loss of a step."""
    improved = loss < known["loss"] - rule.delta  # a loss that is NaN does not improve
    last = jnp.where(improved, step, known["step"])
    return {
        "loss": jnp.where(improved, loss, known["loss"]),
        "step": last,
        "stopped": step - last >= rule.patience,
    }


def has_stopped(known: Any) -> bool:
    """Return whether a run has come to its end by the rule; waits for the last report."""
    return bool(known) and bool(np.asarray(known["stopped"]))
