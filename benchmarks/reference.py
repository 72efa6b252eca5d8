"""The layer and its gradients in NumPy float64, by which the peers are judged before any timing."""

from collections.abc import Iterable, Mapping

import numpy as np

from benchmarks.case import RESULTS, Operands
from benchmarks.workloads import Workload
from flax_sepconv.ops import geometry

# Rounding of float32 in a sum of n terms grows like sqrt(n); this much above it is a mistake.
MARGIN = 4.0


def layer(workload: Workload, operands: Operands) -> dict[str, np.ndarray]:
    """Compute what a peer's `forward_backward` returns, from operands in the layout "BLC"."""
    x, kernel, pointwise, bias, dy = (np.asarray(array, np.float64) for array in operands)
    stage = depthwise(workload, x, kernel, dy @ pointwise[0].T)
    h = stage.pop("y")
    return stage | matmuls(h, pointwise, bias, dy)


def depthwise(
    workload: Workload, x: np.ndarray, kernel: np.ndarray, dh: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute the depthwise stage and its gradients, for the cotangent of its output."""
    w = workload
    x, kernel, dh = (np.asarray(array, np.float64) for array in (x, kernel, dh))
    low, high = w.pads
    padded = np.pad(x, ((0, 0), (low, high), (0, 0)))[..., None]
    dh = dh.reshape(w.batch, w.steps, w.channels, w.depth_multiplier)
    h = np.zeros_like(dh)
    d_padded = np.zeros_like(padded)
    d_kernel = np.empty_like(kernel)
    for tap in range(w.kernel_size):
        first = tap * w.dilation_rate
        read = slice(first, first + (w.steps - 1) * w.strides + 1, w.strides)
        for b in range(w.batch):  # One series at a time stays in the caches.
            h[b] += padded[b, read] * kernel[tap]
            d_padded[b, read, :, 0] += np.sum(dh[b] * kernel[tap], axis=-1)
        d_kernel[tap] = np.einsum("blc,blcm->cm", padded[:, read, :, 0], dh)
    return {
        "y": h.reshape(w.batch, w.steps, w.joined),
        "dx": d_padded[:, low : low + w.length, :, 0],
        "d_depthwise_kernel": d_kernel,
    }


def ragged(workload: Workload, operands: Operands, lengths: Iterable[int]) -> dict[str, np.ndarray]:
    """Compute `layer` sequence by sequence, each of its own length, with zeros behind the ends."""
    w = workload
    x, kernel, pointwise, bias, dy = (np.asarray(array, np.float64) for array in operands)
    zeros = (np.zeros_like(array) for array in (dy, x, kernel, pointwise, bias))
    results = dict(zip(RESULTS, zeros, strict=True))
    for row, length in enumerate(lengths):
        if length < geometry.least_length(w.kernel_size, w.dilation_rate, w.padding):
            continue
        own = w._replace(batch=1, length=length)
        one = slice(row, row + 1)
        parts = Operands(x[one, :length], kernel, pointwise, bias, dy[one, : own.steps])
        for name, value in layer(own, parts).items():
            if name in ("y", "dx"):
                results[name][one, : value.shape[1]] = value
            else:
                results[name] += value
    return results


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


def matmuls(
    h: np.ndarray, pointwise: np.ndarray, bias: np.ndarray | float, dy: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute the pointwise stage and the gradients of its weights."""
    rows = dy.reshape(-1, dy.shape[-1])
    return {
        "y": h @ pointwise[0] + bias,
        "d_pointwise_kernel": (h.reshape(-1, h.shape[-1]).T @ rows)[None],
        "d_bias": rows.sum(axis=0),
    }


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


def error(result: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference over the largest entry."""
    return float(np.abs(result - expected).max() / np.abs(expected).max())


def allowed(workload: Workload, rounding: float) -> dict[str, float]:
    """Return the errors that may be, see `mistakes`."""
    w = workload
    positions, filters = w.batch * w.steps, max(w.filters, 1)
    terms = {
        "y": w.kernel_size * w.joined,
        "dx": w.kernel_size * w.depth_multiplier * filters,
        "d_depthwise_kernel": positions * filters,
        "d_pointwise_kernel": positions * w.kernel_size,
        "d_bias": positions,
    }
    precision = float(np.finfo(np.float32).eps)
    return {name: MARGIN * (rounding + precision * count**0.5) for name, count in terms.items()}
