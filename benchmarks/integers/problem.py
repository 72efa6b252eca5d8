"""A layer in 8-bit integers: the same numbers for all, and what NumPy makes of them in float64.

A real number is scale * (integer - zero point). Weights have a scale for each channel and the zero
point 0; x, h between the stages, and y have one scale each and a zero point, so that the 256 steps
go from their least to their greatest number. Everything is static: known before the first call.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from benchmarks.case import Case
from benchmarks.workloads import Workload

LEAST, GREATEST = -128, 127


class Steps(NamedTuple):
    """What the integers of an array stand for."""

    scale: np.float32
    zero_point: int

    def real(self, integers: np.ndarray) -> np.ndarray:
        """Return the real numbers (float32) that integers stand for."""
        return (integers.astype(np.int32) - self.zero_point).astype(np.float32) * self.scale


@dataclasses.dataclass(frozen=True)
class Problem:
    """A layer's operands.

    Attributes:
        workload: the layer.
        x: (B, L, C) int8.
        kernel: (K, C, M) int8.
        weights: (1, C*M, F) int8.
        bias: (F,) int32 in steps of h's scale times the weights'.
        kernel_scale: (C, M) float32.
        weights_scale: (F,) float32.
        x_steps: of x.
        h_steps: of the depthwise stage's result.
        y_steps: of the output.
    """

    workload: Workload
    x: np.ndarray
    kernel: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    kernel_scale: np.ndarray
    weights_scale: np.ndarray
    x_steps: Steps
    h_steps: Steps
    y_steps: Steps

    @property
    def bias_scale(self) -> np.ndarray:
        """Return what the bias' steps are (F,)."""
        return self.h_steps.scale * self.weights_scale

    def real(self) -> list[np.ndarray]:
        """Return x, both kernels and the bias in float32."""
        return [
            self.x_steps.real(self.x),
            self.kernel.astype(np.float32) * self.kernel_scale,
            self.weights.astype(np.float32) * self.weights_scale,
            self.bias.astype(np.float32) * self.bias_scale,
        ]


class Expected(NamedTuple):
    """What comes out, by NumPy float64, all (B, output length, F).

    Attributes:
        steps: of the output from its zero point; h was rounded, and these are not.
        real: where nothing is rounded between the stages.
    """

    steps: np.ndarray
    real: np.ndarray


def draw(workload: Workload) -> tuple[Problem, Expected]:
    """Make the integers of a layer from the numbers that the other benchmarks draw for it."""
    x, kernel, weights, bias, _ = Case(workload).operands()
    x_steps = _range(x)
    x_integers = _clipped(x / x_steps.scale + x_steps.zero_point)
    kernel_scale, kernel = _symmetric(kernel, (0,))
    weights_scale, weights = _symmetric(weights, (0, 1))

    sums = _depthwise(workload, x_integers.astype(np.int32) - x_steps.zero_point, kernel)
    h = sums * (np.float64(x_steps.scale) * kernel_scale.reshape(-1))
    h_steps = _range(h)
    bias_scale = h_steps.scale * weights_scale
    bias = np.rint(bias / bias_scale).astype(np.int32)
    factor = weights[0].astype(np.float64) * weights_scale
    addend = np.float64(bias_scale) * bias
    real = h @ factor + addend
    y_steps = _range(real)
    rounded = np.rint(h / h_steps.scale)
    rounded = np.clip(rounded, LEAST - h_steps.zero_point, GREATEST - h_steps.zero_point)
    steps = ((rounded * h_steps.scale) @ factor + addend) / y_steps.scale
    made = Problem(
        workload, x_integers, kernel, weights, bias, kernel_scale, weights_scale,
        x_steps, h_steps, y_steps,
    )  # fmt: skip
    return made, Expected(steps, real)


def _range(numbers: np.ndarray) -> Steps:
    """Spread the 256 steps from the least to the greatest number; zero is one of them."""
    low, high = min(numbers.min(), 0.0), max(numbers.max(), 0.0)
    scale = np.float32((high - low) / (GREATEST - LEAST))
    return Steps(scale, int(np.rint(LEAST - low / scale)))


def _symmetric(weights: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return scales and integers, where 127 steps reach the greatest magnitude over some axes."""
    scale = (np.abs(weights).max(axes) / GREATEST).astype(np.float32)
    return scale, _clipped(weights / scale)


def _clipped(numbers: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(numbers), LEAST, GREATEST).astype(np.int8)


def _depthwise(workload: Workload, x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Compute the sums of the first stage, which are exact in float64: (B, output length, C*M)."""
    w = workload
    padded = np.pad(x.astype(np.float64), ((0, 0), w.pads, (0, 0)))[..., None]
    sums = np.zeros((w.batch, w.steps, w.channels, w.depth_multiplier))
    for b in range(w.batch):  # One series at a time stays in the caches.
        for tap in range(w.kernel_size):
            first = tap * w.dilation_rate
            read = slice(first, first + (w.steps - 1) * w.strides + 1, w.strides)
            sums[b] += padded[b, read] * kernel[tap]
    return sums.reshape(w.batch, w.steps, w.joined)
