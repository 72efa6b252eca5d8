"""A run that is used: its network and weights, and other series made like those it learned of."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_sepconv.training import data, tasks
from flax_sepconv.training.config import UserError
from flax_sepconv.training.data import Scaling, Split
from flax_sepconv.training.datasets import formats
from flax_sepconv.training.model import SeparableResNet
from flax_sepconv.training.step import Variables
from flax_sepconv.training.weights import read_weights
from flax_sepconv.training.workdir import Record, read_record


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a run has learned, and what it takes: series of C channels."""

    workdir: Path
    record: Record
    checkpoint: str
    model: SeparableResNet
    weights: Variables
    channels: int

    @property
    def title(self) -> str:
        """Return which weights of which data set these are, in words."""
        config = self.record.config
        name, seed = self.record.name or formats.title(config.data), config.train.seed
        return f"{name}, seed {seed}, {self.checkpoint} weights"

    def split(self, series: Sequence[np.ndarray], labels: np.ndarray | None = None) -> Split:
        """Return series, standardised as the run's own were and padded to one length.

        Args:
          series: N of (L, C) in the unit of the data.
          labels: as `Split.labels` has them; None: there are none, and the split has zeros.

        Raises:
          UserError: one has another number of channels, no steps, or missing values.
        """
        for number, values in enumerate(series, 1):
            if values.shape[1] != self.channels:
                raise UserError(
                    f"series {number}: the number of channels must be {self.channels}, as in "
                    f"training, got {values.shape[1]}"
                )
            if not len(values):
                raise UserError(f"series {number} has no steps")
            if not np.isfinite(values).all():
                raise UserError(f"series {number} has missing values, which are not supported")
        scaling = self.record.scaling
        inputs = np.zeros((len(series), max(map(len, series)), self.channels), np.float32)
        for number, (row, values) in enumerate(zip(inputs, series, strict=True), 1):
            with np.errstate(over="ignore"):
                row[: len(values)] = (scaling or Scaling.like(values))(values)
            if not np.isfinite(row).all():
                raise UserError(f"series {number}: its numbers are too large for float32")
        lengths = np.array([len(values) for values in series], np.int32)
        labels = np.zeros(len(series), np.int32) if labels is None else labels
        return Split(
            inputs,
            lengths,
            labels,
            self.record.classes,
            scaling,
            target_scaling=self.record.target_scaling,
        )

    def answers(self, split: Split) -> np.ndarray:
        """Return what the network says of the series, as `tasks.answers` does.

        Raises:
          UserError: it is no number.
        """

        @jax.jit
        def outputs(inputs: jax.Array, lengths: jax.Array) -> Any:
            return self.model.apply(self.weights, inputs, lengths)

        size = min(self.record.config.train.eval_batch_size, len(split))
        batches = data.eval_batches(split, size)
        parts = [outputs(batch["inputs"], batch["lengths"]) for batch in batches]
        task, scaling = self.record.config.data.task, self.record.target_scaling
        found = tasks.answers(task, jnp.concatenate(parts)[: len(split)], scaling)
        if (bad := ~np.isfinite(found).reshape(len(found), -1).all(-1)).any():
            number = int(bad.argmax()) + 1
            raise UserError(f"series {number}: its numbers are too large for the network")
        return found


def known(workdir: Path) -> Record:
    """Return what a run left about itself, if it noted what its data were.

    Raises:
      UserError: the folder holds no run, or one that did not.
    """
    record = read_record(workdir)
    if not record.classes or "TRAIN" not in record.contents:
        raise UserError(
            f"{workdir} was recorded by a version that did not note what its data were: train it "
            "again"
        )
    return record


def load(workdir: Path, checkpoint: str | None) -> Trained:
    """Return what a run has learned.

    Args:
      workdir: of the run, which may still go on.
      checkpoint: which weights, "last" or "best"; None: those that the run was scored with.

    Raises:
      UserError: the folder holds no run, or not what is asked for.
    """
    record = known(workdir)
    channels = record.contents["TRAIN"].channels
    model = SeparableResNet(len(record.classes), record.config.model)
    example = jnp.zeros((1, 1, channels)), jnp.ones(1, jnp.int32)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), *example)
    kind = checkpoint or record.config.train.evaluate
    weights = read_weights(workdir, kind, dict(shapes))
    return Trained(workdir, record, kind, model, weights, channels)
