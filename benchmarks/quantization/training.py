"""A trained network trained on while its layers round: quantization-aware training."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import flax_sepconv as fsc
from benchmarks.quantization.versions import EPOCHS, RATE
from flax_sepconv.training import data
from flax_sepconv.training.augment import augment
from flax_sepconv.training.config import Config
from flax_sepconv.training.data import Split
from flax_sepconv.training.tasks import TASKS

Variables = dict[str, Any]


def train_on(model: nn.Module, variables: Variables, split: Split, config: Config) -> Variables:
    """Train with the settings of the run that the weights are of, shorter and more slowly.

    Args:
        model: whose layers have a quantization.
        variables: its collections, calibrated.
        split: the training series.
        config: of the run.

    Returns:
        The variables at the end.
    """
    train, task = config.train, TASKS[config.data.task]
    each = data.steps_per_epoch(split, train.batch_size)
    steps = max(round(EPOCHS * train.epochs), 1) * each
    key = jax.random.key(train.seed)
    example = jnp.asarray(split.inputs[:1]), jnp.asarray(split.lengths[:1])
    constraints = fsc.constraints_of(model, key, *example)
    optimizer = optax.chain(
        optax.clip_by_global_norm(train.clip_norm),
        optax.adamw(
            optax.cosine_decay_schedule(RATE * train.learning_rate, steps),
            weight_decay=train.weight_decay,
        ),
        fsc.keep_params_constrained(constraints),
    )
    others = [name for name in variables if name != "params"]

    @jax.jit
    def step(variables: Variables, state: Any, batch: Any, key: jax.Array) -> Any:
        augment_key, dropout_key = jax.random.split(key)
        inputs, lengths = augment(augment_key, batch["inputs"], batch["lengths"], config.augment)

        def loss_of(params: Any) -> Any:
            logits, changed = model.apply(
                {**variables, "params": params},
                inputs,
                lengths,
                train=True,
                rngs={"dropout": dropout_key},
                mutable=[*others, "losses"],
            )
            losses = task.losses(logits, batch["labels"], train.label_smoothing)
            return losses.mean() + fsc.regularization_loss(changed), changed

        gradients, changed = jax.grad(loss_of, has_aux=True)(variables["params"])
        updates, state = optimizer.update(gradients, state, variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, **{name: changed[name] for name in others}}, state

    state = optimizer.init(variables["params"])
    batches = data.train_batches(split, train.batch_size, train.seed + 1, 0, steps)
    for number, batch in zip(itertools.count(), batches, strict=False):
        variables, state = step(variables, state, batch, jax.random.fold_in(key, number))
    return variables
