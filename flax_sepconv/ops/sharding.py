"""Shardings that are part of arrays' types, as on a mesh with explicit axes.

There a result whose sharding does not follow from its operands' must say what it is. Arrays carry
their mesh, so none of this asks which mesh `jax.set_mesh` set.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

AxisName = str | tuple[str, ...]
MeshAxes = tuple[str, ...]
# Of each dimension of an array, the mesh axes that divide it.
Layout = tuple[MeshAxes, ...]
OutSharding = NamedSharding | PartitionSpec


@dataclass(frozen=True)
class Shards:
    """How the steps of rows are divided among devices, where a program is one device's.

    Attributes:
        axes: names of mesh axes; the devices along them hold the steps in order.
        count: of these devices, n.
        is_own: whether arrays are a device's own; else they are whole, to be divided so.
    """

    axes: tuple[str, ...]
    count: int
    is_own: bool = True

    @classmethod
    def over(cls, mesh: Mesh | AbstractMesh, axes: MeshAxes) -> "Shards | None":
        """Return how axes of a mesh divide steps; None: they do not."""
        count = devices(mesh, axes)
        return cls(axes, count) if count > 1 else None

    @property
    def index(self) -> jax.Array:
        """Of the device that asks."""
        return lax.axis_index(self.axes)

    def own(self, steps: Any, share: int) -> Any:
        """Return how many of so many steps are the device's own, which holds up to `share`."""
        return jnp.clip(steps - self.index * share, 0, share)


def mesh_of(*arrays: Any) -> AbstractMesh | None:
    """Return the mesh over which types tell how arrays are divided, or None where they do not."""
    for array in arrays:
        mesh: AbstractMesh = jax.typeof(array).sharding.mesh
        if AxisType.Explicit in mesh.axis_types:
            return mesh
    return None


def by_row(function: Callable[..., jax.Array], x: jax.Array, *more: jax.Array) -> jax.Array:
    """Apply a function to each row of x (B, ...), and to what belongs to it: (B, ...) each.

    Its transpose makes zeros, which are on the mesh that is set here.
    """
    mesh = mesh_of(x)
    with jax.sharding.use_abstract_mesh(mesh) if mesh else contextlib.nullcontext():
        return jax.vmap(function)(x, *more)


def along(axis_name: Any, rows: jax.Array) -> Shards | None:
    """Return how steps are divided along mesh axes; None: as the type of the rows tells.

    Args:
        axis_name: of a `shard_map` around the call, or of a mesh.
        rows: (B, L, C).

    Raises:
        TypeError: what was given is no name.
        ValueError: there is no such axis.
    """
    axes = (axis_name,) if isinstance(axis_name, str) else axis_name
    if not (isinstance(axes, tuple) and axes and all(isinstance(axis, str) for axis in axes)):
        raise TypeError(
            f"axis_name must be the name of a mesh axis, or a tuple of names, got {axis_name!r}"
        )
    if len({*axes}) < len(axes):
        raise ValueError(f"axis_name must name each mesh axis once, got {axis_name!r}")
    # What `jax.vmap` maps over may have a name, too, but no devices.
    is_of_mesh = {*axes} <= {*jax.sharding.get_abstract_mesh().axis_names}
    if is_of_mesh and (size := size_inside(axes)):
        return Shards(axes, size, is_own=True)
    mesh = mesh_around(rows)
    if axes == names_of(axes_of(rows, 1)):
        return None
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if {kinds.get(axis) for axis in axes} != {AxisType.Auto}:
        raise ValueError(
            f"axis_name={axis_name!r} must be an axis of a jax.shard_map around the call, or one "
            f"that divides the steps of x, or one of automatic axes; the axes are {kinds}"
        )
    return Shards(axes, devices(mesh, axes), is_own=False)


def size_inside(axis_name: AxisName) -> int | None:
    """Return the number of devices along axes of a `shard_map` around the call; None: no such."""
    try:
        size: int = lax.axis_size(axis_name)
    except NameError:
        return None
    return size


def mesh_around(array: Any) -> AbstractMesh:
    """Return the mesh that an array is on, or that is set."""
    own: AbstractMesh = jax.typeof(array).sharding.mesh
    return jax.sharding.get_abstract_mesh() if own.empty else own


def devices(mesh: Mesh | AbstractMesh, axes: MeshAxes) -> int:
    """Return the number of devices along mesh axes."""
    return math.prod(mesh.shape[name] for name in axes)


def dividing_axes(mesh: AbstractMesh, *kinds: AxisType) -> MeshAxes:
    """Name the axes of these kinds that have several devices."""
    axes = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
    return tuple(name for name, size, kind in axes if size > 1 and kind in kinds)


def place(array: jax.Array, sharding: Any) -> jax.Array:
    """Divide a result as a caller wants it, on explicit or automatic axes.

    Raises:
        TypeError: that is no sharding.
        ValueError: a `PartitionSpec` has no mesh, neither in the array's type nor set, or there are
            more entries than axes of the result.
    """
    if not isinstance(sharding, NamedSharding | PartitionSpec):
        raise TypeError(
            f"out_sharding must be a NamedSharding or a PartitionSpec, got {sharding!r}"
        )
    if isinstance(sharding, PartitionSpec):
        mesh = mesh_around(array)
        if mesh.empty:
            raise ValueError(
                f"out_sharding={sharding} needs a mesh: set one with jax.set_mesh, or give a "
                "NamedSharding"
            )
        sharding = NamedSharding(mesh, sharding)
    if len(sharding.spec) > array.ndim:
        raise ValueError(
            f"out_sharding must have an entry for each axis of the result {array.shape} at most, "
            f"got {sharding.spec}"
        )
    kinds = dict(zip(sharding.mesh.axis_names, sharding.mesh.axis_types, strict=True))
    if AxisType.Explicit in kinds.values():
        placed: jax.Array = jax.reshard(array, sharding)
    else:
        placed = lax.with_sharding_constraint(array, sharding)
    return placed


def may_be_divided(*arrays: Any) -> bool:
    """Tell whether a mesh of several devices, or of explicit axes, is set or in arrays' types."""
    meshes = [jax.typeof(array).sharding.mesh for array in arrays if isinstance(array, jax.Array)]
    return any(
        mesh.size > 1 or AxisType.Explicit in mesh.axis_types
        for mesh in (jax.sharding.get_abstract_mesh(), *meshes)
    )


def is_divided_by_xla(*arrays: Any) -> bool:
    """Tell whether a mesh that is set, or in arrays' types, has axes that XLA divides by itself.

    A mesh that `jit` alone is given is not seen here.
    """
    meshes = [jax.typeof(array).sharding.mesh for array in arrays if isinstance(array, jax.Array)]
    return any(
        dividing_axes(mesh, AxisType.Auto, AxisType.Explicit)
        for mesh in (jax.sharding.get_abstract_mesh(), *meshes)
    )


def axes_of(array: Any, dimension: int) -> Any:
    """Return the mesh axes that divide a dimension, as an entry of a `PartitionSpec`."""
    spec = jax.typeof(array).sharding.spec
    return spec[dimension] if dimension < len(spec) else None


def names_of(entry: Any) -> MeshAxes:
    """Return the mesh axes that an entry of a `PartitionSpec` names."""
    if entry is None:
        return ()
    return tuple(entry) if isinstance(entry, tuple | list) else (entry,)


def layout_of(array: Any) -> Layout:
    """Return which mesh axes divide each dimension of an array, by its type."""
    return tuple(names_of(axes_of(array, dimension)) for dimension in range(array.ndim))


def spec_of(layout: Layout) -> PartitionSpec:
    """Return the spec of a layout."""
    return PartitionSpec(*(axes or None for axes in layout))


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
        names = names_of(entry)
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
