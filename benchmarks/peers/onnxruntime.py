"""ONNX Runtime on the CPU; y is written into an array that is bound once, as its users may."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.peers import in_onnx
from benchmarks.worker import Program
from benchmarks.workloads import Workload


def build(workload: Workload) -> dict[str, Program]:
    """Load the forward pass of a workload."""

    def load(model: bytes, x: np.ndarray) -> tuple[in_onnx.Run, Callable[[Any], np.ndarray]]:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        shape = (workload.batch, workload.filters, workload.steps)
        y = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cpu")
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
        binding.bind_ortvalue_output("y", y)
        return lambda: session.run_with_iobinding(binding), lambda result: y.numpy()

    return in_onnx.programs(workload, load)
