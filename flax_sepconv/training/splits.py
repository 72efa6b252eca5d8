"""Series as padded arrays with their targets, and how both were scaled."""

import dataclasses
from typing import NamedTuple

import numpy as np

from flax_sepconv.training.contents import Contents


@dataclasses.dataclass(frozen=True)
class Scaling:
    """What is subtracted from each channel of a series, and what it is then divided by."""

    mean: np.ndarray  # (C,) float64
    deviation: np.ndarray  # (C,) float64

    @classmethod
    def like(cls, points: np.ndarray) -> "Scaling":
        """Return the one that gives each channel of (L, C) mean 0 and deviation 1."""
        return cls(points.mean(0), np.maximum(points.std(0), 1e-8))

    def __call__(self, series: np.ndarray) -> np.ndarray:
        """Apply it to (..., C)."""
        return (series - self.mean) / self.deviation

    def undo(self, scaled: np.ndarray) -> np.ndarray:
        """Return what was scaled (..., C) as it was."""
        return scaled * self.deviation + self.mean


@dataclasses.dataclass(frozen=True)
class Split:
    """N series of C channels, padded with zeros to one length L."""

    inputs: np.ndarray  # (N, L, C) float32
    lengths: np.ndarray  # (N,) int32, each in 1..L
    labels: np.ndarray  # (N,) int32 classes; (N,) float32 scaled values; (N, labels) float32 0 or 1
    classes: tuple[str, ...]  # names of the network's outputs
    scaling: Scaling | None = None  # of every series; None: each has its own
    contents: Contents | None = None  # of the file that it is from
    target_scaling: Scaling | None = None  # of values; None where there are none
    name: str = ""  # of the data set
    source: str = ""  # the file that it is from
    channels: tuple[str, ...] = ()  # their names; none: they have none

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def targets(self) -> np.ndarray:
        """Return the labels, or the values in the unit of the data (N,)."""
        if self.target_scaling is None:
            return self.labels
        return self.target_scaling.undo(self.labels[:, None])[:, 0]

    def take(self, index: np.ndarray) -> "Split":
        """Return the chosen series."""
        return dataclasses.replace(
            self,
            inputs=self.inputs[index],
            lengths=self.lengths[index],
            labels=self.labels[index],
        )


class Splits(NamedTuple):
    """What a run trains on, chooses its best weights by, and is scored on."""

    train: Split
    validation: Split | None
    test: Split
