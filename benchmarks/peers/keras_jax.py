"""Keras 3's layer on its JAX backend, as a pure function (`stateless_call`)."""

from jax import Array

from benchmarks.case import Case
from benchmarks.peers import in_jax
from benchmarks.peers.keras_layer import layer_of
from benchmarks.worker import Program
from benchmarks.workloads import Workload


def build(workload: Workload) -> dict[str, Program]:
    """Compile the layer for a workload."""
    case = Case(workload)
    model = layer_of(workload, case.operands())

    def layer(x: Array, depthwise: Array, pointwise: Array, bias: Array) -> Array:
        return model.stateless_call([depthwise, pointwise, bias], [], x)[0]

    return in_jax.programs(case, layer)
