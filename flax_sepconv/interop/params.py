"""Layers, and the `params` of a linen model: trees whose nodes are the names in a layer's path."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from flax_sepconv.interop.layer import InteropError, Layer, unique
from flax_sepconv.interop.scales import NAMES as SCALES
from flax_sepconv.spec import DEPTHWISE_KERNEL


def to_params(layers: Iterable[Layer], names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the weights as a tree of `params`; of integers, as integers (`to_quantization`).

    Layers with trainable=False look for theirs in the collection "non_trainable", which has the
    same form: {"params": to_params(some), "non_trainable": to_params(others)}.

    Args:
        layers: what `load` gave.
        names: where a layer goes that is not to stay under its own path: {"sep": "block/conv"};
            "" is the root, for the params of a single layer.

    Raises:
        InteropError: two layers meet at one place, or `names` has a path that no layer has.

    Example:
        >>> layer = Layer("sep", {"depthwise_kernel": np.ones((3, 2, 1), "f"),
        ...                       "pointwise_kernel": np.ones((1, 2, 5), "f")})
        >>> to_params([layer], {"sep": "block/conv"})["block"]["conv"]["depthwise_kernel"].shape
        (3, 2, 1)
    """
    return _tree(layers, names, lambda layer: layer.weights)


def to_quantization(
    layers: Iterable[Layer], names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the scales of integers as a tree of the collection "quantization".

    A model whose layers have a `quantization` computes with {"params": to_params(layers),
    "quantization": to_quantization(layers)} what it did when they were saved.

    Args:
        layers, names: as for `to_params`; layers that have no scales are passed over.

    Raises:
        InteropError: as `to_params`.

    Example:
        >>> weights = {"depthwise_kernel": np.ones((3, 2, 1), np.int8)}
        >>> layer = Layer("sep", weights, None, {"depthwise_scale": np.float32(0.5)})
        >>> to_quantization([layer])
        {'sep': {'depthwise_scale': Array(0.5, dtype=float32)}}
    """
    layers = list(layers)
    found = [layer for layer in layers if layer.scales is not None]
    real = {layer.path for layer in layers} - {layer.path for layer in found}
    own = None if names is None else {path: to for path, to in names.items() if path not in real}
    return _tree(found, own, lambda layer: layer.scales or {}) if found else {}


def _tree(
    layers: Iterable[Layer],
    names: Mapping[str, str] | None,
    arrays: Callable[[Layer], Mapping[str, np.ndarray]],
) -> dict[str, Any]:
    layers = unique(layers, "the list of layers")
    names = {} if names is None else names
    unknown = sorted(set(names) - {layer.path for layer in layers})
    if unknown:
        known = ", ".join(layer.path for layer in layers)
        raise InteropError(f"names has {unknown[0]!r}, which is no layer; there are {known}")
    params: dict[str, Any] = {}
    for layer in layers:
        place = names.get(layer.path, layer.path)
        node = params
        for name in filter(None, place.split("/")):
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise InteropError(
                    f"layer {layer.path!r} cannot stand at {place!r}: in another one"
                )
        if node:
            raise InteropError(f"layer {layer.path!r} cannot stand at {place!r}: it is taken")
        node |= {name: jnp.asarray(array) for name, array in arrays(layer).items()}
    return params


def from_params(
    params: Mapping[str, Any],
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    quantization: Mapping[str, Any] | None = None,
) -> list[Layer]:
    """Find every layer of ours in a tree of `params`.

    Args:
        params: of a linen model; what is no weight of one is passed over.
        configs: by path, what the layer's `to_keras_config()` gave (`version=2` has padding
            "causal").
        quantization: of integers (`quantization.convert`), the collection of this name.

    Raises:
        InteropError: there is none, integers have no scales, or `configs` has a path that no layer
            has.

    Example:
        >>> depthwise, pointwise = np.ones((3, 2, 1)), np.ones((1, 2, 5))
        >>> weights = {"depthwise_kernel": depthwise, "pointwise_kernel": pointwise}
        >>> [layer.path for layer in from_params({"a": {"conv": weights}, "b": np.ones(3)})]
        ['a/conv']
    """
    configs = {} if configs is None else configs
    layers = unique(_walk(params, (), configs, quantization or {}), "params")
    unknown = sorted(set(configs) - {layer.path for layer in layers})
    if unknown:
        known = ", ".join(layer.path for layer in layers)
        raise InteropError(f"configs has {unknown[0]!r}, which is no layer; there are {known}")
    return layers


def _walk(
    node: Mapping[str, Any],
    names: tuple[str, ...],
    configs: Mapping[str, Mapping[str, Any]],
    quantization: Mapping[str, Any],
) -> Iterable[Layer]:
    if DEPTHWISE_KERNEL in node:
        path = "/".join(names)
        weights = {name: np.asarray(node[name]) for name in node if name not in SCALES}
        scales = None
        if weights[DEPTHWISE_KERNEL].dtype == np.int8:
            told = {name: quantization[name] for name in SCALES if name in quantization}
            scales = {name: np.asarray(array) for name, array in told.items()} or None
        yield Layer(path, weights, configs.get(path), scales)
        return
    for name, child in node.items():
        if isinstance(child, Mapping):
            below = quantization.get(name, {})
            yield from _walk(child, (*names, str(name)), configs, below)
