"""Equinox' grouped `Conv1d`, then one of a single tap, over data (B, C, L) as Equinox has it."""

import equinox as eqx
import jax
from jax import Array

from benchmarks.case import Case
from benchmarks.peers import in_jax
from benchmarks.worker import Program
from benchmarks.workloads import Workload


def build(workload: Workload) -> dict[str, Program]:
    """Compile the layer for a workload."""
    key = jax.random.key(0)  # Its weights are replaced.
    depthwise_conv = eqx.nn.Conv1d(
        workload.channels,
        workload.joined,
        workload.kernel_size,
        stride=workload.strides,
        padding=[workload.pads],
        dilation=workload.dilation_rate,
        groups=workload.channels,
        use_bias=False,
        key=key,
    )
    pointwise_conv = eqx.nn.Conv1d(workload.joined, workload.filters, 1, key=key)

    def layer(x: Array, depthwise: Array, pointwise: Array, bias: Array) -> Array:
        first = eqx.tree_at(lambda conv: conv.weight, depthwise_conv, depthwise)
        second = eqx.tree_at(
            lambda conv: (conv.weight, conv.bias), pointwise_conv, (pointwise, bias[:, None])
        )
        return jax.vmap(lambda series: second(first(series)))(x)

    return in_jax.programs(Case(workload, data="BCL", kernels="torch"), layer)
