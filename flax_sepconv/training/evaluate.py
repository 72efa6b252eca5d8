"""Score a split, and say what one evaluation costs."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_sepconv.training import step as steps
from flax_sepconv.training.config import TaskName
from flax_sepconv.training.data import Split, eval_batches
from flax_sepconv.training.mesh import Placement
from flax_sepconv.training.model import SeparableResNet
from flax_sepconv.training.tasks import MEANS, TASKS


class Evaluator:
    """Mean loss, score and logits of a split, by one compilation for all its batches."""

    def __init__(
        self,
        apply_fn: Callable[..., Any],
        batch_size: int,
        placement: Placement | None = None,
        task: TaskName = "classification",
    ) -> None:
        self._place = place = placement or Placement()
        self._task = TASKS[task]
        step = functools.partial(steps.eval_step, apply_fn, self._task)
        self._step = place.jit(step, place.whole())
        self._batch_size = batch_size

    def __call__(self, variables: steps.Variables, split: Split) -> steps.Arrays:
        """Return means and outputs as arrays not waited for.

        ``loss``; ``accuracy``, or for regression ``standardized_mae``, in deviations of the
        training targets; and ``logits`` (N, classes), the outputs that `tasks.answers` takes.
        """
        place = self._place
        size = -(-min(self._batch_size, len(split)) // place.shares) * place.shares
        batches = eval_batches(split, size, place.rows(size))
        parts = [self._step(variables, place.batch(batch, size)) for batch in batches]
        logits = jnp.concatenate([part["logits"] for part in parts])[: len(split)]
        counted = self._task.counted
        means = {
            mean: sum(part[name] for part in parts) / len(split)
            for name, mean in (("loss", "loss"), (counted, MEANS[counted]))
        }
        return means | {"logits": logits}


def forward_flops(model: SeparableResNet, variables: Any, split: Split) -> int:
    """Return the FLOPs of one example's forward pass at the padded length.

    XLA's count for the unoptimised program, with the defining lowering of the layer, so that the
    number says something about the model and nothing about the machine.
    """
    plain = model.clone(implementation="grouped_conv")
    shapes = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), variables)
    example = (
        jax.ShapeDtypeStruct((1, *split.inputs.shape[1:]), np.float32),
        jax.ShapeDtypeStruct((1,), np.int32),
    )
    cost = jax.jit(functools.partial(plain.apply, train=False)).lower(shapes, *example)
    analysis: Any = cost.cost_analysis()
    return round(analysis["flops"])
