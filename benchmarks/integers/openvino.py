"""OpenVINO on the CPU, on all cores; y stands in the request's own memory."""

import functools
import os
from typing import Any

import numpy as np
import openvino

from benchmarks.integers import in_onnx
from benchmarks.integers.problem import Problem
from benchmarks.worker import Program

# What is not of integers it would otherwise compute in bfloat16 where the processor can.
SETTINGS = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_PRECISION_HINT": "f32",
    "INFERENCE_NUM_THREADS": os.cpu_count() or 1,
}

# Over (B, C, 1, L) in uint8 its compiler does not come to an end (2026.4.1), or the depthwise stage
# is computed in float32.
WAYS = [way for way in in_onnx.WAYS if way.convolution == "conv1d"]


def build(problem: Problem) -> dict[str, Program]:
    """Compile the forward pass of a layer."""
    core = openvino.Core()

    def load(model: bytes, x: np.ndarray) -> tuple[in_onnx.Run, in_onnx.Read, dict[str, Any]]:
        compiled = core.compile_model(core.read_model(model), "CPU", SETTINGS)
        request = compiled.create_infer_request()
        # The request reads x where it is, and does not keep it alive; a copy becomes its own.
        request.set_input_tensor(openvino.Tensor(x, shared_memory=False))
        run = functools.partial(request.infer, share_outputs=True)
        facts = {"executed": executed(compiled)}
        if "Convolution f32" in facts["executed"]:
            raise NotImplementedError(f"it computes in float32: {', '.join(facts['executed'])}")
        return run, lambda result: np.array(request.get_output_tensor().data), facts

    return in_onnx.programs(problem, load, WAYS)


def executed(compiled: openvino.CompiledModel) -> list[str]:
    """Name the operations that run, each with the type of the numbers that it computes with."""
    found = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        kind, numbers = (node.get_rt_info()[key].value for key in ("layerType", "runtimePrecision"))
        if kind != "Const":
            found.append(f"{kind} {numbers}")
    return found
