"""What Flax users write without this package: a grouped `nn.Conv`, then `nn.Dense`."""

from typing import Any

import flax.linen as nn
from jax import Array

from benchmarks.case import Case
from benchmarks.peers import in_jax
from benchmarks.worker import Program
from benchmarks.workloads import Workload


def build(workload: Workload) -> dict[str, Program]:
    """Compile the layer for a workload."""
    return in_jax.programs(Case(workload), layer_of(workload))


def layer_of(workload: Workload) -> in_jax.Layer:
    """Make the layer as a function of arrays."""
    depthwise_conv = nn.Conv(
        workload.joined,
        kernel_size=(workload.kernel_size,),
        strides=(workload.strides,),
        padding=workload.padding.upper(),
        kernel_dilation=(workload.dilation_rate,),
        feature_group_count=workload.channels,
        use_bias=False,
    )
    dense = nn.Dense(workload.filters)

    def layer(x: Array, depthwise: Array, pointwise: Array, bias: Array) -> Any:
        kernel = depthwise.reshape(workload.kernel_size, 1, workload.joined)
        h = depthwise_conv.apply({"params": {"kernel": kernel}}, x)
        return dense.apply({"params": {"kernel": pointwise[0], "bias": bias}}, h)

    return layer
