"""Triton kernels for GPUs, through Pallas: each stage alone, and both fused.

Compiled for sm_90a and checked by interpretation on a CPU; no GPU has run them yet.
"""

from flax_sepconv.ops.triton.depthwise import input_gradient, kernel_gradient, output
from flax_sepconv.ops.triton.forward import separable_output
from flax_sepconv.ops.triton.gradients import separable_gradients

__all__ = [
    "input_gradient",
    "kernel_gradient",
    "output",
    "separable_gradients",
    "separable_output",
]
