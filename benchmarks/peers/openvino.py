"""OpenVINO on the CPU, on all cores and in float32; y stands in the request's own memory."""

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino

from benchmarks.peers import in_onnx
from benchmarks.worker import Program
from benchmarks.workloads import Workload

# Left to itself it computes in bfloat16 where the processor can.
SETTINGS = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_PRECISION_HINT": "f32",
    "INFERENCE_NUM_THREADS": os.cpu_count() or 1,
}


def build(workload: Workload) -> dict[str, Program]:
    """Compile the forward pass of a workload."""
    core = openvino.Core()

    def load(model: bytes, x: np.ndarray) -> tuple[in_onnx.Run, Callable[[Any], np.ndarray]]:
        compiled = core.compile_model(core.read_model(model), "CPU", SETTINGS)
        request = compiled.create_infer_request()
        # The request reads x where it is, and does not keep it alive; a copy becomes its own.
        request.set_input_tensor(openvino.Tensor(x, shared_memory=False))
        run = functools.partial(request.infer, share_outputs=True)
        return run, lambda result: np.array(request.get_output_tensor().data)

    return in_onnx.programs(workload, load)
