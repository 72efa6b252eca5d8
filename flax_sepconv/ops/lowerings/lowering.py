"""What a lowering is: a way to compute the depthwise stage, and maybe both stages."""

from collections.abc import Sequence
from typing import Any

from jax import Array

from flax_sepconv.ops.context import Context
from flax_sepconv.ops.contraction import Contraction, Stages, StagesResult
from flax_sepconv.ops.limits import Limit


class Lowering:
    """A way to compute the three contractions of the depthwise stage, and what it is for.

    A lowering has the three methods of contractions, or `contract` alone; or it computes both
    stages together, or both. One that `is_traced` has the method `traced` too.

    Attributes:
        version: of what it computes and how, raised when that changes: tables of choices that were
            measured with another one do not count.
        limits: those that it knows itself. With "lengths" that it does not know it is given masked,
            whole rows, and what it returns is masked; "segments" are left to others.
        is_portable: whether it is made of XLA's operations alone, which every process can run.
        is_traced: whether, where it is named, what it does stands in the program that JAX traces,
            in XLA's own operations, for tools that look for these; JAX differentiates them then.
        stages: the results of both stages that `separable` computes, under the same limits.
        adds_bias: whether it has `output_with_bias`, under the same limits.
        activates: whether `separable` and `step` end an output with the activation asked for.
        has_step: whether it has the method `step`.
    """

    version: int = 1
    limits: frozenset[Limit] = frozenset({"whole"})
    is_portable: bool = False
    is_traced: bool = False
    stages: frozenset[StagesResult] = frozenset()
    adds_bias: bool = False
    activates: bool = False
    has_step: bool = False

    def declines(self, context: Context) -> str | None:
        """Say why it cannot run in a program, or None."""
        return None

    def output(self, task: Contraction, x: Array, kernel: Array, *limits: Array) -> Array:
        """Filter every channel: (B, L, C), (K, C, M) -> (B, output_length, C*M)."""
        raise NotImplementedError

    def output_with_bias(
        self, task: Contraction, x: Array, kernel: Array, bias: Array, *limits: Array
    ) -> Array:
        """Compute `output`, add a bias (C*M,) to the steps that there are, and activate them.

        `task.activation` says what the sums become before they are rounded, or None.
        """
        raise NotImplementedError

    def traced(self, task: Contraction, x: Array, kernel: Any) -> Array:
        """Filter every channel of whole rows, while JAX traces.

        The kernel may be what a tool put in its place: with `shape`, `dtype` and `reshape`, and
        known to the functions of `lax` that the tool replaced. It may then be folded, (K, 1, C*M).
        """
        raise NotImplementedError

    def input_gradient(self, task: Contraction, y: Array, kernel: Array, *limits: Array) -> Array:
        """Carry a cotangent back: (B, output_length, C*M), (K, C, M) -> (B, L, C)."""
        raise NotImplementedError

    def kernel_gradient(self, task: Contraction, x: Array, y: Array, *limits: Array) -> Array:
        """Correlate inputs and cotangents: (B, L, C), (B, output_length, C*M) -> (K, C, M)."""
        raise NotImplementedError

    def contract(self, task: Contraction, a: Array, b: Array, *limits: Array) -> Array:
        """Compute the contraction that is asked for."""
        if task.result == "y":
            return self.output(task, a, b, *limits)
        if task.result == "x":
            return self.input_gradient(task, a, b, *limits)
        return self.kernel_gradient(task, a, b, *limits)

    def supports(self, stages: Stages, types: Sequence[Any]) -> bool:
        """Tell whether `separable` is for operands, without limits, and results of these types."""
        return True

    def separable(self, stages: Stages, *operands: Array) -> list[Array]:
        """Compute a result of both stages together."""
        raise NotImplementedError

    def step(self, stages: Stages, before: Array, x: Array, *weights: Array) -> list[Array]:
        """Compute the output of a chunk of streams, and the steps that the next one needs.

        Args:
            stages: of the steps before the chunk and those of it, as one row.
            before: (B, D*(K-1), C).
            x: (B, T, C), the chunk.
            weights: (K, C, M), (C*M, F), and the bias (F,) where there is one.

        Returns:
            (B, T, F) and (B, D*(K-1), C).
        """
        raise NotImplementedError
