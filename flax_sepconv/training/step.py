"""The train state and the pure functions that move it; `loop` jits them, once each.

Every function takes arrays and returns arrays: sums of metrics, the averaged weights and the best
ones so far live in the state, so that the host never has to wait for a step and a checkpoint of the
state is a checkpoint of everything.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state

import flax_sepconv as fsc
from flax_sepconv.training import early_stopping
from flax_sepconv.training.augment import augment
from flax_sepconv.training.config import Config
from flax_sepconv.training.data import Batch
from flax_sepconv.training.model import SeparableResNet
from flax_sepconv.training.tasks import MEANS, TASKS, Task

Arrays = dict[str, jax.Array]
Variables = dict[str, Any]  # {"params": ..., "batch_stats": ...}


class TrainState(train_state.TrainState):
    """Flax's train state with all else that a step reads or writes."""

    batch_stats: Any
    averaged: Variables  # exponential moving average of params and batch_stats
    best: Variables  # the averaged ones that scored best so far
    best_score: jax.Array
    best_step: jax.Array
    key: jax.Array  # raw key data, the same all run long; folded with the step's number
    sums: Arrays  # of the metrics since the last report
    constraints: Any = flax.struct.field(pytree_node=False)
    # What early stopping goes by; empty where there is none.
    stopping: Arrays = flax.struct.field(default_factory=dict)


def _zeros(task: Task) -> Arrays:
    names = ("steps", "examples", "loss", task.counted, "grad_norm")
    return {name: jnp.zeros(()) for name in names}


def total_steps(config: Config, steps_per_epoch: int) -> int:
    """Return how many steps a run has: whole epochs, and no fewer than `min_steps`."""
    train = config.train
    return max(train.epochs, -(-train.min_steps // steps_per_epoch)) * steps_per_epoch


def schedule(config: Config, steps_per_epoch: int) -> optax.Schedule:
    """Return the learning rate by step: linear warm-up, then cosine down to zero."""
    train = config.train
    total = total_steps(config, steps_per_epoch)
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=train.learning_rate,
        warmup_steps=int(train.warmup * total),
        decay_steps=total,
    )


def project(constraints: Any, params: Any) -> Any:
    """Return `params` with every constraint applied to its weight."""
    return jax.tree.map(
        lambda constraint, weight: weight if constraint is None else constraint(weight),
        constraints,
        params,
        is_leaf=lambda node: node is None or callable(node),
    )


def create_state(
    config: Config,
    model: SeparableResNet,
    batch: Batch,
    steps: int,
    rate: optax.Schedule | None = None,
) -> TrainState:
    """Initialise weights and optimiser.

    Args:
      config: of the run.
      model: its network.
      batch: of any size, for the shapes.
      steps: how many an epoch has.
      rate: the learning rate by step; None: that of the config.
    """
    rate = rate or schedule(config, steps)
    key = jax.random.key(config.train.seed)
    arguments = (batch["inputs"], batch["lengths"])
    constraints = fsc.constraints_of(model, key, *arguments)
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.train.clip_norm),
        optax.adamw(rate, weight_decay=config.train.weight_decay),
        fsc.keep_params_constrained(constraints),
    )

    @jax.jit  # one program, for a new process compiles each operation outside of one by itself
    def begin(key: jax.Array, *arguments: jax.Array) -> TrainState:
        init_key, run_key = jax.random.split(key)
        variables = model.init(init_key, *arguments)
        # Projected, for an average of weights is feasible only if every one of them is.
        kept = {
            "params": project(constraints, variables["params"]),
            "batch_stats": variables["batch_stats"],
        }
        copy = lambda: jax.tree.map(jnp.copy, kept)  # noqa: E731 - donated buffers cannot be shared
        state = TrainState.create(
            apply_fn=model.apply,
            params=kept["params"],
            tx=optimizer,
            batch_stats=kept["batch_stats"],
            averaged=copy(),
            best=copy(),
            best_score=jnp.float32(jnp.inf),
            best_step=jnp.int32(-1),
            key=jax.random.key_data(run_key),
            sums=_zeros(TASKS[config.data.task]),
            stopping=early_stopping.start(config.train),
            constraints=constraints,
        )
        return state.replace(step=jnp.int32(0))  # a Python 0 would change its type on the way

    return begin(key, *arguments)


class _Found(NamedTuple):
    """What a batch says of the weights."""

    grads: Any
    loss: jax.Array
    counted: jax.Array  # as `Task.counts`, summed
    batch_stats: Any  # after it


def _look(
    state: TrainState,
    batch: Arrays,
    key: jax.Array,
    task: Task,
    smoothing: float,
    class_weights: np.ndarray | None,
) -> _Found:
    """Return the gradients, and what comes with them, of a batch that is already augmented."""

    def loss_of(params: Any) -> tuple[jax.Array, tuple[jax.Array, Variables]]:
        logits, changed = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            batch["inputs"],
            batch["lengths"],
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats", "losses"],
        )
        losses = task.losses(logits, batch["labels"], smoothing)
        if class_weights is not None:
            losses *= jnp.asarray(class_weights)[batch["labels"]]
        return losses.mean() + fsc.regularization_loss(changed), (logits, changed)

    (loss, (logits, changed)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    counted = task.counts(logits, batch["labels"]).sum()
    return _Found(grads, loss, counted, changed["batch_stats"])


def _look_in_parts(
    look: Callable[[Arrays, jax.Array], _Found], batch: Arrays, key: jax.Array, parts: int
) -> _Found:
    """Return what `look` finds, from `parts` micro batches: means, and the sum of what is counted.

    Micro batch i has the series i, i + parts, ...: each device has its share of each, and none
    moves. The running statistics move once, to the mean of where each of them would take them.
    """
    micro = jax.tree.map(
        lambda a: jnp.moveaxis(a.reshape(-1, parts, *a.shape[1:]), 1, 0), dict(batch)
    )
    each = (micro, jax.random.split(key, parts))
    start = jax.eval_shape(look, *jax.tree.map(lambda a: a[0], each))
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), start)
    add = lambda total, one: (jax.tree.map(jnp.add, total, look(*one)), None)  # noqa: E731
    total, _ = jax.lax.scan(add, zeros, each)
    mean = jax.tree.map(lambda a: a / parts, total)
    return _Found(mean.grads, mean.loss, total.counted, mean.batch_stats)


def make_train_step(
    config: Config,
    divide: Callable[[Arrays], Arrays] = lambda batch: batch,
    class_weights: np.ndarray | None = None,
) -> Callable[[TrainState, Arrays], TrainState]:
    """Return the function of one step: loss, gradients, projected update, averages, metrics.

    Args:
      config: of the run.
      divide: says, inside the step, how a batch or a micro batch is divided over devices.
      class_weights: (classes,), what the loss of a series is multiplied by; None: by 1.
    """
    train, task = config.train, TASKS[config.data.task]

    def train_step(state: TrainState, batch: Arrays) -> TrainState:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        augment_key, dropout_key = jax.random.split(key)
        inputs, lengths = augment(augment_key, batch["inputs"], batch["lengths"], config.augment)
        batch = batch | {"inputs": inputs, "lengths": lengths}

        def look(batch: Arrays, key: jax.Array) -> _Found:
            smoothing = train.label_smoothing
            return _look(state, divide(batch), key, task, smoothing, class_weights)

        if train.accumulation == 1:
            found = look(batch, dropout_key)
        else:
            found = _look_in_parts(look, batch, dropout_key, train.accumulation)
        state = state.apply_gradients(grads=found.grads, batch_stats=found.batch_stats)
        new = {
            "steps": 1.0,
            "examples": len(batch["labels"]),
            "loss": found.loss,
            task.counted: found.counted,
            "grad_norm": optax.tree.norm(found.grads),
        }
        decay = jnp.minimum(train.ema_decay, state.step / (state.step + 10.0))
        current = {"params": state.params, "batch_stats": state.batch_stats}
        return state.replace(
            averaged=optax.incremental_update(current, state.averaged, 1 - decay),
            sums=jax.tree.map(jnp.add, state.sums, new),
        )

    return train_step


def eval_step(
    apply_fn: Callable[..., Any], task: Task, variables: Variables, batch: Arrays
) -> Arrays:
    """Return logits and, over the rows with ``valid``, the sums of loss and of what is counted."""
    logits = apply_fn(variables, batch["inputs"], batch["lengths"], train=False)
    losses = task.losses(logits, batch["labels"], 0.0)
    counts = task.counts(logits, batch["labels"])
    valid = batch["valid"]
    return {
        "logits": logits,
        "loss": jnp.where(valid, losses, 0).sum(),
        task.counted: jnp.where(valid, counts, 0).sum(),
        "examples": valid.sum(),
    }


@jax.jit
def is_finite(state: TrainState) -> jax.Array:
    """Return whether the metrics since the last report and the weights are all finite."""
    return jnp.isfinite(optax.tree.norm((state.sums, state.params)))


def report(
    state: TrainState,
    validation_loss: jax.Array | None,
    rule: early_stopping.Rule = early_stopping.NEVER,
) -> tuple[TrainState, Arrays]:
    """Return the means since the last report, set the sums to zero and keep the best weights.

    The score is the validation loss where there is one, else the mean training loss. It is
    compared on the device: the host reads the report when it pleases. Where the run may stop early,
    the state then says whether it does by the rule.
    """
    sums = state.sums
    loss = sums["loss"] / sums["steps"]
    score = loss if validation_loss is None else validation_loss
    finite = is_finite(state)
    better = finite & (score < state.best_score)
    pick = lambda new, old: jax.tree.map(lambda a, b: jnp.where(better, a, b), new, old)  # noqa: E731
    state = state.replace(
        best=pick(state.averaged, state.best),
        best_score=pick(score, state.best_score),
        best_step=pick(state.step, state.best_step),
        sums=jax.tree.map(jnp.zeros_like, sums),
        stopping=state.stopping and early_stopping.update(state.stopping, rule, score, state.step),
    )
    means = {mean: sums[name] / sums["examples"] for name, mean in MEANS.items() if name in sums}
    metrics = {
        "step": state.step,
        "examples": sums["examples"],
        "loss": loss,
        **means,
        "grad_norm": sums["grad_norm"] / sums["steps"],
        "best_step": state.best_step,
        "finite": finite,
    }
    return state, metrics


def violation(constraints: Any, params: Any) -> jax.Array:
    """Return how far projecting `params` once more would move any of them."""
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), project(constraints, params), params)
    return jnp.max(jnp.stack(jax.tree.leaves(moved)))
