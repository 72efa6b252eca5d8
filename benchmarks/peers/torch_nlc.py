"""PyTorch over data (B, L, C), from end to end, in the fastest of four ways at each workload.

`conv1d` works on a transposed view of x. `conv2d` works on the same view with a height of one,
which is PyTorch's channels-last format, for which its kernels are others. The pointwise stage is
`linear` over the last axis, or the same convolution with a single tap. In bfloat16 `conv2d` is left
out: some layers of few channels never return from it (PyTorch 2.13, a processor with AVX512_BF16).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d, conv2d, linear

from benchmarks.case import Case
from benchmarks.peers import in_torch
from benchmarks.worker import Program
from benchmarks.workloads import Workload


def build(workload: Workload, dtype: str = "float32") -> dict[str, Program]:
    """Make the layer for a workload."""
    case, ways = ways_of(workload)
    if dtype == "bfloat16":
        ways = {name: way for name, way in ways.items() if not name.startswith("conv2d")}
    return in_torch.programs(case, ways, dtype)


def ways_of(workload: Workload) -> tuple[Case, dict[str, in_torch.Layer]]:
    """Return the layouts, and the layer by the names of the ways to compute it."""
    settings: dict[str, Any] = {"stride": workload.strides, "groups": workload.channels}
    dilation = workload.dilation_rate

    def filtered_1d(x: Tensor, kernel: Tensor) -> Tensor:
        x, padding = in_torch.padded(x.transpose(1, 2), workload.pads)
        return conv1d(x, kernel, padding=padding, dilation=dilation, **settings)

    def filtered_2d(x: Tensor, kernel: Tensor) -> Tensor:
        x, padding = in_torch.padded(x.transpose(1, 2).unsqueeze(2), workload.pads)
        x = x.contiguous(memory_format=torch.channels_last)
        kernel = kernel.unsqueeze(2)
        return conv2d(x, kernel, padding=(0, padding), dilation=(1, dilation), **settings)

    def conv1d_linear(x: Tensor, depthwise: Tensor, pointwise: Tensor, bias: Tensor) -> Tensor:
        h = filtered_1d(x, depthwise)
        return linear(h.transpose(1, 2), pointwise[..., 0], bias)

    def conv1d_conv1d(x: Tensor, depthwise: Tensor, pointwise: Tensor, bias: Tensor) -> Tensor:
        y = conv1d(filtered_1d(x, depthwise), pointwise, bias)
        return y.transpose(1, 2).contiguous()

    def conv2d_linear(x: Tensor, depthwise: Tensor, pointwise: Tensor, bias: Tensor) -> Tensor:
        h = filtered_2d(x, depthwise)
        return linear(h.squeeze(2).transpose(1, 2), pointwise[..., 0], bias)

    def conv2d_conv2d(x: Tensor, depthwise: Tensor, pointwise: Tensor, bias: Tensor) -> Tensor:
        y = conv2d(filtered_2d(x, depthwise), pointwise.unsqueeze(2), bias)
        return y.squeeze(2).transpose(1, 2).contiguous()

    ways = (conv1d_linear, conv1d_conv1d, conv2d_linear, conv2d_conv2d)
    return Case(workload, kernels="torch"), {way.__name__: way for way in ways}
