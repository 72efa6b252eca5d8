"""Constraint projection as the last stage of an optax chain."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flax_sepconv.constraints import Constraint

Path = tuple[str, ...]


def keep_params_constrained(constraints: Any) -> optax.GradientTransformation:
    """Change updates so that `optax.apply_updates` lands on the projected parameters.

    params + updates' = constraint(params + updates)

    Put it last in a chain, as Keras projects after the optimizer's step. Weights without a
    constraint keep their update bit for bit. Where the update that would land exactly on the
    projection is not representable, the weight lands next to it on the side of zero, so that
    bounds hold in every dtype.

    Args:
        constraints: a tree shaped like the parameters with a constraint or None at each leaf, as
            `constraints_of` returns; a constraint may also stand for a whole subtree.

    Returns:
        An `optax.GradientTransformation` without state.

    Raises:
        ValueError: on `init` or `update`, the tree does not fit the parameters (the path is named),
            or `params` was not given.

    Example:
        >>> tx = optax.chain(optax.sgd(1.0), keep_params_constrained({"w": jax.nn.relu}))
        >>> params = {"w": jnp.array([1.0, 2.0])}
        >>> updates, _ = tx.update({"w": jnp.array([3.0, 0.5])}, tx.init(params), params)
        >>> optax.apply_updates(params, updates)["w"].tolist()
        [0.0, 1.5]

    Source: the order of Keras' `Optimizer.apply_gradients`; the idiom of
    `optax.keep_params_nonnegative`.
    """

    def init(params: optax.Params) -> optax.EmptyState:
        _match(constraints, params)
        return optax.EmptyState()

    def update(
        updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.EmptyState]:
        if params is None:
            raise ValueError(
                "params must be given to the update of keep_params_constrained: "
                "call tx.update(updates, state, params)"
            )
        found = iter(_match(constraints, params))

        def project(param: jax.Array, update: jax.Array) -> jax.Array:
            constraint = next(found)
            return update if constraint is None else _landing_update(constraint, param, update)

        return jax.tree.map(project, params, updates), state

    return optax.GradientTransformation(init, update)


def _landing_update(constraint: Constraint, param: jax.Array, update: jax.Array) -> jax.Array:
    """Return the update that takes a parameter to its projection.

    It has the update's dtype, or the parameter's where that is wider: a coarser update could not
    land on zero.
    """
    proposed = _applied(param, update)
    target = jnp.asarray(constraint(proposed), param.dtype)
    dtype = jnp.promote_types(param.dtype, update.dtype)
    wide = jnp.promote_types(dtype, jnp.float32)
    exact = (target.astype(wide) - param.astype(wide)).astype(dtype)

    def beyond(candidate: jax.Array) -> jax.Array:
        return jnp.abs(_applied(param, candidate)) > jnp.abs(target)

    # One step of the update's last bit toward zero; where even that is too coarse, zero itself.
    inward = jnp.nextafter(exact, jnp.where(target > 0, -jnp.inf, jnp.inf).astype(dtype))
    inward = jnp.where(beyond(inward), -param.astype(dtype), inward)
    landing = jnp.where(beyond(exact), inward, exact)
    return jnp.where(proposed == target, update.astype(dtype), landing)


def _applied(param: jax.Array, update: jax.Array) -> jax.Array:
    """Return exactly what `optax.apply_updates` makes of one leaf."""
    return (param + update).astype(param.dtype)


def _match(constraints: Any, params: Any) -> list[Constraint | None]:
    """Return the constraint of each leaf of params, in order."""
    wanted = _leaves(constraints, lambda leaf: leaf is None)
    present = _leaves(params, lambda leaf: isinstance(leaf, optax.MaskedNode))
    for path, constraint in wanted.items():
        if not callable(constraint) and constraint is not None:
            raise ValueError(
                f"constraints must be callables or None, got {constraint!r} at {_show(path)}"
            )
        if not any(_covers(path, other, leaf) for other, leaf in present.items()):
            raise ValueError(f"constraints have an entry at {_show(path)}, params have none")
    matched = []
    for path, leaf in present.items():
        if isinstance(leaf, optax.MaskedNode):
            continue
        owners = [path[:depth] for depth in range(len(path) + 1) if path[:depth] in wanted]
        if not owners:
            raise ValueError(f"params have a leaf at {_show(path)}, constraints have no entry")
        matched.append(wanted[owners[0]])
    return matched


def _leaves(tree: Any, is_leaf: Callable[[Any], bool]) -> dict[Path, Any]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    return {
        tuple(jax.tree_util.keystr((key,), simple=True) for key in path): leaf
        for path, leaf in flat
    }


def _covers(path: Path, other: Path, leaf: Any) -> bool:
    """Tell whether a leaf of params is at or below a path, or masks all that is there."""
    below = other[: len(path)] == path
    return below or (isinstance(leaf, optax.MaskedNode) and path[: len(other)] == other)


def _show(path: Path) -> str:
    return repr("/".join(path))
