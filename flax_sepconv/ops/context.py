"""What a lowering rule may know of the program that it is for."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from jax.interpreters import mlir
from jax.sharding import AbstractMesh, AxisType

Surroundings = Literal["exported", "partly manual", "without mesh", "explicit mesh"]


class Summation(NamedTuple):
    """How a convolution may contract over examples and steps.

    Where XLA divides a program, and devices hold the same examples or steps, it sums what a
    convolution contracts as often as they do, for `jax.lax`'s own gradients too: on a (2, 2) mesh
    whose first axis divides the batch they are twice as large (jaxlib 0.10.2 and 0.12.0.1).

    Attributes:
        kind: "at once"; "by example", over whole steps in the convolution and over examples behind
            it; or "by tap", without a convolution.
        mesh: that divides the program, for "by example".
    """

    kind: Literal["at once", "by example", "by tap"]
    mesh: AbstractMesh | None = None


AT_ONCE, BY_TAP = Summation("at once"), Summation("by tap")


@dataclass(frozen=True)
class Context:
    """What is known of a program.

    Attributes:
        platform: XLA's name of it: "cpu", "cuda", "rocm", "tpu", ...
        surroundings: None, or what sets the program apart: "exported" (lowered by `jax.export`),
            "partly manual" (inside a `shard_map` over some axes of a mesh), "without mesh"
            (several devices, arrays not sharded over a mesh), "explicit mesh" (a sum over the
            batch on several devices, and types tell who holds what).
        single_device: whether every device runs the program on what it holds, with nothing left to
            divide: it is for one, or inside a `shard_map` over all axes.
        summation: how convolutions may sum.
    """

    platform: str
    surroundings: Surroundings | None = None
    single_device: bool = True
    summation: Summation = AT_ONCE

    @classmethod
    def of(
        cls, ctx: mlir.LoweringRuleContext, platform: str, sums_over_batch: bool = False
    ) -> "Context":
        """Look at what JAX tells a lowering rule."""
        axes: Any = ctx.module_context.axis_context
        manual = getattr(axes, "manual_axes", None)
        devices = 1 if manual is not None else getattr(axes, "num_devices", 1)
        surroundings: Surroundings | None = None
        if ctx.module_context.lowering_parameters.for_export:
            surroundings = "exported"
        elif manual is not None:
            surroundings = None if set(manual) == set(axes.mesh.axis_names) else "partly manual"
        elif devices > 1 and axes.abstract_mesh is None:
            surroundings = "without mesh"
        elif sums_over_batch and devices > 1 and AxisType.Explicit in _mesh_of(ctx).axis_types:
            surroundings = "explicit mesh"
        single_device = devices == 1 and surroundings != "partly manual"
        return cls(platform, surroundings, single_device, _summation(axes, devices, surroundings))


UNKNOWN = Context(platform="")


def _mesh_of(ctx: mlir.LoweringRuleContext) -> AbstractMesh:
    """Return the mesh in the type of the first operand."""
    operand: Any = ctx.avals_in[0]
    mesh: AbstractMesh = operand.sharding.mesh
    return mesh


def _summation(axes: Any, devices: int, surroundings: Surroundings | None) -> Summation:
    """Tell how a convolution may contract over what devices share.

    Which devices hold the same examples or steps is not known here. They do where a mesh axis, or
    a part of one (XLA divides axes too), divides nothing; not on a prime number of devices.
    """
    if surroundings in ("exported", "partly manual"):
        return BY_TAP  # Who calls an exported program may divide it.
    if all(devices % divisor for divisor in range(2, devices)):
        return AT_ONCE
    mesh = axes.abstract_mesh
    is_uniform = mesh is not None and (mesh.are_all_axes_explicit or mesh.are_all_axes_auto)
    return Summation("by example", mesh) if is_uniform else BY_TAP
