"""Keras 3's `SeparableConv1D`; which backend it runs on, the worker's environment says."""

from typing import Any

import keras

from benchmarks.case import Operands
from benchmarks.workloads import Workload


def layer_of(workload: Workload, operands: Operands) -> keras.Sequential:
    """Make the layer with given weights; causal padding, which it lacks, is a layer before it."""
    layers: list[Any] = [keras.Input(operands.x.shape[1:], batch_size=workload.batch)]
    if workload.padding == "causal":
        layers.append(keras.layers.ZeroPadding1D((workload.pads[0], 0)))
    separable = keras.layers.SeparableConv1D(
        workload.filters,
        workload.kernel_size,
        strides=workload.strides,
        padding="valid" if workload.padding == "causal" else workload.padding,
        dilation_rate=workload.dilation_rate,
        depth_multiplier=workload.depth_multiplier,
    )
    model = keras.Sequential([*layers, separable])
    separable.set_weights(list(operands[1:4]))
    return model
