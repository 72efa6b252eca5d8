"""PyTorch's grouped `conv1d`, then one of a single tap, over data (B, C, L) as PyTorch has it."""

from torch import Tensor
from torch.nn.functional import conv1d

from benchmarks.case import Case
from benchmarks.peers import in_torch
from benchmarks.worker import Program
from benchmarks.workloads import Workload


def build(workload: Workload, dtype: str = "float32") -> dict[str, Program]:
    """Make the layer for a workload."""
    return in_torch.programs(*ways_of(workload), dtype)


def ways_of(workload: Workload) -> tuple[Case, dict[str, in_torch.Layer]]:
    """Return the layouts, and the layer by the names of the ways to compute it."""

    def layer(x: Tensor, depthwise: Tensor, pointwise: Tensor, bias: Tensor) -> Tensor:
        x, padding = in_torch.padded(x, workload.pads)
        h = conv1d(
            x,
            depthwise,
            stride=workload.strides,
            padding=padding,
            dilation=workload.dilation_rate,
            groups=workload.channels,
        )
        return conv1d(h, pointwise, bias)

    return Case(workload, data="BCL", kernels="torch"), {"conv1d": layer}
