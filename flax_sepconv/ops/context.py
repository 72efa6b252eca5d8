"""What a lowering rule may know of the program that it is for."""

from dataclasses import dataclass
from typing import Any, Literal

from jax.interpreters import mlir

Surroundings = Literal["exported", "partly manual", "without mesh"]


@dataclass(frozen=True)
class Context:
    """What is known of a program.

    Attributes:
        platform: XLA's name of it: "cpu", "cuda", "rocm", "tpu", ...
        surroundings: None, or what sets the program apart: "exported" (lowered by `jax.export`),
            "partly manual" (inside a `shard_map` over some of the axes of a mesh that divide),
            "without mesh" (several devices, arrays not sharded over a mesh).
        is_divided: whether XLA divides the program among the devices of a mesh, by what it is told
            (`partitioning`). Else, without surroundings, it is one device's: for one, or inside a
            `shard_map` over all axes.
        sums_by_tap: whether a convolution must not contract over examples and steps. Where XLA
            divides a program, and devices hold the same examples or steps, it sums what a
            convolution contracts as often as they do, for `jax.lax`'s own gradients too: on a
            (2, 2) mesh whose first axis divides the batch they are twice as large (jaxlib 0.10.2
            and 0.12.0.1).
    """

    platform: str
    surroundings: Surroundings | None = None
    is_divided: bool = False
    sums_by_tap: bool = False

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
        is_divided = surroundings is None and devices > 1
        return cls(platform, surroundings, is_divided, _sums_by_tap(devices, surroundings))


UNKNOWN = Context(platform="")


def _sums_by_tap(devices: int, surroundings: Surroundings | None) -> bool:
    """Tell whether devices may hold the same examples or steps, where XLA divides by itself.

    Who calls an exported program may divide it. Which devices hold the same is not known here: all
    or none do where their number is prime.
    """
    if surroundings == "without mesh":
        return any(devices % divisor == 0 for divisor in range(2, devices))
    return surroundings is not None
