"""What a quantized nnx layer keeps: variables of a type of their own."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from flax_sepconv.quantization.config import Int8
from flax_sepconv.quantization.layer import Quantized
from flax_sepconv.quantization.observing import Memory, initial_ranges
from flax_sepconv.quantization.surroundings import surroundings
from flax_sepconv.quantization.weights import (
    is_converted,
    learned_names,
    learned_steps,
    refuse_converted,
)
from flax_sepconv.spec import POINTWISE_KERNEL


class QuantizationState(nnx.Variable[Any]):
    """A range that a quantized layer observed, or a scale or zero point of its integers."""


try:  # For `nnx.bridge` it is linen's collection of this name.
    nnx.register_variable_name("quantization", QuantizationState)
except ValueError:  # Another library's type is that already, and as good.
    QuantizationState = nnx.variable_type_from_name("quantization")  # type: ignore


def add_quantization(layer: Any, quantization: Int8) -> None:
    """Give a layer that has its weights a quantization, and the variables that it needs for it."""
    layer.quantization = quantization
    # As of `nnx.BatchNorm`, so that `train()` and `eval()` set it.
    layer.use_running_average = False
    weights = weights_of(layer)
    for name, array in initial_ranges(quantization, POINTWISE_KERNEL in weights).items():
        setattr(layer, name, QuantizationState(array))
    kind = type(layer.depthwise_kernel)
    for name, array in learned_steps(weights, quantization).items():
        setattr(layer, name, kind(array.astype(layer.param_dtype)))


def kept_by(layer: Any) -> dict[str, Any]:
    """Return what a layer keeps, by name."""
    return {n: v for n, v in vars(layer).items() if isinstance(v, QuantizationState)}


def quantized_of(layer: Any, weights: Mapping[str, jax.Array]) -> Quantized | None:
    """Return what a layer computes in place of its arguments; None where that is these."""
    config, name = layer.quantization, type(layer).__name__
    if config is None:
        refuse_converted(name, weights)
        return None
    kept = {n: variable[...] for n, variable in kept_by(layer).items()}
    if is_converted(weights):
        return Quantized(layer.arguments, config, Memory(name, kept, {}, observes=False))
    learned = {n: getattr(layer, n)[...] for n in learned_names(weights, config)}
    memory = Memory(
        name, kept, learned, not layer.use_running_average, surroundings().is_calibrating
    )
    return Quantized(layer.arguments, config, memory)


def remember(layer: Any, memory: Memory) -> None:
    """Keep what a call observed."""
    if memory.observes:
        for name, array in memory.kept.items():
            getattr(layer, name)[...] = array
    if memory.calibrates:
        for name, array in memory.learned.items():
            getattr(layer, name)[...] = array.astype(layer.param_dtype)


def weights_of(layer: Any) -> dict[str, jax.Array]:
    """Return the weights of a layer, by name."""
    parameters = layer.arguments.parameters(layer.in_features)
    return {parameter.name: getattr(layer, parameter.name)[...] for parameter in parameters}
