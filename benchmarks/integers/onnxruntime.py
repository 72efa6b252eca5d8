"""ONNX Runtime on the CPU; y is written into an array that is bound once, as its users may."""

from typing import Any

import numpy as np
import onnxruntime

from benchmarks.integers import in_onnx
from benchmarks.integers.problem import Problem
from benchmarks.worker import Program


def build(problem: Problem) -> dict[str, Program]:
    """Load the forward pass of a layer."""

    def load(model: bytes, x: np.ndarray) -> tuple[in_onnx.Run, in_onnx.Read, dict[str, Any]]:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        (output,) = session.get_outputs()
        y = onnxruntime.OrtValue.ortvalue_from_shape_and_type(output.shape, x.dtype, "cpu")
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
        binding.bind_ortvalue_output("y", y)
        return lambda: session.run_with_iobinding(binding), lambda result: y.numpy(), {}

    return in_onnx.programs(problem, load)
