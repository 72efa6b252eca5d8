"""Weights of the classes in the training loss, for sets in which some classes are rare."""

import numpy as np

from flax_sepconv.training.config import TrainConfig, UserError
from flax_sepconv.training.data import Split


def of(train: TrainConfig, split: Split) -> np.ndarray | None:
    """Return the weight of each class, (classes,) float32; None: all count the same.

    "balanced" is scikit-learn's: series / (classes * series of the class), counted in the training
    part alone, and of classes those that have series there. The mean over all training series is 1.
    A class without any has the weight 0, which nothing is multiplied by.

    Args:
      train: the settings.
      split: the training part, without what is held out.

    Raises:
      UserError: weights are asked for, and the labels are no classes.
    """
    if train.class_weights == "none":
        return None
    labels = split.labels
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(
            "config.train.class_weights must be none where a series has no single class "
            f"(regression, or several labels), got {train.class_weights!r}"
        )
    counts = np.bincount(labels, minlength=len(split.classes))
    there = counts > 0
    weights = np.zeros(len(counts), np.float32)
    weights[there] = len(labels) / (there.sum() * counts[there])
    return weights
