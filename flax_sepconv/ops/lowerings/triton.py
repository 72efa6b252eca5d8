"""Both stages, and the depthwise stage alone, in Triton (`flax_sepconv/ops/triton/`), by Pallas.

For NVIDIA GPUs. Compiled for them and checked by interpretation, not yet run on one: it is taken
by name, or where a table of choices has measured it. Sums are float32.
"""

from collections.abc import Sequence
from typing import Any

from jax import Array

from flax_sepconv.ops.context import Context
from flax_sepconv.ops.contraction import Contraction, Stages, StagesResult
from flax_sepconv.ops.lowerings.lowering import Lowering

DTYPES = {"float32", "bfloat16", "float16"}
LARGEST_MULTIPLIER = 2


class Triton(Lowering):
    """Kernels for NVIDIA GPUs. Pallas is imported where it is used."""

    stages: frozenset[StagesResult] = frozenset({"y", "xkw"})

    def declines(self, context: Context) -> str | None:
        """Say why it cannot run in a program, or None."""
        if context.platform != "cuda":
            return f"it is for NVIDIA GPUs, and the program is lowered for {context.platform}"
        if context.surroundings not in (None, "exported"):
            return "XLA cannot divide its calls among devices by itself there"
        return None

    def contract(self, task: Contraction, a: Array, b: Array, *limits: Array) -> Array:
        """Compute a contraction."""
        from flax_sepconv.ops import triton

        kernels = {
            "output": triton.output,
            "input_gradient": triton.input_gradient,
            "kernel_gradient": triton.kernel_gradient,
        }
        return kernels[task.name](a, b, task.geometry, task.dtype)

    def supports(self, stages: Stages, types: Sequence[Any]) -> bool:
        """Tell whether both stages can be computed together for these types."""
        return (
            all(each.dtype.name in DTYPES and 0 not in each.shape for each in types)
            and types[1].shape[2] <= LARGEST_MULTIPLIER
            and (stages.result == "y" or stages.geometry.stride == 1)
        )

    def separable(self, stages: Stages, *operands: Array) -> list[Array]:
        """Compute the output, or all gradients."""
        from flax_sepconv.ops import triton

        x, kernel, weights, *rest = operands
        geometry, precision = stages.geometry, stages.precision
        if stages.result == "y":
            bias = rest[0] if stages.bias else None
            return [
                triton.separable_output(
                    x, kernel, weights, bias, geometry, stages.dtype, precision=precision
                )
            ]
        gradients = triton.separable_gradients(
            x, kernel, weights, rest[0], geometry, bias=stages.bias, precision=precision
        )
        return [gradient for gradient in gradients if gradient is not None]
