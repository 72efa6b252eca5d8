"""What the peers that run ONNX models share: the forward pass as graphs with constant weights.

A graph takes x (B, C, L), ONNX' own layout, and returns y in the same. Its weights are constants,
which a runtime may copy into whatever layout it likes before the first call. Gradients there are
none.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks import timing
from benchmarks.case import Case
from benchmarks.worker import Program
from benchmarks.workloads import Workload

# `Conv` over (B, C, L), or over (B, C, 1, L), for which runtimes have kernels of their own.
WAYS = ("conv1d", "conv2d")
OPSET = 17  # Any would do: `Conv` and `Reshape` are older.

Run = Callable[[], Any]
Load = Callable[[bytes, np.ndarray], tuple[Run, Callable[[Any], np.ndarray]]]


def programs(workload: Workload, load: Load) -> dict[str, Program]:
    """Make the forward pass in the fastest way.

    Args:
        workload: the layer.
        load: makes of a serialized model and x a function that computes y, and one that makes a
            NumPy array of what it returns.
    """
    case = Case(workload, data="BCL", kernels="torch")
    x, *weights, _ = case.operands()
    made = {}
    for way in WAYS:
        graph = model(workload, weights, is_flat=way == "conv1d")
        start = time.perf_counter()
        run, read = load(graph.SerializeToString(), x)
        facts = {"compile_seconds": time.perf_counter() - start, "memory_bytes": None, "way": way}
        made[way] = Program(run, functools.partial(_read, case, read), facts)
    fastest = timing.fastest({way: program.run for way, program in made.items()})
    return {"forward": made[fastest]}


def _read(case: Case, read: Callable[[Any], np.ndarray], result: Any) -> dict[str, np.ndarray]:
    return case.read([read(result)])


def model(workload: Workload, weights: list[np.ndarray], *, is_flat: bool) -> onnx.ModelProto:
    """Make a graph of two convolutions, with a height of one between its ends if not flat."""
    w = workload
    depthwise, pointwise, bias = weights
    if not is_flat:
        depthwise, pointwise = depthwise[:, :, None], pointwise[:, :, None]
    rank = 1 if is_flat else 2
    low, high = w.pads
    settings = {
        "strides": [1, w.strides][-rank:],
        "dilations": [1, w.dilation_rate][-rank:],
        "pads": [0, low][-rank:] + [0, high][-rank:],
        "group": w.channels,
    }
    first, last = ("x", "y") if is_flat else ("x4", "y4")
    nodes = [
        helper.make_node("Conv", [first, "depthwise"], ["h"], **settings),
        helper.make_node("Conv", ["h", "pointwise", "bias"], [last]),
    ]
    constants = {"depthwise": depthwise, "pointwise": pointwise, "bias": bias}
    shapes = (w.batch, w.channels, w.length), (w.batch, w.filters, w.steps)
    if not is_flat:
        constants["tall"] = np.array([w.batch, w.channels, 1, w.length])
        constants["flat"] = np.array(shapes[1])
        nodes.insert(0, helper.make_node("Reshape", ["x", "tall"], ["x4"]))
        nodes.append(helper.make_node("Reshape", ["y4", "flat"], ["y"]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip("xy", shapes, strict=True)
    ]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "layer", ends[:1], ends[1:], initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    made.ir_version = 10  # Older runtimes refuse the newest.
    onnx.checker.check_model(made)
    return made
