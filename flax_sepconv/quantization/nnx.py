"""Nnx models: ranges from data, integers of weights, and both at once."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

from flax_sepconv.quantization.config import DEFAULT, Int8, check_config
from flax_sepconv.quantization.nnx_memory import (
    QuantizationState,
    add_quantization,
    kept_by,
    weights_of,
)
from flax_sepconv.quantization.observing import Memory
from flax_sepconv.quantization.surroundings import within
from flax_sepconv.quantization.weights import check_finite, converted, is_converted, learned_names
from flax_sepconv.spec import Arguments

Model = TypeVar("Model", bound=nnx.Module)


def calibrate(model: Model, batches: Iterable[Any], **kwargs: Any) -> Model:
    """Observe the ranges of a model's activations over some data; nothing is rounded meanwhile.

    As `flax_sepconv.quantization.calibrate` does of linen models.

    Args:
        model: any nnx module, in the mode in which it is to be called (`eval()` for most).
        batches: each an array, or a tuple of arrays: the inputs of a call.
        **kwargs: of the calls.

    Returns:
        A copy of the model with new ranges.

    Raises:
        ValueError: there are no batches.

    Example:
        >>> import jax.numpy as jnp
        >>> import flax_sepconv as fsc
        >>> layer = fsc.nnx.SeparableConv1D(3, 5, 4, quantization=Int8(), rngs=nnx.Rngs(0))
        >>> layer = calibrate(layer, [jnp.ones((2, 10, 3)), -jnp.ones((2, 10, 3))])
        >>> float(layer.x_low[...]), int(layer.calls[...])
        (-0.5, 2)
    """
    copy = nnx.clone(model)
    layers = [layer for layer in _layers(copy) if layer.quantization is not None]
    modes = [(layer, layer.use_running_average) for layer in layers]
    for layer, _ in modes:
        layer.use_running_average = False
    calls = 0
    with within(is_calibrating=True):
        for batch in batches:
            copy(*(batch if isinstance(batch, tuple) else (batch,)), **kwargs)
            calls += 1
    if not calls:
        raise ValueError("batches must have at least one batch, got none")
    for layer, mode in modes:
        layer.use_running_average = mode
    return copy


def convert(model: Model) -> Model:
    """Make integers of the weights of a model's quantized layers, for inference.

    As `flax_sepconv.quantization.convert` does of linen models.

    Args:
        model: any nnx module.

    Returns:
        A copy of the model that computes in integers.

    Raises:
        ValueError: a range was never observed, or no layer has weights to convert.

    Example:
        >>> import jax.numpy as jnp
        >>> import flax_sepconv as fsc
        >>> layer = fsc.nnx.SeparableConv1D(3, 5, 4, quantization=Int8(), rngs=nnx.Rngs(0))
        >>> y = layer(jnp.ones((2, 10, 3)))
        >>> integers = convert(layer)
        >>> integers.depthwise_kernel.dtype, integers.bias.dtype
        (dtype('int8'), dtype('int32'))
        >>> bool(jnp.all(integers(jnp.ones((2, 10, 3))) == y))
        True
    """
    copy = nnx.clone(model)
    layers = [layer for layer in _layers(copy) if layer.quantization is not None]
    if not layers:
        raise ValueError(
            "model must have layers with quantization=Int8(...), got none in "
            f"{type(model).__name__}"
        )
    for layer in layers:
        _convert(layer)
    return copy


def quantize(model: Model, batches: Iterable[Any], config: Int8 = DEFAULT, **kwargs: Any) -> Model:
    """Quantize a trained model: `calibrate` it over some data, then `convert` it.

    Args:
        model: any nnx module, in the mode in which it is to be called (`eval()` for most).
        batches: each an array, or a tuple of arrays: the inputs of a call.
        config: for layers without a `quantization` of their own.
        **kwargs: of the calls.

    Returns:
        A copy of the model that computes in integers.

    Raises:
        ValueError: there are no batches, or no layers of ours.

    Example:
        >>> import jax.numpy as jnp
        >>> import flax_sepconv as fsc
        >>> layer = fsc.nnx.SeparableConv1D(3, 5, 4, rngs=nnx.Rngs(0))
        >>> x = jax.random.normal(jax.random.key(0), (8, 10, 3))
        >>> y = layer(x)
        >>> bool(jnp.abs(quantize(layer, [x])(x) - y).max() < 0.05 * jnp.abs(y).max())
        True
    """
    check_config(config)
    copy = nnx.clone(model)
    for layer in _layers(copy):
        if layer.quantization is None:
            add_quantization(layer, config)
            layer.use_running_average = True
    return convert(calibrate(copy, batches, **kwargs))


def _layers(model: nnx.Module) -> Iterator[Any]:
    for _, node in nnx.iter_graph(model):
        if isinstance(node, nnx.Module) and isinstance(getattr(node, "arguments", None), Arguments):
            yield node


def _convert(layer: Any) -> None:
    """Make integers of a layer's weights, in place."""
    weights = weights_of(layer)
    if is_converted(weights):
        return
    for name, weight in weights.items():
        check_finite(f"{name} of a {type(layer).__name__}", weight)
    kept = {name: variable[...] for name, variable in kept_by(layer).items()}
    learned = {n: getattr(layer, n)[...] for n in learned_names(weights, layer.quantization)}

    def made(weights: Any, kept: Any, learned: Any) -> Any:
        memory = Memory(type(layer).__name__, kept, learned, observes=False)
        return converted(weights, layer.quantization, memory)

    for _ in range(layer.depthwise_kernel.ndim - 3):  # Stacked by `nnx.vmap` or `nnx.scan`.
        made = jax.vmap(made)
    integers, numbers = made(weights, kept, learned)
    for name in (*kept, *learned):
        delattr(layer, name)
    for name, array in integers.items():
        kind = type(getattr(layer, name))
        setattr(layer, name, kind(array, regularizer=None, constraint=None, rank=array.ndim))
    for name, array in numbers.items():
        if not np.isfinite(np.asarray(array)).all():
            raise ValueError(
                f"{name} of a {type(layer).__name__} is {array}: calibrate the model first "
                "(flax_sepconv.quantization.nnx.calibrate), on inputs and with weights that are "
                "finite"
            )
        setattr(layer, name, QuantizationState(array))
