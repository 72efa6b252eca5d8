"""Shardings that are part of arrays' types, as on a mesh with explicit axes.

There a result whose sharding does not follow from its operands' must say what it is. Arrays carry
their mesh, so none of this asks which mesh `jax.set_mesh` set.
"""

from typing import Any

import jax
from jax import lax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec


def mesh_of(*arrays: Any) -> AbstractMesh | None:
    """Return the mesh over which types tell how arrays are divided, or None where they do not."""
    for array in arrays:
        mesh: AbstractMesh = jax.typeof(array).sharding.mesh
        if AxisType.Explicit in mesh.axis_types:
            return mesh
    return None


def may_be_divided(*arrays: Any) -> bool:
    """Tell whether a mesh of several devices, or of explicit axes, is set or in arrays' types."""
    meshes = [jax.typeof(array).sharding.mesh for array in arrays if isinstance(array, jax.Array)]
    return any(
        mesh.size > 1 or AxisType.Explicit in mesh.axis_types
        for mesh in (jax.sharding.get_abstract_mesh(), *meshes)
    )


def axes_of(array: Any, dimension: int) -> Any:
    """Return the mesh axes that divide a dimension, as an entry of a `PartitionSpec`."""
    spec = jax.typeof(array).sharding.spec
    return spec[dimension] if dimension < len(spec) else None


def sharding_on(mesh: AbstractMesh | None, *axes: Any) -> NamedSharding | None:
    """Return a sharding; each mesh axis divides the first dimension alone that wants it.

    Args:
        mesh: what `mesh_of` returned.
        axes: for each dimension, an entry of a `PartitionSpec`.
    """
    if mesh is None:
        return None
    used: set[str] = set()
    spec: list[tuple[str, ...] | None] = []
    for entry in axes:
        names = (entry,) if isinstance(entry, str) else tuple(entry or ())
        spec.append(tuple(name for name in names if name not in used) or None)
        used.update(names)
    return NamedSharding(mesh, PartitionSpec(*spec))


def reshard_to(array: jax.Array, sharding: Any) -> jax.Array:
    """Divide an array as a type's sharding says, where types tell that."""
    if sharding == jax.typeof(array).sharding or sharding.mesh.empty or mesh_of(array) is None:
        return array
    resharded: jax.Array = jax.reshard(array, sharding)
    return resharded


def vary_alike(*operands: jax.Array) -> tuple[jax.Array, ...]:
    """Inside `shard_map`, mark operands as varying over the mesh axes that any of them varies over.

    The mark's transpose is the sum over devices that the gradient of a replicated kernel needs.
    """
    axes = [jax.typeof(operand).manual_axis_type.varying for operand in operands]
    everywhere = frozenset().union(*axes)
    return tuple(
        lax.pcast(operand, tuple(everywhere - own), to="varying") if everywhere - own else operand
        for operand, own in zip(operands, axes, strict=True)
    )
