"""`tf.nn.separable_conv2d` over a height of one, as TF1's `separable_conv1d` layer calls it."""

import tensorflow as tf

from benchmarks.case import Case
from benchmarks.peers import in_tensorflow
from benchmarks.worker import Program
from benchmarks.workloads import Workload


def build(workload: Workload) -> dict[str, Program]:
    """Trace the layer for a workload."""
    case = Case(workload)
    depthwise, pointwise, bias = map(tf.Variable, case.operands()[1:4])
    causal = workload.padding == "causal"

    def layer(x: tf.Tensor) -> tf.Tensor:
        if causal:
            x = tf.pad(x, [[0, 0], [workload.pads[0], 0], [0, 0]])
        y = tf.nn.separable_conv2d(
            x[:, None],
            depthwise[None],
            pointwise[None],
            strides=[1, workload.strides, workload.strides, 1],
            padding="VALID" if causal else workload.padding.upper(),
            dilations=[1, workload.dilation_rate],
        )
        return tf.nn.bias_add(y, bias)[:, 0]

    return in_tensorflow.programs(case, layer, [depthwise, pointwise, bias])
