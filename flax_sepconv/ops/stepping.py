"""A chunk of causal streams as one primitive, so that a lowering may read it where it lies.

`separable_step` takes the steps before a chunk and the chunk, and gives the output and the steps
that the next chunk needs. By definition it is `separable` of both, one behind the other: that is
what is differentiated, and what it is lowered to where nothing is gained by one call.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from flax_sepconv.ops.context import Context
from flax_sepconv.ops.contraction import Stages
from flax_sepconv.ops.interception import is_intercepted
from flax_sepconv.ops.lowerings import LOWERINGS
from flax_sepconv.ops.primitives import fold, register, register_lowering
from flax_sepconv.ops.selection import choose_for_both, lowering, name_by_table
from flax_sepconv.ops.separable import separable

step_p = Primitive("separable_step")
step_p.multiple_results = True


def steps(implementation: str | None, *operands: Any) -> bool:
    """Tell whether a chunk may be a step: of plain arrays of one type and of known shapes.

    Args:
        implementation: that is named.
        operands: the steps before the chunk, the chunk and the weights.
    """
    if is_intercepted() or not (implementation is None or LOWERINGS[implementation].has_step):
        return False
    if not all(isinstance(operand, jax.Array) for operand in operands):
        return False
    types = [jax.typeof(operand) for operand in operands]
    is_known = all(isinstance(size, int) for each in types for size in each.shape)
    is_plain = all(each.sharding.mesh.empty for each in types)
    return is_known and is_plain and len({each.dtype for each in types}) == 1


def step(
    before: jax.Array,
    x: jax.Array,
    kernel: jax.Array,
    pointwise: Sequence[jax.Array],
    stages: Stages,
) -> tuple[jax.Array, jax.Array]:
    """Compute a chunk's output and what the next chunk needs.

    Args:
        before: (B, D*(K-1), C), not empty.
        x: (B, T, C), the chunk.
        kernel: (K, C, M).
        pointwise: (1, C*M, F), and (F,) where there is a bias.
        stages: of the steps before the chunk and those of it, as one row.

    Returns:
        (B, T, F) and (B, D*(K-1), C).
    """
    y, after = step_p.bind(before, x, kernel, pointwise[0][0], *pointwise[1:], stages=stages)
    return y, after


def _defined(stages: Stages, *operands: jax.Array) -> list[jax.Array]:
    """Compute both results of the chunk behind the steps before it."""
    before, x, kernel, w, *bias = operands
    joined = lax.concatenate([before, x], 1)
    after = lax.slice_in_dim(joined, x.shape[1], joined.shape[1], axis=1)
    return [separable(joined, kernel, (w[None], *bias), (), stages), after]


def _abstract(*operands: Any, stages: Stages) -> list[Any]:
    before, x, _, w = operands[:4]
    return [x.update(shape=(*x.shape[:2], w.shape[1]), dtype=stages.dtype), before]


def _batch(
    operands: Sequence[jax.Array], axes: Sequence[int | None], *, stages: Stages
) -> tuple[list[jax.Array], list[int]]:
    """Fold a mapped axis of streams into the batch; else map the definition."""
    if any(axis is not None for axis in axes[2:]):
        out = jax.vmap(functools.partial(_defined, stages), in_axes=tuple(axes))(*operands)
        return out, [0, 0]
    size = next(o.shape[a] for o, a in zip(operands, axes, strict=True) if a is not None)
    rows = (fold(operands[i], axes[i], size) for i in range(2))
    out = step_p.bind(*rows, *operands[2:], stages=stages)
    return [each.reshape(size, each.shape[0] // size, *each.shape[1:]) for each in out], [0, 0]


def _where(stages: Stages, operands: Sequence[Any], which: Sequence[int]) -> Callable[..., Any]:
    """Return the definition as a function of some of the operands."""

    def of_some(*some: jax.Array) -> list[jax.Array]:
        given = dict(zip(which, some, strict=True))
        return _defined(stages, *(given.get(i, operand) for i, operand in enumerate(operands)))

    return of_some


def _jvp(
    primals: Sequence[jax.Array], tangents: Sequence[Any], *, stages: Stages
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Differentiate the definition, with respect to what moves."""
    moving = [i for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]
    some, dots = ([each[i] for i in moving] for each in (primals, tangents))
    out: tuple[list[jax.Array], list[jax.Array]] = jax.jvp(
        _where(stages, primals, moving), some, dots
    )
    return out


def _transpose(cotangents: Sequence[Any], *operands: Any, stages: Stages) -> list[Any]:
    """Carry cotangents back to what is linear, by the definition."""
    unknown = [i for i, operand in enumerate(operands) if ad.is_undefined_primal(operand)]
    linear = _where(stages, operands, unknown)
    known = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    found = jax.linear_transpose(linear, *(operands[i].aval for i in unknown))(known)
    gradients = dict(zip(unknown, found, strict=True))
    return [gradients.get(i) for i in range(len(operands))]


def _lower(ctx: mlir.LoweringRuleContext, *operands: Any, platform: str, stages: Stages) -> Any:
    """Lower to one call, where what computes both stages has one, or to the definition."""
    context = Context.of(ctx, platform)
    types: Any = ctx.avals_in
    before, x, *weights = types
    length = before.shape[1] + x.shape[1]
    joined = jax.ShapeDtypeStruct((x.shape[0], length, x.shape[2]), x.dtype)
    types = (joined, *weights, ctx.avals_out[0])
    named = name_by_table(stages, types, context)
    first = named.first_stage(weights[0].shape[2], x.dtype, x.dtype, context)
    joint = choose_for_both(named, first, types)
    function: Callable[..., Any] = functools.partial(_defined, stages)
    if joint is not None and joint.has_step and (joint.activates or not stages.activation):
        function = functools.partial(joint.step, named)
    with lowering():
        return mlir.lower_fun(function)(ctx, *operands)


register(step_p, abstract=_abstract, batch=_batch, jvp=_jvp, transpose=_transpose)
register_lowering(step_p, _lower)
