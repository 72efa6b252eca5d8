"""LITE: three parallel convolutions beside fixed filters, then two separable convolutions.

Ismail-Fawaz et al., "LITE: Light Inception with boosTing tEchniques for Time Series
Classification" (2023); sizes and settings are those of `aeon`'s `IndividualLITEClassifier`.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from benchmarks.networks.description import Convolution, Shapes, head_shapes, norm_shapes


@dataclasses.dataclass(frozen=True)
class Lite:
    """One network of the ensemble; the batch is shaped as ArrowHead of the UCR archive."""

    title: ClassVar[str] = "LITE"

    batch: int = 64
    length: int = 251
    classes: int = 3
    filters: int = 32
    kernel_size: int = 40
    momentum: float = 0.99
    epsilon: float = 1e-3
    learning_rate: float = 1e-3

    @property
    def parallel(self) -> tuple[Convolution, ...]:
        """The convolutions of the input."""
        return tuple(
            Convolution(f"parallel{i}", 1, self.filters, self.kernel_size >> i, is_separable=False)
            for i in range(3)
        )

    @property
    def parallel_channels(self) -> int:
        """Channels of the parallel convolutions and the fixed filters together."""
        return len(self.parallel) * self.filters + fixed_filters().shape[-1]

    @property
    def separable(self) -> tuple[Convolution, ...]:
        """The convolutions after them."""
        K, F = self.kernel_size, self.filters
        return (
            Convolution("separable0", self.parallel_channels, F, K // 2, dilation_rate=2),
            Convolution("separable1", F, F, K // 4, dilation_rate=4),
        )

    def shapes(self) -> Shapes:
        """Return the shape of every trained weight."""
        shapes: Shapes = {}
        for convolution in self.parallel:
            shapes |= convolution.shapes()
        shapes |= norm_shapes("parallel_norm", self.parallel_channels)
        for convolution in self.separable:
            shapes |= convolution.shapes_with_norm()
        return shapes | head_shapes(self.filters, self.classes)

    def input_shape(self) -> tuple[int, int, int]:
        """Return (B, L, C)."""
        return self.batch, self.length, 1

    def label_shape(self) -> tuple[int, ...]:
        """Return (B,): one class for each series."""
        return (self.batch,)


def fixed_filters() -> np.ndarray:
    """Return the filters that are not trained as one kernel (96, 1, 17).

    They answer to rises and falls (2 to 64 taps) and to peaks (6 to 96 taps). Zeros around each
    make them one convolution, which is faster than 17 in every framework and gives the same.
    """
    rises = [np.where(np.arange(K) % 2, 1.0, -1.0) for K in (2, 4, 8, 16, 32, 64)]
    slopes = [(np.arange(1, K + 1) / K) ** 2 for K in (1, 2, 4, 8, 16)]
    bumps = [np.concatenate([slope, slope[::-1]]) for slope in slopes]
    peaks = [np.concatenate([-bump, 2 * bump, -bump]) for bump in bumps]
    filters = [*rises, *(-rise for rise in rises), *peaks]
    taps = max(map(len, filters))
    bank = np.zeros((taps, 1, len(filters)), np.float32)
    for index, values in enumerate(filters):
        start = (taps - 1) // 2 - (len(values) - 1) // 2  # "same" starts (K - 1) // 2 to the left
        bank[start : start + len(values), 0, index] = values
    return bank
