"""Layers, and the `params` of a linen model: trees whose nodes are the names in a layer's path."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from flax_sepconv.interop.layer import InteropError, Layer, unique
from flax_sepconv.spec import DEPTHWISE_KERNEL


def to_params(layers: Iterable[Layer], names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the weights as a tree of `params`.

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
        node |= {name: jnp.asarray(weight) for name, weight in layer.weights.items()}
    return params


def from_params(
    params: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Layer]:
    """Find every layer of ours in a tree of `params`.

    Args:
        params: of a linen model; what is no weight of one is passed over.
        configs: by path, what the layer's `to_keras_config()` gave (`version=2` has padding
            "causal").

    Raises:
        InteropError: there is none, or `configs` has a path that no layer has.

    Example:
        >>> depthwise, pointwise = np.ones((3, 2, 1)), np.ones((1, 2, 5))
        >>> weights = {"depthwise_kernel": depthwise, "pointwise_kernel": pointwise}
        >>> [layer.path for layer in from_params({"a": {"conv": weights}, "b": np.ones(3)})]
        ['a/conv']
    """
    configs = {} if configs is None else configs
    layers = unique(_walk(params, (), configs), "params")
    unknown = sorted(set(configs) - {layer.path for layer in layers})
    if unknown:
        known = ", ".join(layer.path for layer in layers)
        raise InteropError(f"configs has {unknown[0]!r}, which is no layer; there are {known}")
    return layers


def _walk(
    node: Mapping[str, Any], names: tuple[str, ...], configs: Mapping[str, Mapping[str, Any]]
) -> Iterable[Layer]:
    if DEPTHWISE_KERNEL in node:
        path = "/".join(names)
        weights = {name: np.asarray(weight) for name, weight in node.items()}
        yield Layer(path, weights, configs.get(path))
        return
    for name, child in node.items():
        if isinstance(child, Mapping):
            yield from _walk(child, (*names, str(name)), configs)
