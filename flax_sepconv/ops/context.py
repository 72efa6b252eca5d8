"""What a lowering rule may know of the program that it is for."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from jax.interpreters import mlir
from jax.sharding import AbstractMesh, AxisType, Mesh

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
            "partly manual" (inside a `shard_map` over some of the axes of a mesh that divide),
            "without mesh" (several devices, arrays not sharded over a mesh), "explicit mesh" (types
            tell who holds what, and no `shard_map` by them is around).
        is_divided: whether XLA divides the program among the devices of a mesh. Else, without
            surroundings, it is one device's: for one, or inside a `shard_map` over all axes.
        summation: how convolutions may sum.
        device_kind: JAX's name of the devices' kind, where the program is lowered for known ones.
    """

    platform: str
    surroundings: Surroundings | None = None
    is_divided: bool = False
    summation: Summation = AT_ONCE
    device_kind: str | None = None

    @classmethod
    def of(cls, ctx: mlir.LoweringRuleContext, platform: str) -> "Context":
        """Look at what JAX tells a lowering rule."""
        axes: Any = ctx.module_context.axis_context
        manual = getattr(axes, "manual_axes", None)
        devices = 1 if manual is not None else getattr(axes, "num_devices", 1)
        surroundings: Surroundings | None = None
        if ctx.module_context.lowering_parameters.for_export:
            surroundings = "exported"
        elif manual is not None:
            dividing = {name for name, size in axes.mesh.shape.items() if size > 1}
            surroundings = "partly manual" if dividing - set(manual) else None
        elif devices > 1 and axes.abstract_mesh is None:
            surroundings = "without mesh"
        elif devices > 1 and _has_explicit_types(ctx):
            surroundings = "explicit mesh"
        is_divided = surroundings is None and devices > 1
        summation = AT_ONCE
        if not (is_divided and platform in PARTITIONING_PLATFORMS):
            summation = _summation(axes, devices, surroundings)
        kind = None if surroundings == "exported" else _device_kind(axes, platform)
        return cls(platform, surroundings, is_divided, summation, kind)

    def on_one_device(self) -> "Context":
        """Return the context of what one of the devices computes, where XLA divides a program."""
        return Context(self.platform, device_kind=self.device_kind)

    @property
    def is_one_device(self) -> bool:
        """Whether the program is one device's: it is for one, or inside a full `shard_map`."""
        return self.surroundings is None and not self.is_divided

    @property
    def is_partitioned(self) -> bool:
        """Whether XLA divides the program, and asks how to divide a call.

        On TPU it does not ask, and does not compile what it should have asked about
        (https://github.com/jax-ml/jax/issues/38196).
        """
        return self.is_divided and self.platform in PARTITIONING_PLATFORMS


def _device_kind(axes: Any, platform: str) -> str | None:
    """Return the kind of the devices that a program is lowered for: a topology's, it may be.

    None where they are of another platform: what `jax.jit(...).lower` is told to lower for.
    """
    mesh = getattr(axes, "mesh", None)
    devices = getattr(axes, "device_assignment", None)
    if devices is None and isinstance(mesh, Mesh):
        devices = mesh.devices.flat
    told: Any = next(iter(devices), None) if devices is not None else None
    if told is None:
        told = getattr(mesh or getattr(axes, "abstract_mesh", None), "abstract_device", None)
    names = ("gpu", platform) if platform in ("cuda", "rocm") else (platform,)
    # JAX 0.10.0 does not tell the platform of a mesh without devices.
    return told.device_kind if getattr(told, "platform", None) in names else None


def _has_explicit_types(ctx: mlir.LoweringRuleContext) -> bool:
    operands: Any = ctx.avals_in
    return any(AxisType.Explicit in operand.sharding.mesh.axis_types for operand in operands)


PARTITIONING_PLATFORMS = ("cpu", "cuda", "rocm")
UNKNOWN = Context(platform="")


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
