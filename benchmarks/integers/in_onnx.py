"""What the peers that run ONNX models share: the layer as a graph of integers, in several ways.

Every array is of integers with a scale, which QuantizeLinear and DequantizeLinear say around two
convolutions; runtimes find such pairs and compute with the integers. x, h and y are uint8, which
the runtimes prefer on x86: the integers of int8, and 128 more. Weights are int8 constants with a
scale for each channel, which a runtime may lay out as it likes before the first call.
"""

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks import timing
from benchmarks.integers.problem import Problem, Steps
from benchmarks.worker import Program

OPSET = 17
SHIFT = 128  # from int8 to uint8

Run = Callable[[], Any]
Read = Callable[[Any], np.ndarray]
Load = Callable[[bytes, np.ndarray], tuple[Run, Read, dict[str, Any]]]


class Way(NamedTuple):
    """A form of the graph.

    Attributes:
        convolution: over (B, C, L), or (B, C, 1, L), for which runtimes have kernels of their own.
        data: the layout of x and y; the transposes of "BLC" a runtime may move, join and drop.
    """

    convolution: Literal["conv1d", "conv2d"]
    data: Literal["BCL", "BLC"]

    def given(self, problem: Problem) -> np.ndarray:
        """Return x in this form."""
        x = problem.x if self.data == "BLC" else problem.x.swapaxes(1, 2)
        return np.ascontiguousarray((x.astype(np.int16) + SHIFT).astype(np.uint8))

    def steps(self, problem: Problem, y: np.ndarray) -> np.ndarray:
        """Return y as (B, output length, F), in steps from its zero point."""
        centred = y.astype(np.int32) - (problem.y_steps.zero_point + SHIFT)
        return centred if self.data == "BLC" else centred.swapaxes(1, 2)


WAYS = tuple(itertools.starmap(Way, itertools.product(("conv1d", "conv2d"), ("BCL", "BLC"))))


def programs(problem: Problem, load: Load, ways: Sequence[Way] = WAYS) -> dict[str, Program]:
    """Make the forward pass in the fastest of some ways.

    Args:
        problem: the layer.
        load: makes of a serialized model and x a function that computes y, one that makes a NumPy
            array of what it returns, and facts about what is computed.
        ways: to be tried.
    """
    made = {}
    for way in ways:
        start = time.perf_counter()
        graph = model(problem, way).SerializeToString()
        run, read, facts = load(graph, way.given(problem))
        facts |= {
            "compile_seconds": time.perf_counter() - start,
            "model_bytes": len(graph),
            "way": " ".join(way),
        }
        made[facts["way"]] = Program(run, functools.partial(_read, problem, way, read), facts)
    fastest = timing.fastest({way: program.run for way, program in made.items()})
    return {"integers": made[fastest]}


def _read(problem: Problem, way: Way, read: Read, result: Any) -> dict[str, np.ndarray]:
    return {"steps": way.steps(problem, read(result))}


def model(problem: Problem, way: Way) -> onnx.ModelProto:
    """Make the graph of a layer in one way."""
    w = problem.workload
    is_flat, is_last = way.convolution == "conv1d", way.data == "BLC"
    rank = 1 if is_flat else 2
    low, high = w.pads
    settings: dict[str, Any] = {
        "strides": [1, w.strides][-rank:],
        "dilations": [1, w.dilation_rate][-rank:],
        "pads": [0, low][-rank:] + [0, high][-rank:],
        "group": w.channels,
    }
    kernel = problem.kernel.reshape(w.kernel_size, 1, w.joined).transpose(2, 1, 0)
    weights = problem.weights.transpose(2, 1, 0)
    graph = _Graph()
    for name, steps in zip("xhy", (problem.x_steps, problem.h_steps, problem.y_steps), strict=True):
        graph.steps(name, steps)
    for name, array, scale in (
        ("kernel", kernel, problem.kernel_scale),
        ("weights", weights, problem.weights_scale),
    ):
        graph.constant(name, array if is_flat else array[:, :, None], scale.reshape(-1))
    graph.constant("bias", problem.bias, problem.bias_scale)
    x, y = (w.batch, w.length, w.channels), (w.batch, w.steps, w.filters)
    if not is_last:
        x, y = ((B, C, L) for B, L, C in (x, y))

    layout: list[tuple[str, Any]] = []
    if not is_flat:
        layout.append(("Reshape", (*x[:1], 1, *x[1:]) if is_last else (*x[:2], 1, x[2])))
    if is_last:
        layout.append(("Transpose", (0, 2, 1) if is_flat else (0, 3, 1, 2)))
    back: list[tuple[str, Any]] = []
    if is_last:
        back.append(("Transpose", (0, 2, 1) if is_flat else (0, 2, 3, 1)))
    if not is_flat:
        back.append(("Reshape", y))

    graph.real("x")
    graph.change(layout)
    graph.node("Conv", "kernel_real", **settings)
    graph.quantized("h")
    graph.real("h")
    graph.node("Conv", "weights_real", "bias_real")
    graph.change(back)
    graph.quantized("y")
    return graph.finished(x, y)


class _Graph:
    """Constants, and nodes of which each takes what the one before it makes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.last = "x"

    def steps(self, name: str, steps: Steps) -> None:
        """Add the scale and the zero point of an array."""
        self.constants[f"{name}_scale"] = np.asarray(steps.scale, np.float32)
        self.constants[f"{name}_zero"] = np.array(steps.zero_point + SHIFT, np.uint8)

    def constant(self, name: str, integers: np.ndarray, scale: np.ndarray) -> None:
        """Add integers whose first axis has scales, and the real numbers that they stand for."""
        self.constants[name] = np.ascontiguousarray(integers)
        self.constants[f"{name}_scale"] = scale
        self.constants[f"{name}_zero"] = np.zeros(scale.shape, integers.dtype)
        inputs = [name, f"{name}_scale", f"{name}_zero"]
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}_real"], axis=0))

    def node(self, kind: str, *others: str, name: str = "", **settings: Any) -> None:
        """Add a node behind the last one."""
        name = name or f"made_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.last, *others], [name], **settings))
        self.last = name

    def real(self, name: str) -> None:
        """Make real numbers of the last integers, with the steps of a name."""
        self.node("DequantizeLinear", f"{name}_scale", f"{name}_zero")

    def quantized(self, name: str) -> None:
        """Make integers of the last real numbers."""
        self.node("QuantizeLinear", f"{name}_scale", f"{name}_zero", name=name)

    def change(self, layout: Sequence[tuple[str, Any]]) -> None:
        """Change the layout of the last array."""
        for kind, sizes in layout:
            if kind == "Transpose":
                self.node(kind, perm=sizes)
            else:
                shape = f"shape_{len(self.nodes)}"
                self.constants[shape] = np.array(sizes)
                self.node(kind, shape)

    def finished(self, x: Sequence[int], y: Sequence[int]) -> onnx.ModelProto:
        """Return the model, from "x" to "y"."""
        ends = [
            helper.make_tensor_value_info(name, TensorProto.UINT8, shape)
            for name, shape in (("x", x), ("y", y))
        ]
        initializers = [
            numpy_helper.from_array(array, name) for name, array in self.constants.items()
        ]
        graph = helper.make_graph(self.nodes, "layer", ends[:1], ends[1:], initializers)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        made.ir_version = 10  # Older runtimes refuse the newest.
        onnx.checker.check_model(made)
        return made
