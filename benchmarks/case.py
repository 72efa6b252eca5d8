"""The numbers that every peer computes with, in the layout it wants them, and back."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np

from benchmarks.workloads import Workload
from flax_sepconv.ops.tuning.definition import RESULTS

Each = TypeVar("Each")


class Operands(NamedTuple, Generic[Each]):
    """Something for each argument of the layer, and for the cotangent of its output."""

    x: Each
    depthwise_kernel: Each
    pointwise_kernel: Each
    bias: Each
    dy: Each


def shapes(workload: Workload) -> Operands[tuple[int, ...]]:
    """Return the shapes of the operands in the layouts "BLC" and "keras"."""
    w = workload
    return Operands(
        x=(w.batch, w.length, w.channels),
        depthwise_kernel=(w.kernel_size, w.channels, w.depth_multiplier),
        pointwise_kernel=(1, w.joined, w.filters),
        bias=(w.filters,),
        dy=(w.batch, w.steps, w.filters),
    )


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

    def operands(self) -> Operands[np.ndarray]:
        """Draw the same float32 numbers for every peer, all results of the order of one."""
        w = self.workload
        rng = np.random.default_rng(0)
        terms = Operands(1, w.kernel_size, w.joined, 1, 1)
        x, depthwise, pointwise, bias, dy = (
            rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(count))
            for shape, count in zip(shapes(w), terms, strict=True)
        )
        if self.kernels == "torch":
            depthwise = _flipped(depthwise.reshape(w.kernel_size, 1, w.joined))
            pointwise = _flipped(pointwise)
        if self.data == "BCL":
            x, dy = (np.ascontiguousarray(array.swapaxes(1, 2)) for array in (x, dy))
        return Operands(x, depthwise, pointwise, bias, dy)

    def read(self, result: Sequence[Any]) -> dict[str, np.ndarray]:
        """Name the arrays that a program returned, float32 and in the layouts "BLC" and "keras"."""
        w = self.workload
        wide = (np.asarray(array, np.float32) for array in result)
        arrays = dict(zip(RESULTS, wide, strict=False))
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
