"""What a lowering is: a way to compute the depthwise stage, and maybe both stages."""

from collections.abc import Sequence
from typing import Any

import jax

from flax_sepconv.ops.context import Context
from flax_sepconv.ops.contraction import Contraction, Stages, StagesResult
from flax_sepconv.ops.limits import Limit


class Lowering:
    """A way to compute the three contractions of the depthwise stage, and what it is for.

    A lowering has the three methods of contractions, or `contract` alone; or it computes both
    stages together, or both.

    Attributes:
        limits: those that it knows itself. With "lengths" that it does not know it is given masked,
            whole rows, and what it returns is masked; "segments" are left to others.
        is_portable: whether it is made of XLA's operations alone, which every process can run.
        stages: the results of both stages that `separable` computes, under the same limits.
    """

    limits: frozenset[Limit] = frozenset({"whole"})
    is_portable: bool = False
    stages: frozenset[StagesResult] = frozenset()

    def declines(self, context: Context) -> str | None:
        """Say why it cannot run in a program, or None."""
        return None

    def output(
        self,
        contraction: Contraction,
        context: Context,
        x: jax.Array,
        kernel: jax.Array,
        *limits: jax.Array,
    ) -> jax.Array:
        """Filter every channel: (B, L, C), (K, C, M) -> (B, output_length, C*M)."""
        raise NotImplementedError

    def input_gradient(
        self,
        contraction: Contraction,
        context: Context,
        y: jax.Array,
        kernel: jax.Array,
        *limits: jax.Array,
    ) -> jax.Array:
        """Carry a cotangent back: (B, output_length, C*M), (K, C, M) -> (B, L, C)."""
        raise NotImplementedError

    def kernel_gradient(
        self,
        contraction: Contraction,
        context: Context,
        x: jax.Array,
        y: jax.Array,
        *limits: jax.Array,
    ) -> jax.Array:
        """Correlate inputs and cotangents: (B, L, C), (B, output_length, C*M) -> (K, C, M)."""
        raise NotImplementedError

    def contract(
        self,
        contraction: Contraction,
        context: Context,
        a: jax.Array,
        b: jax.Array,
        *limits: jax.Array,
    ) -> jax.Array:
        """Compute the contraction that is asked for."""
        if contraction.result == "y":
            return self.output(contraction, context, a, b, *limits)
        if contraction.result == "x":
            return self.input_gradient(contraction, context, a, b, *limits)
        return self.kernel_gradient(contraction, context, a, b, *limits)

    def supports(self, stages: Stages, types: Sequence[Any]) -> bool:
        """Tell whether `separable` is for operands, without limits, and results of these types."""
        return True

    def separable(self, stages: Stages, *operands: jax.Array) -> list[jax.Array]:
        """Compute a result of both stages together."""
        raise NotImplementedError
