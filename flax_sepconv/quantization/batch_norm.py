"""Batch normalizations behind layers, folded into their weights."""

import collections
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import core, traverse_util

from flax_sepconv.quantization.linen_memory import COLLECTION
from flax_sepconv.quantization.weights import STEPS
from flax_sepconv.spec import BIAS, DEPTHWISE_KERNEL, POINTWISE_KERNEL

Path = tuple[str, ...]


def fold_batch_norm(
    variables: Mapping[str, Any], layers: Mapping[str, str], epsilon: float = 1e-5
) -> dict[str, Any]:
    """Put what batch normalizations do into the weights of the layers before them.

    In inference a normalization multiplies each channel and adds to it. The factor goes into the
    layer's last kernel and the rest into its bias, if it has one; else the normalization keeps the
    rest. Nothing else is left of it: mean 0, variance 1 - epsilon, scale 1. So scales of integers
    are those of the channels as they are used. The layer must have no activation, and nothing else
    may read what is between the two.

    Args:
        variables: of a linen model, with "params" and "batch_stats".
        layers: by the path of a layer, "path/of/layer", the path of its `nn.BatchNorm`.
        epsilon: of the normalizations.

    Returns:
        The variables, with which the model computes what it did (with `use_running_average`).

    Raises:
        ValueError: a layer has scales of integers already, or two of them one normalization; a
            path is not of a layer of ours, or of a normalization of as many channels; or
            neither of the two has a bias.

    Example:
        >>> import flax.linen as nn
        >>> import jax
        >>> import flax_sepconv as fsc
        >>> norm = nn.BatchNorm(use_running_average=True)
        >>> model = nn.Sequential([fsc.SeparableConv1D(5, 4), norm])
        >>> x = jax.random.normal(jax.random.key(0), (2, 10, 3))
        >>> variables = model.init(jax.random.key(1), x)
        >>> folded = fold_batch_norm(variables, {"layers_0": "layers_1"})
        >>> bool(jnp.allclose(model.apply(folded, x), model.apply(variables, x), atol=1e-6))
        True
        >>> float(folded["batch_stats"]["layers_1"]["var"][0] + 1e-5)
        1.0
    """
    shared = [norm for norm, count in collections.Counter(layers.values()).items() if count > 1]
    if shared:
        raise ValueError(f"layers must have a normalization each, {shared[0]!r} is that of several")
    flat: dict[Path, Any] = traverse_util.flatten_dict(core.unfreeze(dict(variables)))
    for layer, norm in layers.items():
        own, other = (tuple(path.split("/")) for path in (layer, norm))
        _fold(flat, own, other, epsilon)
    folded: dict[str, Any] = traverse_util.unflatten_dict(flat)
    return folded


def _fold(flat: dict[Path, Any], layer: Path, norm: Path, epsilon: float) -> None:
    """Fold one, in place."""
    has = [c for c in ("params", "non_trainable") if (c, *layer, DEPTHWISE_KERNEL) in flat]
    if not has:
        raise ValueError(f"layers must name layers of flax_sepconv, got {'/'.join(layer)!r}")
    collection = has[0]
    if any(path[1:-1] == layer and (path[0] == COLLECTION or path[-1] in STEPS) for path in flat):
        raise ValueError(
            f"{'/'.join(layer)!r} must be folded before it is calibrated or converted: its scales "
            "are those of what it was"
        )
    stats = {name: ("batch_stats", *norm, name) for name in ("mean", "var")}
    if not all(path in flat for path in stats.values()):
        raise ValueError(
            f"layers must name nn.BatchNorm modules with a mean and a var, got {'/'.join(norm)!r}"
        )
    kernel_path = (collection, *layer, POINTWISE_KERNEL)
    if kernel_path not in flat:
        kernel_path = (collection, *layer, DEPTHWISE_KERNEL)
    kernel, bias_path = flat[kernel_path], (collection, *layer, BIAS)
    mean, var = (flat[path] for path in stats.values())
    last = kernel.shape[-1:] if kernel_path[-1] == POINTWISE_KERNEL else kernel.shape[-2:]
    if mean.shape != (*kernel.shape[:-3], int(np.prod(last))):
        raise ValueError(
            f"{'/'.join(norm)!r} must have as many channels as {'/'.join(layer)!r} gives, "
            f"{int(np.prod(last))}, got {mean.shape[-1]}"
        )
    scale_path, rest_path = ("params", *norm, "scale"), ("params", *norm, BIAS)
    factor = flat.get(scale_path, jnp.ones_like(mean)) / jnp.sqrt(var + epsilon)
    rest = flat.get(rest_path, jnp.zeros_like(mean)) - mean * factor
    # A kernel has its channels last, (C, M) or F, and one axis of taps or of 1 or two before them.
    spread = factor.reshape(*factor.shape[:-1], *(1,) * (3 - len(last)), *last)
    flat[kernel_path] = (kernel * spread).astype(kernel.dtype)
    if bias_path in flat:
        bias = flat[bias_path]
        flat[bias_path], rest = (bias * factor + rest).astype(bias.dtype), jnp.zeros_like(rest)
    elif rest_path not in flat:
        raise ValueError(
            f"{'/'.join(layer)!r} or {'/'.join(norm)!r} must have a bias, for what the mean adds"
        )
    flat[stats["mean"]] = jnp.zeros_like(mean)
    flat[stats["var"]] = jnp.full_like(var, _complement(epsilon))
    if scale_path in flat:
        flat[scale_path] = jnp.ones_like(flat[scale_path])
    if rest_path in flat:
        flat[rest_path] = rest.astype(flat[rest_path].dtype)


def _complement(epsilon: float) -> np.float32:
    """Return the variance that with epsilon makes 1, in float32."""
    added = np.float32(epsilon)
    near = np.float32(1 - epsilon)
    candidates = (near, np.nextafter(near, np.float32(2)), np.nextafter(near, np.float32(0)))
    return next((each for each in candidates if each + added == 1), near)
