"""What layers say of their weights: constraints and regularizers, found however deep in a model.

Linen's lifted transformations stack weights, and `nnx.bridge` makes modules of one system of those
of the other. What a layer says goes with its weights, or it is an error to ask for it.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import core, nnx, struct
from flax.core import meta

from flax_sepconv.constraints import Constraint, Stacked
from flax_sepconv.linen_layer import LinenLayer
from flax_sepconv.regularizers import Regularizer
from flax_sepconv.spec import BIAS, DEPTHWISE_KERNEL, POINTWISE_KERNEL, scalar_loss

Path = tuple[Any, ...]


def constraints_of(module: nn.Module, rngs: Any, *args: Any, **kwargs: Any) -> Any:
    """Find the constraint of every weight of every layer of ours in a model, however deep.

    Called like `module.init`, whose arrays it never makes (only shapes are computed). Weights
    stacked by `nn.scan` or `nn.vmap` get their constraint wrapped in `Stacked`, so that it acts on
    each layer's slice. Layers of nnx inside `nnx.bridge.ToLinen` are found too.

    Args:
        module: any linen module.
        rngs: a key, or a dict of keys, as for `init`.
        *args: the inputs, as for `init`.
        **kwargs: further arguments, as for `init`.

    Returns:
        A tree shaped like `params` with a constraint or None at each leaf.

    Example:
        >>> from flax_sepconv import SeparableConv1D
        >>> layer = SeparableConv1D(5, 4, depthwise_constraint="non_neg", use_bias=False)
        >>> constraints_of(layer, jax.random.key(0), jnp.ones((2, 10, 3)))
        {'depthwise_kernel': NonNeg(), 'pointwise_kernel': None}
    """
    return jax.tree.map(
        lambda leaf: leaf.constraint if isinstance(leaf, Weight) else None,
        boxed_variables(module, rngs, *args, **kwargs).get("params", {}),
        is_leaf=lambda leaf: isinstance(leaf, meta.AxisMetadata),
    )


def boxed_variables(module: nn.Module, rngs: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Compute the shapes of a model's variables, each weight of our layers in a `Weight`."""

    def box(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        outputs = call(*args, **kwargs)
        layer = context.module
        if context.method_name == "__call__" and isinstance(layer, LinenLayer):
            _box_weights(layer)
        elif context.method_name == "__call__" and isinstance(layer, nnx.bridge.ToLinen):
            _box_weights_of_nnx(layer)
        return outputs

    leaves, structure = jax.tree.flatten((rngs, args, kwargs))

    def is_array(leaf: Any) -> bool:  # Flags and the like must reach the module as they are.
        return hasattr(leaf, "dtype")

    def initial(*arrays: Any) -> Any:
        remaining = iter(arrays)
        filled = [next(remaining) if is_array(leaf) else leaf for leaf in leaves]
        rngs, args, kwargs = jax.tree.unflatten(structure, filled)
        with nn.intercept_methods(box):
            # A filter of its own keeps what `nn.jit` traces here out of its cache for real calls.
            unused = core.DenyList(("intermediates", "flax_sepconv_weights"))
            return module.init(rngs, *args, mutable=unused, **kwargs)

    variables: dict[str, Any] = core.unfreeze(jax.eval_shape(initial, *filter(is_array, leaves)))
    return variables


class Weight(struct.PyTreeNode, meta.AxisMetadata[Any]):
    """A weight that carries what its layer says of it through the lifted transformations."""

    value: Any
    constraint: Constraint | None = struct.field(pytree_node=False)
    regularizer: Regularizer | None = struct.field(pytree_node=False)

    def unbox(self) -> Any:
        """Return the weight."""
        return self.value

    def replace_boxed(self, val: Any) -> "Weight":
        """Put another array in its place."""
        return self.replace(value=val)

    def add_axis(self, index: int, params: Mapping[Any, Any]) -> "Weight":
        """Let what is said hold for the slices along an axis that was stacked."""
        del params
        return self.replace(
            constraint=self.constraint and Stacked(self.constraint, index),
            regularizer=self.regularizer and Summed(self.regularizer, index),
        )

    def remove_axis(self, index: int, params: Mapping[Any, Any]) -> "Weight":
        """Undo `add_axis`."""
        del index, params
        inner: Any = self
        return self.replace(
            constraint=inner.constraint and inner.constraint.constraint,
            regularizer=inner.regularizer and inner.regularizer.regularizer,
        )


@dataclasses.dataclass(frozen=True)
class Summed:
    """Sum a regularizer over the slices along an axis that a transformation stacked."""

    regularizer: Regularizer
    axis: int

    def __call__(self, w: jax.Array) -> jax.Array:
        """Return the sum."""

        def loss(weight: jax.Array) -> jax.Array:
            return scalar_loss("regularizer", self.regularizer(weight))

        return jnp.sum(jax.vmap(loss, self.axis)(w))


def _box_weights(layer: LinenLayer) -> None:
    """Put every weight of a bound layer into a box, and say whether it has an activity loss."""
    if layer.activity_regularizer is not None:
        layer.sow("losses", "activity", jnp.zeros(()), jnp.add, lambda: jnp.zeros(()))
    collection = "params" if layer.trainable else "non_trainable"
    for name, _, _, regularizer, constraint in layer.arguments().parameters(channels=1):
        if layer.has_variable(collection, name):
            value: Any = layer.get_variable(collection, name)
            layer.put_variable(collection, name, _boxed(value, constraint, regularizer))


def _box_weights_of_nnx(bridge: nnx.bridge.ToLinen) -> None:
    """Put every weight of layers of nnx in a bound bridge into a box."""

    def make() -> nnx.Module:
        rngs = {} if bridge.skip_rng else {"rngs": nnx.Rngs(0)}
        return bridge.nnx_class(*bridge.args, **bridge.kwargs, **rngs)

    model = nnx.eval_shape(make)
    for path, variable, said in what_is_said(model):
        collection = nnx.variable_name_from_type(type(variable), allow_register=True)
        if not said or not bridge.has_variable(collection, path[0]):
            continue

        def replaced(tree: Any, path: Path, said: dict[str, Any] = said) -> Any:
            if path:
                return {**tree, path[0]: replaced(tree[path[0]], path[1:])}
            return _boxed(tree, said["constraint"], said["regularizer"])

        tree = core.unfreeze(bridge.get_variable(collection, path[0]))
        bridge.put_variable(collection, path[0], replaced(tree, path[1:]))


def _boxed(value: Any, constraint: Constraint | None, regularizer: Regularizer | None) -> Weight:
    if isinstance(value, Weight):  # A lifted layer's inner call was here before.
        return value
    return Weight(meta.unbox(value), constraint, regularizer)


def what_is_said(
    model: nnx.Module,
) -> Iterator[tuple[Path, nnx.Variable[Any], dict[str, Any]]]:
    """Yield the variables of a model, with the constraint and the regularizer of our weights.

    Raises:
        ValueError: it is a weight inside a linen model that says nothing of its layers.
    """
    nodes = list(nnx.iter_graph(model))
    bridges = {path: node for path, node in nodes if isinstance(node, nnx.bridge.ToNNX)}
    paths = {path for path, _ in nodes}
    for path, variable in nodes:
        if not isinstance(variable, nnx.Variable):
            continue
        said = variable.get_metadata()
        if "regularizer" not in said:
            own = (*path[:-1], DEPTHWISE_KERNEL) in paths
            owners = [path[:depth] for depth in range(len(path)) if path[:depth] in bridges]
            is_weight = own and path[-1] in (DEPTHWISE_KERNEL, POINTWISE_KERNEL, BIAS)
            said = {}
            if owners and is_weight:
                said = _said_by_linen(bridges[owners[-1]], path, len(owners[-1]), variable.ndim)
        if said:
            said = _for_all_slices(said, variable.ndim)
        yield path, variable, said


def _said_by_linen(bridge: nnx.bridge.ToNNX, path: Path, depth: int, ndim: int) -> dict[str, Any]:
    """Return what a linen layer says of a weight, if the bridge holds that layer and no other."""
    module = bridge.to_nnx__module
    if isinstance(module, LinenLayer) and len(path) == depth + 1:
        for name, shape, _, regularizer, constraint in module.arguments().parameters(channels=1):
            # What `nn.vmap` made of the layer does not tell along which axis it stacks.
            if name == path[-1] and (LinenLayer in type(module).__bases__ or ndim == len(shape)):
                return {"regularizer": regularizer, "constraint": constraint, "rank": len(shape)}
    raise ValueError(
        f"which constraint and regularizer {'/'.join(map(str, path))} has is not known: "
        f"nnx.bridge.ToNNX does not tell it of layers inside {type(module).__name__}; make the "
        "bridge by fsc.nnx.from_linen(module, *inputs, rngs=rngs)"
    )


def _for_all_slices(said: Mapping[str, Any], ndim: int) -> dict[str, Any]:
    """Let constraint and regularizer act on the slices along axes stacked in front."""
    constraint, regularizer = said.get("constraint"), said.get("regularizer")
    for _ in range(ndim - said.get("rank", ndim)):
        constraint = constraint and Stacked(constraint, 0)
        regularizer = regularizer and Summed(regularizer, 0)
    return {"constraint": constraint, "regularizer": regularizer}
