"""What the peers on TensorFlow share: two `tf.function`s of a layer with variables.

They are graphs as TensorFlow runs them by default; `jit_compile` would be XLA's path again, which
the peers on JAX stand for.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from benchmarks.case import Case
from benchmarks.worker import Program


def programs(
    case: Case, layer: Callable[[tf.Tensor], tf.Tensor], weights: Sequence[tf.Variable]
) -> dict[str, Program]:
    """Trace the layer, and the layer with all its gradients.

    Args:
        case: the workload in the layer's layouts.
        layer: x -> y.
        weights: the layer's depthwise kernel, pointwise kernel and bias.
    """
    operands = case.operands()
    x, dy = tf.constant(operands.x), tf.constant(operands.dy)

    @tf.function
    def forward(x: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return (layer(x),)

    @tf.function
    def forward_backward(x: tf.Tensor, dy: tf.Tensor) -> tuple[tf.Tensor, ...]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return y, *tape.gradient(y, [x, *weights], output_gradients=dy)

    return {
        "forward": _program(forward, (x,), case),
        "forward_backward": _program(forward_backward, (x, dy), case),
    }


def _program(function: Any, operands: Sequence[tf.Tensor], case: Case) -> Program:
    """Trace a function; its first run, less a later one, counts as compilation."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        function(*operands)
        seconds.append(time.perf_counter() - start)
    return Program(
        run=lambda: function(*operands),
        read=lambda result: case.read([tensor.numpy() for tensor in result]),
        facts={"compile_seconds": seconds[0] - seconds[-1], "memory_bytes": None},
    )
