"""Linen models inside nnx: what `nnx.bridge.ToNNX` does not tell of their layers."""

from typing import Any

import jax
from flax import linen, nnx, traverse_util

from flax_sepconv.linen_layer import LinenLayer
from flax_sepconv.weights import Weight, boxed_variables


def from_linen(module: linen.Module, *args: Any, rngs: nnx.Rngs, **kwargs: Any) -> nnx.bridge.ToNNX:
    """Make an nnx module of a linen model, whose weights keep constraints and regularizers.

    `nnx.bridge.ToNNX(module, rngs=rngs).lazy_init(*args, **kwargs)`, and what the layers inside say
    of their weights is told to `constraints_of` and `regularization_loss`. (Of a model that is one
    layer of ours the bridge alone tells it too.)

    Args:
        module: any linen module.
        *args: inputs, as for its `init`.
        rngs: for its initializers, and for later calls.
        **kwargs: further arguments, as for its `init`.

    Example:
        >>> from jax import numpy as jnp
        >>> from flax import linen as nn
        >>> import flax_sepconv as fsc
        >>> from flax_sepconv.nnx import constraints_of
        >>> block = nn.Sequential([fsc.SeparableConv1D(5, 4, bias_constraint="non_neg"), nn.relu])
        >>> model = from_linen(block, jnp.ones((2, 10, 3)), rngs=nnx.Rngs(0))
        >>> constraints_of(model)["layers_0"]["bias"]
        NonNeg()
    """
    keys = {name: jax.random.key(0) for name in ("params", *(name for name, _ in rngs.items()))}
    boxed = boxed_variables(module, keys, *args, **kwargs)
    bridge = nnx.bridge.ToNNX(module, rngs=rngs)
    bridge.lazy_init(*args, **kwargs)
    bridge.to_nnx__activity = tuple(  # type: ignore[attr-defined]
        traverse_util.flatten_dict(boxed.pop("losses", {}))
    )
    said: dict[Any, Any] = {}
    for variables in boxed.values():
        said |= traverse_util.flatten_dict(variables)
    for path, variable in nnx.iter_graph(bridge):
        if isinstance(weight := said.get(path), Weight):
            told = {"constraint": weight.constraint, "regularizer": weight.regularizer}
            variable.set_metadata(**told, rank=variable.ndim)
    return bridge


def check_activity_recorded(model: nnx.Module) -> None:
    """Raise ValueError where an activity regularizer inside a bridge has recorded nothing."""
    nodes = list(nnx.iter_graph(model))
    paths = {path for path, _ in nodes}
    for path, bridge in nodes:
        if not isinstance(bridge, nnx.bridge.ToNNX):
            continue
        wanted = getattr(bridge, "to_nnx__activity", ())
        regularizer = getattr(bridge.to_nnx__module, "activity_regularizer", None)
        if isinstance(bridge.to_nnx__module, LinenLayer) and regularizer is not None:
            wanted = (("activity",),)
        for name in wanted:
            if (*path, *name) not in paths:
                raise ValueError(
                    f"no call recorded the loss {'/'.join(map(str, (*path, *name)))}: call what "
                    'nnx.bridge.ToNNX made with mutable=["losses"]'
                )
