"""The layer and its gradients in NumPy float64, by which programs are judged before any timing."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from flax_sepconv.ops import geometry

# The results of a layer with all its gradients, in the order of programs.
RESULTS = ("y", "dx", "d_depthwise_kernel", "d_pointwise_kernel", "d_bias")

# What factors and results may lose where they have fewer bits than float32. By default GPUs round
# the factors of float32 products to TF32 and TPUs to bfloat16.
ROUNDING = {
    "bfloat16": {"cpu": 2**-8, "gpu": 2**-8, "tpu": 2**-8},
    "float16": {"cpu": 2**-11, "gpu": 2**-11, "tpu": 2**-8},
    "float32": {"cpu": 0.0, "gpu": 2**-11, "tpu": 2**-8},
}
# Rounding of float32 in a sum of n terms grows like sqrt(n); this much above it is a mistake.
MARGIN = 4.0

Arrays = dict[str, np.ndarray]


class Shape(Protocol):
    """The numbers of a layer; without filters it is the depthwise stage alone."""

    @property
    def batch(self) -> int: ...  # noqa: D102 - B, and so on
    @property
    def length(self) -> int: ...  # noqa: D102
    @property
    def channels(self) -> int: ...  # noqa: D102
    @property
    def filters(self) -> int: ...  # noqa: D102
    @property
    def kernel_size(self) -> int: ...  # noqa: D102
    @property
    def strides(self) -> int: ...  # noqa: D102
    @property
    def dilation_rate(self) -> int: ...  # noqa: D102
    @property
    def depth_multiplier(self) -> int: ...  # noqa: D102
    @property
    def padding(self) -> geometry.PaddingRule: ...  # noqa: D102
    @property
    def joined(self) -> int: ...  # noqa: D102 - C*M
    @property
    def steps(self) -> int: ...  # noqa: D102 - of the output
    @property
    def pads(self) -> tuple[int, int]: ...  # noqa: D102 - before and behind the steps
    def _replace(self, *, batch: int = ..., length: int = ...) -> Any: ...


def layer(shape: Shape, operands: Sequence[np.ndarray]) -> Arrays:
    """Compute the output and all gradients, from x, both kernels, the bias and the cotangent."""
    x, kernel, pointwise, bias, dy = (np.asarray(array, np.float64) for array in operands)
    stage = depthwise(shape, x, kernel, dy @ pointwise[0].T)
    h = stage.pop("y")
    return stage | matmuls(h, pointwise, bias, dy)


def depthwise(shape: Shape, x: np.ndarray, kernel: np.ndarray, dh: np.ndarray) -> Arrays:
    """Compute the depthwise stage and its gradients, for the cotangent of its output."""
    x, kernel, dh = (np.asarray(array, np.float64) for array in (x, kernel, dh))
    low, high = shape.pads
    padded = np.pad(x, ((0, 0), (low, high), (0, 0)))[..., None]
    dh = dh.reshape(shape.batch, shape.steps, shape.channels, shape.depth_multiplier)
    h = np.zeros_like(dh)
    d_padded = np.zeros_like(padded)
    d_kernel = np.empty_like(kernel)
    for tap in range(shape.kernel_size):
        first = tap * shape.dilation_rate
        read = slice(first, first + (shape.steps - 1) * shape.strides + 1, shape.strides)
        for b in range(shape.batch):  # One series at a time stays in the caches.
            h[b] += padded[b, read] * kernel[tap]
            d_padded[b, read, :, 0] += np.sum(dh[b] * kernel[tap], axis=-1)
        d_kernel[tap] = np.einsum("blc,blcm->cm", padded[:, read, :, 0], dh)
    return {
        "y": h.reshape(shape.batch, shape.steps, shape.joined),
        "dx": d_padded[:, low : low + shape.length, :, 0],
        "d_depthwise_kernel": d_kernel,
    }


def ragged(shape: Shape, operands: Sequence[np.ndarray], lengths: Iterable[int]) -> Arrays:
    """Compute `layer` sequence by sequence, each of its own length, with zeros behind the ends."""
    x, kernel, pointwise, bias, dy = (np.asarray(array, np.float64) for array in operands)
    zeros = (np.zeros_like(array) for array in (dy, x, kernel, pointwise, bias))
    results = dict(zip(RESULTS, zeros, strict=True))
    for row, length in enumerate(lengths):
        if length < geometry.least_length(shape.kernel_size, shape.dilation_rate, shape.padding):
            continue
        own = shape._replace(batch=1, length=length)
        one = slice(row, row + 1)
        parts = (x[one, :length], kernel, pointwise, bias, dy[one, : own.steps])
        for name, value in layer(own, parts).items():
            if name in ("y", "dx"):
                results[name][one, : value.shape[1]] = value
            else:
                results[name] += value
    return results


def matmuls(
    h: np.ndarray, pointwise: np.ndarray, bias: np.ndarray | float, dy: np.ndarray
) -> Arrays:
    """Compute the pointwise stage and the gradients of its weights."""
    rows = dy.reshape(-1, dy.shape[-1])
    return {
        "y": h @ pointwise[0] + bias,
        "d_pointwise_kernel": (h.reshape(-1, h.shape[-1]).T @ rows)[None],
        "d_bias": rows.sum(axis=0),
    }


def error(result: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference over the largest entry."""
    return float(np.abs(result - expected).max() / np.abs(expected).max())


def allowed(shape: Shape, rounding: float) -> dict[str, float]:
    """Return the errors that may be, relative to the largest entry.

    They follow from float32 and from how many terms an entry sums up.

    Args:
        shape: of the layer.
        rounding: what factors and results lose that have fewer bits.
    """
    positions, filters = shape.batch * shape.steps, max(shape.filters, 1)
    terms = {
        "y": shape.kernel_size * shape.joined,
        "dx": shape.kernel_size * shape.depth_multiplier * filters,
        "d_depthwise_kernel": positions * filters,
        "d_pointwise_kernel": positions * shape.kernel_size,
        "d_bias": positions,
    }
    precision = float(np.finfo(np.float32).eps)
    return {name: MARGIN * (rounding + precision * count**0.5) for name, count in terms.items()}
