"""What peers are judged by before any timing: the layer in NumPy float64, and stacks of it."""

from collections.abc import Mapping

import numpy as np

from benchmarks.case import RESULTS, Operands
from benchmarks.workloads import Workload
from flax_sepconv.ops.tuning.definition import (
    allowed,
    depthwise,
    error,
    layer,
    matmuls,
    ragged,
)

__all__ = [
    "allowed",
    "depthwise",
    "error",
    "floor",
    "layer",
    "matmuls",
    "mistakes",
    "ragged",
    "stack",
]


def stack(workload: Workload, operands: Operands) -> dict[str, np.ndarray]:
    """Compute layers one behind the other; the weights have the layers as their first axis."""
    x, *weights, dy = (np.asarray(array, np.float64) for array in operands)
    inputs = [x]
    for kernel, pointwise, bias in zip(*weights, strict=True):
        own = Operands(inputs[-1], kernel, pointwise, bias, np.zeros_like(dy))
        inputs.append(layer(workload, own)["y"])
    gradients: dict[str, list[np.ndarray]] = {name: [] for name in RESULTS[2:]}
    for index in reversed(range(len(weights[0]))):
        kernel, pointwise, bias = (array[index] for array in weights)
        results = layer(workload, Operands(inputs[index], kernel, pointwise, bias, dy))
        dy = results["dx"]
        for name, values in gradients.items():
            values.insert(0, results[name])
    return {"y": inputs[-1], "dx": dy} | {k: np.stack(v) for k, v in gradients.items()}


def floor(operands: Operands) -> dict[str, np.ndarray]:
    """Compute what the floor's `forward_backward` returns."""
    x, _, pointwise, _, dy = (np.asarray(array, np.float64) for array in operands)
    return {"dx": dy @ pointwise[0].T, **matmuls(x, pointwise, 0.0, dy)}


def mistakes(
    workload: Workload,
    results: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    rounding: float = 0.0,
) -> list[str]:
    """Say which arrays differ from the expected ones by more than rounding.

    The allowed difference is relative to the largest entry; it follows from float32 and from how
    many terms an entry sums up. `rounding` is what factors and results lose that have fewer bits.
    """
    tolerances = allowed(workload, rounding)
    found = []
    for name, result in results.items():
        want = expected[name]
        if result.shape != want.shape:
            found.append(f"{name} has shape {result.shape} instead of {want.shape}")
            continue
        off = error(result, want)
        if not off <= tolerances[name]:
            found.append(f"{name} is off by {off:.1e} (allowed: {tolerances[name]:.1e})")
    return found
