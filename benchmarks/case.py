"""The numbers that every peer computes with, in the layout it wants them, and back."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmarks.workloads import Workload

# What the two programs of a peer return, in this order; `forward` returns the first alone.
RESULTS = ("y", "dx", "d_depthwise_kernel", "d_pointwise_kernel", "d_bias")


class Operands(NamedTuple):
    """The arguments of the layer, and the cotangent of its output."""

    x: np.ndarray
    depthwise_kernel: np.ndarray
    pointwise_kernel: np.ndarray
    bias: np.ndarray
    dy: np.ndarray


@dataclasses.dataclass(frozen=True)
class Case:
    """A workload in the layouts of a peer.

    Attributes:
        workload: the layer.
        data: "BLC" or "BCL".
        kernels: "keras" for (K, C, M) and (1, C*M, F), "torch" for (C*M, 1, K) and (F, C*M, 1).
    """

    workload: Workload
    data: Literal["BLC", "BCL"] = "BLC"
    kernels: Literal["keras", "torch"] = "keras"

    def operands(self) -> Operands:
        """Draw the same float32 numbers for every peer, all results of the order of one."""
        w = self.workload
        rng = np.random.default_rng(0)

        def draw(*shape: int, terms: int = 1) -> np.ndarray:
            return rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(terms))

        x = draw(w.batch, w.length, w.channels)
        depthwise = draw(w.kernel_size, w.channels, w.depth_multiplier, terms=w.kernel_size)
        pointwise = draw(1, w.joined, w.filters, terms=w.joined)
        bias = draw(w.filters)
        dy = draw(w.batch, w.steps, w.filters)
        if self.kernels == "torch":
            depthwise = _flipped(depthwise.reshape(w.kernel_size, 1, w.joined))
            pointwise = _flipped(pointwise)
        if self.data == "BCL":
            x, dy = (np.ascontiguousarray(array.swapaxes(1, 2)) for array in (x, dy))
        return Operands(x, depthwise, pointwise, bias, dy)

    def read(self, result: Sequence[Any]) -> dict[str, np.ndarray]:
        """Name the arrays that a program returned, in the layouts "BLC" and "keras"."""
        w = self.workload
        arrays = dict(zip(RESULTS, map(np.asarray, result), strict=False))
        if self.data == "BCL":
            for name in arrays.keys() & {"y", "dx"}:
                arrays[name] = arrays[name].swapaxes(1, 2)
        shapes = {
            "d_depthwise_kernel": (w.kernel_size, w.channels, w.depth_multiplier),
            "d_pointwise_kernel": (1, w.joined, w.filters),
        }
        for name in arrays.keys() & shapes:
            kernel = arrays[name]
            arrays[name] = (_flipped(kernel) if self.kernels == "torch" else kernel).reshape(
                shapes[name]
            )
        return arrays


def _flipped(kernel: np.ndarray) -> np.ndarray:
    """Turn (taps, in, out) into (out, in, taps), and back."""
    return np.ascontiguousarray(kernel.transpose(2, 1, 0))
