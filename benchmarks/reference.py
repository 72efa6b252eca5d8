"""The layer and its gradients in NumPy float64, by which the peers are judged before any timing."""

from collections.abc import Mapping

import numpy as np

from benchmarks.case import Operands
from benchmarks.workloads import Workload

# Rounding of float32 in a sum of n terms grows like sqrt(n); this much above it is a mistake.
MARGIN = 4.0


def layer(workload: Workload, operands: Operands) -> dict[str, np.ndarray]:
    """Compute what a peer's `forward_backward` returns, from operands in the layout "BLC"."""
    x, depthwise, pointwise, bias, dy = (np.asarray(array, np.float64) for array in operands)
    w = workload
    low, high = w.pads
    padded = np.pad(x, ((0, 0), (low, high), (0, 0)))[..., None]
    dh = (dy @ pointwise[0].T).reshape(w.batch, w.steps, w.channels, w.depth_multiplier)
    h = np.zeros_like(dh)
    d_padded = np.zeros_like(padded)
    d_depthwise = np.empty_like(depthwise)
    for tap in range(w.kernel_size):
        first = tap * w.dilation_rate
        read = slice(first, first + (w.steps - 1) * w.strides + 1, w.strides)
        for b in range(w.batch):  # One series at a time stays in the caches.
            h[b] += padded[b, read] * depthwise[tap]
            d_padded[b, read, :, 0] += np.sum(dh[b] * depthwise[tap], axis=-1)
        d_depthwise[tap] = np.einsum("blc,blcm->cm", padded[:, read, :, 0], dh)
    return {
        "dx": d_padded[:, low : low + w.length, :, 0],
        "d_depthwise_kernel": d_depthwise,
        **matmuls(h.reshape(w.batch, w.steps, w.joined), pointwise, bias, dy),
    }


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
    w = workload
    positions = w.batch * w.steps
    terms = {
        "y": w.kernel_size * w.joined,
        "dx": w.kernel_size * w.depth_multiplier * w.filters,
        "d_depthwise_kernel": positions * w.filters,
        "d_pointwise_kernel": positions * w.kernel_size,
        "d_bias": positions,
    }
    found = []
    for name, result in results.items():
        want = expected[name]
        if result.shape != want.shape:
            found.append(f"{name} has shape {result.shape} instead of {want.shape}")
            continue
        off = np.abs(result - want).max() / np.abs(want).max()
        allowed = MARGIN * (rounding + np.finfo(np.float32).eps * np.sqrt(terms[name]))
        if not off <= allowed:
            found.append(f"{name} is off by {off:.1e} (allowed: {allowed:.1e})")
    return found
