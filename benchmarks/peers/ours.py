"""This package's linen layer, as it selects its lowerings itself."""

from collections.abc import Callable
from typing import Any

from jax import Array

import flax_sepconv as fsc
from benchmarks.case import Case
from benchmarks.peers import in_jax
from benchmarks.worker import Program
from benchmarks.workloads import Workload
from flax_sepconv.ops.lowerings import Implementation


def build(workload: Workload, dtype: str = "float32") -> dict[str, Program]:
    """Compile the layer for a workload."""
    return in_jax.programs(Case(workload), layer_of(workload), dtype)


def layer_of(
    workload: Workload, implementation: Implementation | None = None
) -> Callable[..., Any]:
    """Make the layer as a function of arrays."""
    module = fsc.SeparableConv1D(
        filters=workload.filters,
        kernel_size=workload.kernel_size,
        strides=workload.strides,
        padding=workload.padding,
        dilation_rate=workload.dilation_rate,
        depth_multiplier=workload.depth_multiplier,
        implementation=implementation,
    )

    def layer(
        x: Array, depthwise: Array, pointwise: Array, bias: Array, lengths: Array | None = None
    ) -> Any:
        params = {"depthwise_kernel": depthwise, "pointwise_kernel": pointwise, "bias": bias}
        return module.apply({"params": params}, x, lengths)

    return layer
