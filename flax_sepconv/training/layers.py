"""The network of a run on a batch like its own, for who measures its layers."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flax_sepconv.training.config import UserError
from flax_sepconv.training.model import SeparableResNet
from flax_sepconv.training.workdir import read_record


def of_run(workdir: Path) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the network of a run as a function, and the types of its inputs: a micro batch.

    Raises:
      UserError: the folder holds no run, or one that did not note what its data were.
    """
    record = read_record(workdir)
    if "TRAIN" not in record.contents:
        raise UserError(f"{workdir} did not note what its data were: train it again")
    train = record.contents["TRAIN"]
    longest = max(contents.longest for contents in record.contents.values())
    settings = record.config.train
    batch = -(-min(settings.batch_size, train.series) // settings.accumulation)
    model = SeparableResNet(len(record.classes), record.config.model)
    inputs = (
        jax.ShapeDtypeStruct((batch, longest, train.channels), np.float32),
        jax.ShapeDtypeStruct((batch,), np.int32),
    )
    variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return functools.partial(model.apply, train=False), (variables, *inputs)
