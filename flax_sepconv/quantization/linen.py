"""Linen models: ranges from data, integers of weights, and both at once."""

from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import core, traverse_util

from flax_sepconv.quantization.config import DEFAULT, Int8, check_config
from flax_sepconv.quantization.linen_memory import COLLECTION
from flax_sepconv.quantization.observing import CALLS
from flax_sepconv.quantization.surroundings import within
from flax_sepconv.quantization.weights import SCALES, STEPS, check_finite
from flax_sepconv.spec import DEPTHWISE_KERNEL

Variables = dict[str, Any]
# A collection that nothing is in keeps what `nn.jit` traces here out of its cache for real calls.
_UNUSED = "flax_sepconv_quantizing"
_WEIGHTS = ("params", "non_trainable")
_RANGES = tuple(f"{name}_{end}" for name in ("x", "hidden", "output") for end in ("low", "high"))


class QuantizedModel(nn.Module):
    """A model whose layers of ours have a quantization, without being told of it one by one.

    Its variables are those of the model, with the collection "quantization".

    Attributes:
        model: any linen module; called by its `__call__`.
        quantization: of the layers inside that have none.

    Example:
        >>> import jax.numpy as jnp
        >>> import flax_sepconv as fsc
        >>> model = QuantizedModel(nn.Sequential([fsc.SeparableConv1D(5, 4), nn.relu]))
        >>> variables = model.init(jax.random.key(0), jnp.ones((2, 10, 3)))
        >>> sorted(variables), list(variables["params"])
        (['params', 'quantization'], ['layers_0'])
    """

    model: nn.Module
    quantization: Int8 = Int8()

    def setup(self) -> None:
        """Let variables have the paths that they have without this module."""
        nn.share_scope(self, self.model)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        with within(default=self.quantization):
            return self.model(*args, **kwargs)


def calibrate(
    model: nn.Module, variables: Mapping[str, Any], batches: Iterable[Any], **kwargs: Any
) -> Variables:
    """Observe the ranges of a model's activations over some data; nothing is rounded meanwhile.

    Step sizes that are learned are set: those of activations from the ranges that were observed,
    those of weights from the weights. Parameters of a model without quantization do as `variables`:
    what its layers need beside them is added.

    Args:
        model: any linen module.
        variables: its collections. Ranges in them are gone on with.
        batches: each an array, or a tuple of arrays: the inputs of a call.
        **kwargs: of `model.apply`: flags such as `train=False`, or `rngs`.

    Returns:
        The variables with new ranges.

    Raises:
        ValueError: there are no batches, or parameters are missing that are no step sizes.

    Example:
        >>> import jax.numpy as jnp
        >>> import flax_sepconv as fsc
        >>> layer = fsc.SeparableConv1D(5, 4)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 10, 3)))
        >>> layer = layer.clone(quantization=Int8())
        >>> variables = calibrate(layer, variables, [jnp.ones((2, 10, 3)), -jnp.ones((2, 10, 3))])
        >>> float(variables["quantization"]["x_low"]), int(variables["quantization"]["calls"])
        (-0.5, 2)
    """
    found: Variables = {name: core.unfreeze(tree) for name, tree in variables.items()}
    before = set(_flat(found))
    collections = [COLLECTION, *(name for name in _WEIGHTS if name in found), _UNUSED]
    rngs = {"params": jax.random.key(0)} | dict(kwargs.pop("rngs", None) or {})

    @jax.jit
    def observe(variables: Variables, args: Any) -> Any:
        with within(is_calibrating=True):
            return model.apply(variables, *args, mutable=collections, rngs=rngs, **kwargs)[1]

    calls = 0
    for batch in batches:
        found = found | core.unfreeze(observe(found, _arguments(batch)))
        calls += 1
    if not calls:
        raise ValueError("batches must have at least one batch, got none")
    for path in set(_flat(found)) - before:
        if path[0] in _WEIGHTS and path[-1] not in STEPS:
            raise ValueError(
                f"variables must have all weights of the model, {_show(path)} is not there"
            )
    return found


def convert(model: nn.Module, variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> Variables:
    """Make integers of the weights of a model's quantized layers, for inference.

    The same model, given what is returned, computes in integers (`ops.quantized_separable_conv1d`).
    It has no gradients then.

    Args:
        model: any linen module.
        variables: its collections, with the ranges of static activations.
        *args: the inputs of a call, arrays, any that fit: by a call the layers are found.
        **kwargs: of `model.apply`: flags such as `train=False`, or `rngs`.

    Returns:
        The variables. Kernels of those layers are int8, and, with static activations, their biases
        int32, in steps of the sums; "quantization" has what belongs to them: scales and zero
        points. Of stacked layers (`nn.scan`, `nn.vmap`) they are stacked as the weights are.

    Raises:
        ValueError: a range was never observed, weights are not finite, no layer has weights to
            convert, or an `nn.scan` shares them among its steps.

    Example:
        >>> import jax.numpy as jnp
        >>> import flax_sepconv as fsc
        >>> layer, x = fsc.SeparableConv1D(5, 4, quantization=Int8()), jnp.ones((2, 10, 3))
        >>> variables = layer.init(jax.random.key(0), x)
        >>> y, updates = layer.apply(variables, x, mutable=["quantization"])
        >>> integers = convert(layer, variables | updates, x)
        >>> integers["params"]["depthwise_kernel"].dtype, integers["params"]["bias"].dtype
        (dtype('int8'), dtype('int32'))
        >>> bool(jnp.all(layer.apply(integers, x) == layer.apply(variables | updates, x)))
        True
    """
    found: Variables = {name: core.unfreeze(tree) for name, tree in variables.items()}
    collections = [COLLECTION, *(name for name in _WEIGHTS if name in found), _UNUSED]

    @jax.jit
    def integers(variables: Variables, args: Any) -> Any:
        with within(is_converting=True):
            return model.apply(variables, *args, mutable=collections, **kwargs)[1]

    try:
        made = found | core.unfreeze(integers(found, args))
    except ValueError as error:
        if "data dependency on the scan body" not in str(error):
            raise
        raise ValueError(
            "weights must not be shared by the steps of an nn.scan (variable_broadcast) to be "
            "converted: each step has a scale of its own, and so a bias in other steps"
        ) from error
    flat = _flat(made)
    layers = {p[1:-1] for p in flat if p[0] == COLLECTION and p[-1] == SCALES[DEPTHWISE_KERNEL]}
    if not layers:
        raise ValueError(
            "model must have layers with quantization=Int8(...), got none in "
            f"{type(model).__name__}"
        )
    kept = {}
    for path, array in _flat(found).items():
        if path[1:-1] in layers and path[0] in _WEIGHTS:
            check_finite(_show(path[1:]), array)
    for path, array in flat.items():
        is_ours = path[1:-1] in layers
        if is_ours and path[0] == COLLECTION:
            if path[-1] in STEPS and not np.isfinite(np.asarray(array)).all():
                raise ValueError(
                    f"{_show(path[1:])} is {array}: calibrate the model first "
                    "(flax_sepconv.quantization.calibrate), on inputs and with weights that are "
                    "finite"
                )
            if path[-1] in (*_RANGES, CALLS):
                continue
        elif is_ours and path[0] in _WEIGHTS and path[-1] in STEPS:
            continue
        kept[path] = array
    return traverse_util.unflatten_dict(kept)


def quantize(
    model: nn.Module,
    variables: Mapping[str, Any],
    batches: Iterable[Any],
    config: Int8 = DEFAULT,
    **kwargs: Any,
) -> tuple[nn.Module, Variables]:
    """Quantize a trained model: `calibrate` it over some data, then `convert` it.

    Args:
        model: any linen module.
        variables: its collections. A normalization behind a layer is best folded into it first
            (`fold_batch_norm`).
        batches: each an array, or a tuple of arrays: the inputs of a call.
        config: for layers without a `quantization` of their own.
        **kwargs: of `model.apply`: flags such as `train=False`.

    Returns:
        The model that computes in integers, a `QuantizedModel`, and its variables.

    Raises:
        ValueError: there are no batches, or no layers of ours.

    Example:
        >>> import jax.numpy as jnp
        >>> import flax_sepconv as fsc
        >>> model = nn.Sequential([fsc.SeparableConv1D(5, 4), nn.relu, fsc.SeparableConv1D(3, 2)])
        >>> x = jax.random.normal(jax.random.key(0), (8, 10, 3))
        >>> variables = model.init(jax.random.key(1), x)
        >>> small, integers = quantize(model, variables, [x])
        >>> y = model.apply(variables, x)
        >>> bool(jnp.abs(small.apply(integers, x) - y).max() < 0.05 * jnp.abs(y).max())
        True
    """
    check_config(config)
    batches = list(batches)
    small = QuantizedModel(model, config)
    found = calibrate(small, variables, batches, **kwargs)
    return small, convert(small, found, *_arguments(batches[0]), **kwargs)


def _arguments(batch: Any) -> tuple[Any, ...]:
    return batch if isinstance(batch, tuple) else (batch,)


def _flat(variables: Variables) -> dict[tuple[str, ...], Any]:
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(variables)
    return flat


def _show(path: tuple[str, ...]) -> str:
    return repr("/".join(path))
