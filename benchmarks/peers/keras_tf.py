"""Keras 3's layer on its TensorFlow backend."""

from benchmarks.case import Case
from benchmarks.peers import in_tensorflow
from benchmarks.peers.keras_layer import layer_of
from benchmarks.worker import Program
from benchmarks.workloads import Workload


def build(workload: Workload) -> dict[str, Program]:
    """Trace the layer for a workload."""
    case = Case(workload)
    model = layer_of(workload, case.operands())
    weights = [variable.value for variable in model.trainable_variables]
    return in_tensorflow.programs(case, model, weights)
