"""Haiku's `DepthwiseConv1D`, then `Linear`."""

import haiku as hk
from jax import Array

from benchmarks.case import Case
from benchmarks.peers import in_jax
from benchmarks.worker import Program
from benchmarks.workloads import Workload


def build(workload: Workload) -> dict[str, Program]:
    """Compile the layer for a workload."""

    def modules(x: Array) -> Array:
        h = hk.DepthwiseConv1D(
            workload.depth_multiplier,
            workload.kernel_size,
            stride=workload.strides,
            rate=workload.dilation_rate,
            padding=[workload.pads],
            with_bias=False,
            name="depthwise",
        )(x)
        return hk.Linear(workload.filters, name="pointwise")(h)

    transformed = hk.without_apply_rng(hk.transform(modules))

    def layer(x: Array, depthwise: Array, pointwise: Array, bias: Array) -> Array:
        kernel = depthwise.reshape(workload.kernel_size, 1, workload.joined)
        params = {"depthwise": {"w": kernel}, "pointwise": {"w": pointwise[0], "b": bias}}
        return transformed.apply(params, x)

    return in_jax.programs(Case(workload), layer)
