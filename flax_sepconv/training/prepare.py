"""What a run is made of besides its settings: the parts of its data, and where arrays go."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from flax_sepconv.training import class_weights, data, distributed
from flax_sepconv.training.config import Config, UserError
from flax_sepconv.training.mesh import Placement, place


class Prepared(NamedTuple):
    """What a run is made of, besides its settings."""

    split: data.Split  # the training part, without what is held out
    validation: data.Split | None
    test: data.Split
    placement: Placement
    class_weights: np.ndarray | None


def _asked(config: Config, split: data.Split, test: data.Split) -> dict[str, Any]:
    """Return what a process was asked to do, and with which data, by names."""
    asked = {
        f"config.{group}.{name}": value
        for group, values in dataclasses.asdict(config).items()
        for name, value in values.items()
    }
    files = {"TRAIN": split.contents, "TEST": test.contents}
    digests = {f"the data in {part}": known and known.values for part, known in files.items()}
    return asked | digests


def prepare(config: Config) -> Prepared:
    """Load the data of a run and see how it is divided; all processes call this.

    Raises:
      UserError: the data set or the devices will not do, there is nothing to validate with, or
        the processes were asked for different things.
    """
    with distributed.agreement():
        split, validation, test = data.load_splits(config.data, config.train.seed)
        if config.train.early_stopping and validation is None:
            raise UserError(
                "config.train.early_stopping needs series to validate with: "
                "config.data.validation_fraction must be > 0, got 0.0, or the data have such a "
                "split themselves"
            )
        size = min(config.train.batch_size, len(split))
        placement = place(config, size, split.inputs.shape[1])
        weights = class_weights.of(config.train, split)
    distributed.check_same(_asked(config, split, test))
    return Prepared(split, validation, test, placement, weights)
