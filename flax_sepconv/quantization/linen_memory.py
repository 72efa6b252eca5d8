"""What a quantized linen layer keeps: its part of the collection "quantization"."""

from typing import Any

import jax

from flax_sepconv.quantization.layer import Quantized
from flax_sepconv.quantization.observing import Memory, check_kept, initial_ranges
from flax_sepconv.quantization.surroundings import surroundings
from flax_sepconv.quantization.weights import (
    converted,
    is_converted,
    learned_steps,
    refuse_converted,
)
from flax_sepconv.spec import POINTWISE_KERNEL, Arguments

COLLECTION = "quantization"


def quantized_of(
    layer: Any, arguments: Arguments, weights: dict[str, jax.Array]
) -> Quantized | None:
    """Return what a bound layer computes in place of its arguments; None where that is these.

    In `init` it is these: there the variables are made. Where weights are to be converted, they
    are, those given too.

    Raises:
        ValueError: the variables lack what the layer needs.
    """
    config = surroundings().quantization_of(layer.quantization)
    name = "/".join(layer.path) or type(layer).__name__
    if config is None:
        refuse_converted(name, weights)
        return None
    kept = dict(layer.variables.get(COLLECTION, {}))
    if is_converted(weights):
        return Quantized(arguments, config, Memory(name, kept, {}, observes=False))
    has_pointwise = POINTWISE_KERNEL in weights
    is_mutable = layer.is_mutable_collection(COLLECTION)
    if is_mutable:
        for missing, array in initial_ranges(config, has_pointwise).items():
            if missing not in kept:
                kept[missing] = array
                layer.put_variable(COLLECTION, missing, array)
    learned = {
        step: layer._weight(
            step, lambda _, shape, dtype, first=first: first.astype(dtype), first.shape
        )
        for step, first in learned_steps(weights, config).items()
    }
    if layer.is_initializing():
        return None
    check_kept(name, kept, config, has_pointwise)
    goes_on = surroundings()
    observes = is_mutable and not goes_on.is_converting
    memory = Memory(name, kept, learned, observes, goes_on.is_calibrating)
    if goes_on.is_converting:
        made, kept = converted(weights, config, memory)
        for weight, array in made.items():
            layer.put_variable(_collection_of_weights(layer), weight, array)
        for number, array in kept.items():
            layer.put_variable(COLLECTION, number, array)
        weights.update(made)
        memory = Memory(name, kept, {}, observes=False)
    return Quantized(arguments, config, memory)


def remember(layer: Any, memory: Memory) -> None:
    """Keep what a call observed."""
    if memory.observes:
        for name, array in memory.kept.items():
            layer.put_variable(COLLECTION, name, array)
    if memory.calibrates:
        for name, array in memory.learned.items():
            layer.put_variable(_collection_of_weights(layer), name, array.astype(layer.param_dtype))


def _collection_of_weights(layer: Any) -> str:
    return "params" if layer.trainable else "non_trainable"
