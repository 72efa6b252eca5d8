"""Calls on arrays that are divided among devices, where it is known how.

Inside a `shard_map` the caller names the mesh axis that divides the steps. On a mesh of explicit
axes the types of arrays tell everything, and the call becomes a `shard_map` by them:

- what divides x over the batch, the steps and the channels stays; of the steps each device gets a
  halo from its neighbours;
- weights that are divided by axes of the batch or the steps ("fully sharded data parallel") are
  gathered where they are used, and their gradients scattered;
- weights divided over channels (rows of the pointwise kernel) let each device filter its channels,
  and the results are summed; divided over filters (its columns) they divide the result.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from flax_sepconv.ops.biased import ACTIVATIONS, biased
from flax_sepconv.ops.contraction import Stages
from flax_sepconv.ops.depthwise import depthwise
from flax_sepconv.ops.halo import rows_with_halo
from flax_sepconv.ops.limits import output_lengths, rows_geometry, whole_rows
from flax_sepconv.ops.masking import zero_tails
from flax_sepconv.ops.separable import separable
from flax_sepconv.ops.sharding import (
    Layout,
    MeshAxes,
    Shards,
    devices,
    dividing_axes,
    layout_of,
    mesh_around,
    mesh_of,
    spec_of,
)
from flax_sepconv.ops.trimming import reaches_too_far, trimmed

Arrays = tuple[jax.Array, ...]


def compute(
    x: jax.Array,
    kernel: Any,
    rest: Sequence[Any],
    limits: Sequence[jax.Array],
    stages: Stages,
    shards: Shards | None = None,
) -> jax.Array:
    """Compute both stages, or, without pointwise weights, the first.

    Args:
        x, kernel, limits, stages: as for `separable`.
        rest: w (1, C*M, F), where there is a pointwise stage, and the bias, where there is one.
        shards: how steps are divided, for x to be a device's own; the geometry and lengths are
            those of whole sequences.
    """
    if stages.limits == "lengths" and shards is None:
        stages = replace(stages, geometry=stages.geometry.without_far_strides())
    if stages.limits != "lengths":
        kernel, stages = trimmed(kernel, stages)
    elif shards is None and reaches_too_far(stages.geometry):
        # Which output steps there are goes by all taps: sequences become rows first.
        (lengths,), geometry = limits, stages.geometry
        whole = replace(stages, geometry=rows_geometry(geometry), limits="whole")
        y = compute(whole_rows(x, lengths, geometry), kernel, rest, (), whole)
        return zero_tails(y, output_lengths(lengths, geometry))
    if shards is not None:
        rows = rows_with_halo(x, tuple(limits), stages.limits, stages.geometry, shards)
        local = replace(stages, geometry=rows.geometry, limits=rows.kind)
        return rows.own(compute(rows.x, kernel, rest, rows.limits, local))
    if stages.has_pointwise(rest):
        return separable(x, kernel, rest, limits, stages)
    contraction = stages.first_stage(kernel.shape[2], x.dtype, stages.dtype)
    if rest or stages.activation:
        bias = rest[0] if rest else jnp.zeros(math.prod(kernel.shape[1:]), kernel.dtype)
        return biased(x, kernel, bias, limits, contraction)
    return depthwise(x, kernel, limits, contraction)


def along_axes(
    x: jax.Array,
    kernel: jax.Array,
    rest: Sequence[jax.Array],
    limits: Sequence[jax.Array],
    stages: Stages,
    shards: Shards,
) -> jax.Array:
    """Compute what `compute` does for whole arrays, whose steps XLA divides by these axes.

    Of the mesh, what else divides the arrays is left to XLA.
    """
    program = _program_along(mesh_around(x), stages, shards)
    y: jax.Array = program(x, kernel, tuple(rest), tuple(limits))
    return y


@functools.lru_cache(maxsize=1024)
def _program_along(mesh: AbstractMesh, stages: Stages, shards: Shards) -> Callable[..., jax.Array]:
    """Return the program of a call along axes."""

    def local(x: jax.Array, kernel: Any, rest: Arrays, limits: Arrays) -> jax.Array:
        return compute(x, kernel, rest, limits, stages, shards)

    rows = PartitionSpec(None, shards.axes)
    divided = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(
            rows,
            PartitionSpec(),
            PartitionSpec(),
            rows if stages.limits == "segments" else PartitionSpec(),
        ),
        out_specs=rows,
        axis_names={*shards.axes},
    )
    program: Callable[..., jax.Array] = jax.jit(divided)
    return program


@dataclass(frozen=True)
class Plan:
    """How a call is divided.

    Attributes:
        mesh: of explicit axes, and of those of a `shard_map` around the call.
        batch, steps, channels: what divides these of x.
        filters: what divides these of the pointwise kernel.
        scattered: the dimension of the result over which its sum over channels is divided; None:
            each device has all of the sum.
    """

    mesh: AbstractMesh
    batch: MeshAxes
    steps: MeshAxes
    channels: MeshAxes
    filters: MeshAxes
    scattered: int | None = None

    @property
    def shards(self) -> Shards | None:
        """How the steps are divided."""
        return Shards.over(self.mesh, self.steps)

    @property
    def rows(self) -> Layout:
        """The layout of x."""
        return self.batch, self.steps, self.channels

    def limits(self, kind: str) -> tuple[Layout, ...]:
        """Return the layout of what limits rows."""
        return {
            "whole": (),
            "lengths": ((self.batch,),),
            "segments": ((self.batch, self.steps),),
        }[kind]

    def weights(self, has_pointwise: bool, bias: bool) -> tuple[Layout, ...]:
        """Return the layouts of (K, C, M), and of (1, C*M, F) and the bias where there are these.

        The bias is (F,), or, without pointwise weights, (C*M,).
        """
        layouts: list[Layout] = [((), self.channels, ())]
        features = self.channels
        if has_pointwise:
            layouts.append(((), self.channels, self.filters))
            features = self.channels if self.scattered == 2 else self.filters
        return (*layouts, (features,)) if bias else tuple(layouts)

    def result(self, is_filtered: bool) -> Layout:
        """Return the layout of the result, of both stages or of the first."""
        axes = [self.batch, self.steps, self.filters if is_filtered else self.channels]
        if self.scattered is not None:
            axes[self.scattered] += self.channels
        return tuple(axes)


def plan_of(
    x: jax.Array, weights: Sequence[jax.Array], stages: Stages, wanted: Layout | None = None
) -> Plan | None:
    """Plan a call on arrays that are divided by their types; None: they do not tell.

    Args:
        x, weights, stages: as for `on_mesh`.
        wanted: of the result, where that is known: a sum over channels may be scattered at once.

    Raises:
        ValueError: the output steps cannot be divided as those of x are.
    """
    mesh = mesh_of(x, *weights)
    if mesh is None or mesh.size == 1 or dividing_axes(mesh, AxisType.Auto):
        return None
    batch, steps, channels = layout_of(x)
    mixing = weights[1:2] if stages.has_pointwise(weights[1:]) else ()
    layouts = [layout_of(weight) for weight in (weights[0], *mixing)]
    is_whole = not steps and not any(layout[1] for layout in layouts)
    if is_whole and dividing_axes(mesh, AxisType.Manual):
        return None  # XLA divides that as well, and does not differentiate a nested `shard_map`.
    taken = {*batch, *steps}
    for layout in layouts:
        divides = x.shape[2] % devices(mesh, layout[1]) == 0
        if not channels and not taken & {*layout[1]} and divides:
            channels = layout[1]
    filters = layouts[1][2] if mixing else ()
    filters = () if {*filters} & {*taken, *channels} else filters
    count = devices(mesh, steps)
    output_length = stages.geometry.output_length
    if output_length % count:
        raise ValueError(
            f"the {x.shape[1]} steps of x are divided among {count} devices, by the mesh axes "
            f"{', '.join(steps)}; the output's {output_length} must be a multiple of that, too. "
            "jax.reshard gathers the steps of x"
        )
    plan = Plan(mesh, batch, steps, channels, filters)
    if wanted is None or not channels or not mixing:
        return plan
    sizes = x.shape[0], output_length, mixing[0].shape[2]
    for dimension, axes in enumerate(plan.result(True)):
        fits = sizes[dimension] % devices(mesh, axes + channels) == 0
        if fits and wanted[dimension] == axes + channels:
            return replace(plan, scattered=dimension)
    return plan


def on_mesh(
    plan: Plan,
    x: jax.Array,
    weights: Sequence[jax.Array],
    limits: Sequence[jax.Array],
    stages: Stages,
) -> jax.Array:
    """Compute both stages, or, without pointwise weights, the first, each device what it holds.

    Args:
        plan: what `plan_of` returned.
        x: (B, L, C).
        weights: (K, C, M); and (1, C*M, F) and the bias, where there are these.
        limits, stages: as for `separable`.
    """
    layouts = plan.weights(stages.has_pointwise(weights[1:]), stages.bias)
    if not jax.typeof(x).sharding.mesh.empty:
        limits = tuple(_beside(x, limit) for limit in limits)
        weights = tuple(_beside(x, weight) for weight in weights)
    x = _reshard(plan, x, plan.rows)
    weights = tuple(_prepared(plan, *each) for each in zip(weights, layouts, strict=True))
    limits = tuple(
        _reshard(plan, *each) for each in zip(limits, plan.limits(stages.limits), strict=True)
    )
    y: jax.Array = _program(plan, stages, tuple(map(layout_of, weights)))(x, weights, limits)
    return y


@functools.lru_cache(maxsize=1024)
def _program(plan: Plan, stages: Stages, given: tuple[Layout, ...]) -> Callable[..., jax.Array]:
    """Return the program of a call, for weights that are given in these layouts."""
    has_pointwise = stages.has_pointwise(given[1:])
    wanted = plan.weights(has_pointwise, stages.bias)

    def local(x: jax.Array, weights: Arrays, limits: Arrays) -> jax.Array:
        return _local(plan, stages, x, tuple(map(_gathered, weights, given, wanted)), limits)

    mesh = plan.mesh
    explicit = {
        name
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind != AxisType.Manual
    }
    # All, but for what `jax.vmap` maps over, which JAX leaves out where nothing is named: what it
    # is JAX looks up when a `shard_map` is made, so one is made for each program that is traced.
    named: dict[str, Any] = {}
    if len(explicit) < len(mesh.axis_names):
        named["axis_names"] = explicit

    def divided(x: jax.Array, weights: Arrays, limits: Arrays) -> Any:
        return jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(
                spec_of(plan.rows),
                tuple(map(spec_of, given)),
                tuple(map(spec_of, plan.limits(stages.limits))),
            ),
            out_specs=spec_of(plan.result(has_pointwise)),
            **named,
        )(x, weights, limits)

    program: Callable[..., jax.Array] = jax.jit(divided)
    return program


def _local(plan: Plan, stages: Stages, x: jax.Array, weights: Arrays, limits: Arrays) -> jax.Array:
    """Compute a device's part; what is summed over channels gets all else behind the sum."""
    kernel, *rest = weights
    if not (stages.has_pointwise(rest) and plan.channels):
        return compute(x, kernel, rest, limits, stages, plan.shards)
    sums = replace(stages, bias=False, activation=None)
    y: jax.Array = compute(x, kernel, rest[:1], limits, sums, plan.shards)
    if plan.scattered is None:
        y = lax.psum(y, plan.channels)
    else:
        y = lax.psum_scatter(y, plan.channels, scatter_dimension=plan.scattered, tiled=True)
    if stages.bias:
        y = y + rest[1]
    if stages.activation is not None:
        y = ACTIVATIONS[stages.activation](y)
    if not stages.bias or stages.limits != "lengths":
        return y
    ends = output_lengths(limits[0], stages.geometry)
    by_steps = plan.steps + (plan.channels if plan.scattered == 1 else ())
    if shards := Shards.over(plan.mesh, by_steps):
        ends = shards.own(ends, y.shape[1])
    return zero_tails(y, ends)


def _prepared(plan: Plan, weight: jax.Array, layout: Layout) -> jax.Array:
    """Divide weights as they are wanted, but for what is gathered where it is used."""
    taken = {*plan.batch, *plan.steps}
    kept = tuple(
        own if own[: len(axes)] == axes and {*own[len(axes) :]} <= taken else axes
        for own, axes in zip(layout_of(weight), layout, strict=True)
    )
    return _reshard(plan, weight, kept)


def _gathered(weight: jax.Array, given: Layout, wanted: Layout) -> jax.Array:
    """Gather the dimensions that are divided further than wanted."""
    for dimension, (own, axes) in enumerate(zip(given, wanted, strict=True)):
        if further := own[len(axes) :]:
            weight = lax.all_gather(weight, further, axis=dimension, tiled=True)
    return weight


def _reshard(plan: Plan, array: jax.Array, layout: Layout) -> jax.Array:
    if layout_of(array) == layout:
        return array
    resharded: jax.Array = jax.reshard(array, NamedSharding(plan.mesh, spec_of(layout)))
    return resharded


def _beside(x: jax.Array, array: jax.Array) -> jax.Array:
    """Bring an array that is on no mesh to the devices of x, where no program is traced."""
    is_traced = any(isinstance(each, jax.core.Tracer) for each in (x, array))
    if is_traced or not jax.typeof(array).sharding.mesh.empty:
        return array
    mesh: Any = getattr(x.sharding, "mesh", None)
    whole: jax.Array = jax.device_put(array, NamedSharding(mesh, PartitionSpec()))
    return whole
