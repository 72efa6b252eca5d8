"""Which lowering computes a contraction when none is named: static facts in, a name and why out."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike

from flax_sepconv.geometry import Geometry
from flax_sepconv.lowerings import native

CPU_REASON = (
    "on CPU the native kernels were measured fastest, for every contraction and kernel size tried"
)
CPU_WITHOUT_NATIVE_REASON = (
    "the fastest of XLA's own forms on CPU, for every contraction and kernel size tried; the "
    "native kernels, faster still, are left out: "
)
GPU_REASON = (
    "compiled for H100 (not run), shifted sums are one launch and move no more bytes than the "
    "convolution and the copies around it"
)
GPU_DILATED_REASON = (
    "compiled for H100 (not run), beside a dilated convolution for the kernel gradient another one "
    "moves fewer bytes"
)
GPU_KERNEL_REASON = (
    "compiled for H100 (not run), from 5 taps up (9 in 16 bits) the convolution moves fewer bytes "
    "here"
)
TPU_SMALL_REASON = (
    "compiled for TPU (not run), up to 5 taps shifted sums fuse with their neighbours (the forward "
    "one into the pointwise contraction) and take the least time and bytes"
)
TPU_REASON = (
    "compiled for TPU (not run), the convolution uses the matrix unit, which wins from 6 taps up"
)
TPU_SHAPE_REASON = (
    "compiled for TPU (not run), the convolution takes less time where strides are larger than 1 "
    "or lengths are no whole tiles (multiples of 8)"
)
TPU_MULTIPLIER_REASON = (
    "compiled for TPU (not run), the convolution writes the channels of several multipliers side "
    "by side, which shifted sums of them do with copies"
)
OTHER_REASON = "not measured on this platform: the definition"

# By the bytes of an element: 16-bit convolutions convert their operands first.
GPU_SHIFTED_SUM_TAPS = {2: 8, 4: 4, 8: 4}
TPU_SHIFTED_SUM_TAPS = 5
TPU_SUBLANES = 8

# The three contractions, by the argument of the trilinear form that each leaves out.
CONTRACTIONS = {"y": "output", "x": "input_gradient", "k": "kernel_gradient"}


class Selection(NamedTuple):
    """A lowering's name and the reason it was taken."""

    name: str
    reason: str


def select(
    platform: str,
    contraction: str,
    geometry: Geometry,
    depth_multiplier: int,
    dtype: DTypeLike,
    surroundings: str | None = None,
) -> Selection:
    """Select a lowering for one contraction.

    Args:
        platform: XLA's name of it: "cpu", "cuda", "rocm", "tpu", ...
        contraction: one of the values of `CONTRACTIONS`.
        geometry: of the contraction; L may be a symbol.
        depth_multiplier: M.
        dtype: of the operands (their promotion, where they differ).
        surroundings: None, or one of `native.SURROUNDINGS`.
    """
    if platform == "cpu":
        missing = native.SURROUNDINGS.get(surroundings or "") or native.declines(platform, None)
        if missing:
            return Selection("shifted_sum", CPU_WITHOUT_NATIVE_REASON + missing)
        return Selection("native", CPU_REASON)
    if platform in ("cuda", "rocm", "gpu"):
        if geometry.kernel_size > GPU_SHIFTED_SUM_TAPS[jnp.dtype(dtype).itemsize]:
            if contraction == "kernel_gradient":
                return Selection("grouped_conv", GPU_KERNEL_REASON)
            if contraction == "input_gradient" and geometry.dilation > 1:
                return Selection("grouped_conv", GPU_DILATED_REASON)
        return Selection("shifted_sum", GPU_REASON)
    if platform == "tpu":
        if geometry.kernel_size > TPU_SHIFTED_SUM_TAPS:
            return Selection("grouped_conv", TPU_REASON)
        if geometry.stride > 1 or geometry.length % TPU_SUBLANES != 0:
            return Selection("grouped_conv", TPU_SHAPE_REASON)
        if depth_multiplier > 1 and contraction == "output":
            return Selection("grouped_conv", TPU_MULTIPLIER_REASON)
        return Selection("shifted_sum", TPU_SMALL_REASON)
    return Selection("grouped_conv", OTHER_REASON)
