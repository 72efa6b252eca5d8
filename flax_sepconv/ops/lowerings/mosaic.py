"""Both stages, and all their gradients, in Mosaic (`flax_sepconv/ops/mosaic/`), through Pallas.

For TPUs. Compiled for them and checked by interpretation, not yet run on one: it is taken by name,
or where a table of choices has measured it. There is no depthwise stage alone.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from jax import Array

from flax_sepconv.ops.context import Context
from flax_sepconv.ops.contraction import Contraction, Stages, StagesResult
from flax_sepconv.ops.lowerings.lowering import Lowering

if TYPE_CHECKING:
    from flax_sepconv.ops.mosaic.plan import Chip


class Mosaic(Lowering):
    """Kernels for TPUs. Pallas is imported where it is used."""

    version: int = 2

    stages: frozenset[StagesResult] = frozenset({"y", "xkw"})

    def declines(self, context: Context) -> str | None:
        """Say why it cannot run in a program, or None."""
        if context.platform != "tpu":
            return f"it is for TPUs, and the program is lowered for {context.platform}"
        if context.surroundings not in (None, "exported"):
            return "XLA cannot divide its calls among devices by itself there"
        return None

    def contract(self, task: Contraction, a: Array, b: Array, *limits: Array) -> NoReturn:
        """Decline: what cannot be computed together ends up here."""
        raise NotImplementedError(
            "implementation='mosaic' computes both stages together and their first derivatives in "
            "reverse, on one device (or inside a shard_map), and nothing else"
        )

    def supports(self, stages: Stages, types: Sequence[Any]) -> bool:
        """Tell that both stages can be computed together; raise where they cannot, to say why."""
        from flax_sepconv.ops.mosaic.plan import check, plan_gradients, plan_output

        x, kernel, weights = types[:3]
        check(stages.geometry, x, kernel, weights)
        (C, F), chip = weights.shape[-2:], _chip(stages.context)
        plan = plan_output if stages.result == "y" else plan_gradients
        plan(stages.geometry, C, F, x.dtype.itemsize, chip)
        return True

    def separable(self, stages: Stages, *operands: Array) -> list[Array]:
        """Compute the output, or all gradients."""
        from flax_sepconv.ops.mosaic.forward import separable
        from flax_sepconv.ops.mosaic.gradients import gradients

        x, kernel, weights, *rest = operands
        geometry, dtype, precision = stages.geometry, stages.dtype, stages.precision
        chip = _chip(stages.context)
        if stages.result == "y":
            bias = rest[0] if stages.bias else None
            y = separable(x, kernel, weights, bias, geometry, dtype, chip=chip, precision=precision)
            return [y]
        results = gradients(
            x, kernel, weights, rest[0], geometry, bias=stages.bias, chip=chip, precision=precision
        )
        return [result for result in results if result is not None]


def _chip(context: Context) -> "Chip":
    """Return what a program may use of the devices that it is lowered for."""
    from flax_sepconv.ops.mosaic.plan import CHIPS, UNKNOWN

    return CHIPS.get(context.device_kind or "", UNKNOWN)
