"""LiteRT (TensorFlow Lite) with XNNPACK: Keras' layer as its converter makes integers of it.

The converter is given the real numbers that the integers of all the others stand for, as weights
and as the data to find ranges with, and so comes to the same integers.
"""

import contextlib
import io
import os
import time
import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.case import Operands
from benchmarks.integers.problem import Problem, Steps
from benchmarks.peers.keras_layer import layer_of
from benchmarks.worker import Program


def build(problem: Problem) -> dict[str, Program]:
    """Convert the layer, and load it on all cores; x is in the interpreter's own memory."""
    start = time.perf_counter()
    model = converted(problem)
    with warnings.catch_warnings():  # It names the package that the interpreter will move to.
        warnings.simplefilter("ignore", UserWarning)
        interpreter = tf.lite.Interpreter(model_content=model, num_threads=os.cpu_count() or 1)
    interpreter.allocate_tensors()
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(given["index"], _requantized(problem, given))
    scale, zero_point = result["quantization"]
    y_steps = Steps(np.float32(scale), zero_point)

    def read(_: Any) -> dict[str, np.ndarray]:
        y = interpreter.get_tensor(result["index"])
        return {"steps": y_steps.real(y) / problem.y_steps.scale}

    facts = {
        "compile_seconds": time.perf_counter() - start,
        "model_bytes": len(model),
        "executed": _operations(interpreter, given["index"], result["index"]),
    }
    return {"integers": Program(interpreter.invoke, read, facts)}


def converted(problem: Problem) -> bytes:
    """Make a model whose x, weights and y are all int8."""
    x, kernel, weights, bias = problem.real()
    layer = layer_of(problem.workload, Operands(x, kernel, weights, bias, dy=x))
    converter = tf.lite.TFLiteConverter.from_keras_model(layer)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: iter([[x]])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bytes(converter.convert())


def _requantized(problem: Problem, given: dict[str, Any]) -> np.ndarray:
    """Return x in the steps that the converter found for it: the same, but for rounding."""
    scale, zero_point = given["quantization"]
    x = np.rint(problem.real()[0] / np.float32(scale)) + zero_point
    return np.clip(x, -128, 127).astype(np.int8)


def _operations(interpreter: Any, x: int, y: int) -> list[str]:
    """Name what runs: XNNPACK where it took over all between x and y, else all operations."""
    operations = interpreter._get_ops_details()
    is_all = any(
        operation["op_name"] == "DELEGATE"
        and x in operation["inputs"]
        and y in operation["outputs"]
        for operation in operations
    )
    return ["XNNPACK"] if is_all else [operation["op_name"] for operation in operations]
