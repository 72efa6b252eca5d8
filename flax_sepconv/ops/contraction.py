"""What is to be computed, in static facts: the parameters of the primitives."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from flax_sepconv.ops.context import UNKNOWN, Context
from flax_sepconv.ops.geometry import Geometry
from flax_sepconv.ops.limits import Limit

Argument = Literal["x", "k", "y"]
# Functions of single numbers that an output may end with. Those of zero are zero.
Activation = Literal["relu", "relu6", "silu"]
ContractionName = Literal["output", "input_gradient", "kernel_gradient"]

# The three contractions, by the argument of the trilinear form that each gives from the others.
CONTRACTIONS: dict[Argument, ContractionName] = {
    "y": "output",
    "x": "input_gradient",
    "k": "kernel_gradient",
}
OPERANDS: dict[Argument, tuple[Argument, Argument]] = {
    "y": ("x", "k"),
    "x": ("y", "k"),
    "k": ("x", "y"),
}


@dataclass(frozen=True)
class Contraction:
    """One contraction of the depthwise stage.

    Attributes:
        result: the argument of the trilinear form that is computed from the two others.
        geometry: of whole rows.
        limits: what limits the rows; where they are limited, that is the last operand.
        multiplier: M.
        operand_dtype: the operands' common one.
        dtype: the result's.
        precision: of contractions on matrix units.
        implementation: the name of a lowering, or None.
        context: of the program; known when it is lowered.
        activation: of the output with a bias, what it ends with, or None.
    """

    result: Argument
    geometry: Geometry
    limits: Limit
    multiplier: int
    operand_dtype: jnp.dtype
    dtype: jnp.dtype
    precision: lax.PrecisionLike
    implementation: str | None
    context: Context = UNKNOWN
    activation: Activation | None = None

    @property
    def name(self) -> ContractionName:
        """Of the contraction."""
        return CONTRACTIONS[self.result]

    @property
    def accumulator(self) -> jnp.dtype:
        """The dtype of the sums."""
        return jnp.promote_types(self.operand_dtype, jnp.float32)


StagesResult = Literal["y", "x", "k", "w", "xk", "xw", "kw", "xkw"]


@dataclass(frozen=True)
class Stages:
    """Both stages, or gradients of them; of the depthwise stage alone, the output.

    Attributes:
        result: "y", the output, from x, k, w and the bias; or the gradients of these, of w and the
            bias together: "w" from x, k and the cotangent y, the others from x, k, w and y.
        bias: whether there is one.
        geometry, limits, precision, implementation: as for `Contraction`.
        dtype: of the results.
        differentiated: whether all gradients of this output are computed too.
        context: of the program; known to a lowering that computes both stages together.
        activation: what the output ends with, or None.
    """

    result: StagesResult
    bias: bool
    geometry: Geometry
    limits: Limit
    precision: lax.PrecisionLike
    implementation: str | None
    dtype: jnp.dtype
    differentiated: bool = False
    context: Context = UNKNOWN
    activation: Activation | None = None

    def has_pointwise(self, rest: Sequence[Any]) -> bool:
        """Tell whether the weights behind the depthwise kernel are more than a bias."""
        return len(rest) > self.bias

    def first_stage(
        self,
        multiplier: int,
        operands: DTypeLike,
        dtype: DTypeLike,
        context: Context = UNKNOWN,
    ) -> Contraction:
        """Return what is to be computed for h, the output of the depthwise stage."""
        return Contraction(
            "y",
            self.geometry,
            self.limits,
            multiplier,
            jnp.dtype(operands),
            jnp.dtype(dtype),
            self.precision,
            self.implementation,
            context,
            self.activation,
        )

    def linear(self) -> "Stages":
        """Return the same without an activation."""
        return replace(self, activation=None)

    def part(self, operands: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Part what belongs to operands from what belongs to the limits behind them."""
        count = len(operands) - (self.limits != "whole")
        return tuple(operands[:count]), tuple(operands[count:])
