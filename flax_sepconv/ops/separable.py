"""Both stages as one primitive, so that a lowering may compute them together.

`separable_conv1d` with result "y" is pointwise(depthwise(x, k), w) + b, or an activation of that.
With result "w" it gives the gradients of w and b, from x, k and the cotangent y: given x and k,
each of the two is linear in what remains, and the other one's transpose, where there is no
activation. What limits the rows is the last operand.

With other results, such as "xkw", it gives several gradients, from x, k, w and y: the transpose of
`separable_tangent`, which says how y moves with those operands that move.

By definition they are compositions, and that is what they are lowered to where nothing is gained
by computing them together.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from flax_sepconv.ops.biased import ACTIVATIONS, moved_end
from flax_sepconv.ops.choices.deciding import whole
from flax_sepconv.ops.context import Context
from flax_sepconv.ops.contraction import Stages, StagesResult
from flax_sepconv.ops.interception import is_intercepted
from flax_sepconv.ops.limits import (
    output_lengths,
    rows_geometry,
    transpose_whole_rows,
    whole_rows,
)
from flax_sepconv.ops.lowerings import LOWERINGS, Lowering
from flax_sepconv.ops.masking import zero_tails
from flax_sepconv.ops.primitives import (
    fold,
    register,
    register_defined,
    register_lowering,
    transpose_defined,
)
from flax_sepconv.ops.reference import compose, contract, hidden, masked
from flax_sepconv.ops.selection import choose_for_both, lowering, name_by_table, traced
from flax_sepconv.ops.sharding import is_divided_by_xla, reshard_to, vary_alike

separable_p = Primitive("separable_conv1d")
separable_p.multiple_results = True
tangent_p = Primitive("separable_tangent")
tangent_p.multiple_results = True


def separable(
    x: jax.Array,
    kernel: Any,
    pointwise: Sequence[Any],
    limits: Sequence[jax.Array],
    stages: Stages,
) -> jax.Array:
    """Filter, contract, activate: (B, L, C), (K, C, M), (1, C*M, F), (F,) -> (B, steps, F)."""
    if not is_intercepted() or traced(stages.implementation, x, kernel) is None:
        pointwise = (pointwise[0][0], *pointwise[1:])
    named = LOWERINGS[stages.implementation] if stages.implementation else None
    composed = False
    if is_divided_by_xla(x, kernel):
        composed = True
        # Two operations, for h to be kept: XLA would not see that what it needs was exchanged.
        platform = "cuda" if jax.default_backend() == "gpu" else None
        (y,) = compose(stages.linear(), x, kernel, *pointwise, *limits, platform=platform)
    elif named is not None and not named.stages:
        composed = True
        # What is asked for by name and has no way to compute both together stays two operations.
        (y,) = compose(stages.linear(), x, kernel, *pointwise, *limits)
    elif named is not None and stages.limits == "lengths" and stages.limits not in named.limits:
        (lengths,), geometry = limits, stages.geometry
        whole = replace(stages, geometry=rows_geometry(geometry), limits="whole")
        (y,) = _bind(whole, whole_rows(x, lengths, geometry), kernel, *pointwise)
        y = zero_tails(y, output_lengths(lengths, geometry))
    else:
        (y,) = _bind(stages, x, kernel, *pointwise, *limits)
    if not composed:
        return y
    # Behind the ends y is zero without a bias, but its cotangent may be anything.
    y = y if stages.bias else masked(stages, y, tuple(limits))
    return y if stages.activation is None else ACTIVATIONS[stages.activation](y)


def _bind(stages: Stages, *operands: jax.Array) -> list[jax.Array]:
    results: list[jax.Array] = separable_p.bind(*vary_alike(*operands), stages=stages)
    return results


def _defined(stages: Stages, *operands: jax.Array, platform: str | None = None) -> list[jax.Array]:
    """Compute a result by the definition; the gradients of w and the bias by themselves."""
    if stages.activation is not None:
        (y,) = _defined(stages.linear(), *operands, platform=platform)
        return [ACTIVATIONS[stages.activation](y)]
    through_h = stages.result.replace("w", "")
    if stages.result in ("y", "w") or through_h == stages.result:
        return compose(stages, *operands, platform=platform)
    (x, kernel, _, y), limits = stages.part(operands)
    part = cast(StagesResult, through_h)
    return [
        *compose(replace(stages, result=part), *operands, platform=platform),
        *_bind(replace(stages, result="w"), x, kernel, y, *limits),
    ]


def _abstract(*operands: Any, stages: Stages) -> list[Any]:
    return list(jax.make_jaxpr(functools.partial(_defined, stages))(*operands).out_avals)


def _jvp(
    primals: Sequence[jax.Array], tangents: Sequence[Any], *, stages: Stages
) -> tuple[list[jax.Array], list[Any]]:
    """Differentiate: through h by the composition, and in the rest, which is linear, by itself."""
    (x, kernel, *rest), limits = stages.part(primals)
    (x_dot, kernel_dot, *rest_dot), _ = stages.part(tangents)
    if stages.result == "y":
        dots = [x_dot, kernel_dot, *rest_dot]
        moves = tuple(not isinstance(dot, ad.Zero) for dot in dots)
        moved = (dot for dot, does in zip(dots, moves, strict=True) if does)
        operands = vary_alike(x, kernel, rest[0], *moved, *limits)
        movement = Movement(stages.linear(), moves)
        is_ours = stages.implementation is None and movement.result == "xkw"
        # As in `biased`: relu is told by its result, the sums of the others are kept.
        kept = stages if stages.activation == "relu" else stages.linear()
        (y,) = _bind(replace(kept, differentiated=is_ours), *primals)
        (dot,) = tangent_p.bind(*operands, movement=movement)
        if stages.activation is not None:
            y, dot = moved_end(stages.activation, y, dot)
        return [y], [dot]
    out = _bind(stages, *primals)
    if stages.result != "w":
        all_dots = tuple(map(ad.instantiate_zeros, tangents))
        return out, jax.jvp(functools.partial(_defined, stages), tuple(primals), all_dots)[1]
    dots = [None if isinstance(dot, ad.Zero) else dot for dot in (x_dot, kernel_dot, *rest_dot)]
    # What is behind the ends in y must not meet h's zeros.
    other = masked(stages, rest[0], limits)
    terms = _moved(stages, (x, kernel, other), dots, limits)
    return out, [_add(terms, i, value) for i, value in enumerate(out)]


def _moved(
    stages: Stages,
    primals: tuple[jax.Array, Any, jax.Array],
    dots: Sequence[Any],
    limits: tuple[jax.Array, ...],
) -> list[list[jax.Array]]:
    """Tell how the results move, term by term: with h, and with what is linear behind it.

    Args:
        stages: of the results "y" or "w".
        primals: x, k, and w or the cotangent.
        dots: how x, k and what is behind them move; None where it does not.
        limits: of the rows.
    """
    x, kernel, other = primals
    x_dot, kernel_dot, *rest_dot = dots
    h_dots = [
        hidden(stages, a, b, limits)
        for a, b in ((x_dot, kernel), (x, kernel_dot))
        if a is not None and b is not None
    ]
    terms: list[list[jax.Array]] = []
    if h_dots:  # No bias: nothing but h moves.
        terms.append(contract(replace(stages, bias=False), sum(h_dots[1:], h_dots[0]), other))
    if any(dot is not None for dot in rest_dot):
        shapes = (other.shape, other.shape[1:])
        linear = (
            jnp.zeros(shape, other.dtype) if dot is None else dot
            for dot, shape in zip(rest_dot, shapes, strict=False)
        )
        terms.append(_bind(stages, x, kernel, *linear, *limits))
    return terms


def _add(terms: list[list[Any]], index: int, like: jax.Array) -> Any:
    """Add one of the results of several terms; a term may lack it."""
    present = [term[index] for term in terms if index < len(term)]
    return sum(present[1:], present[0]) if present else ad.Zero(jax.typeof(like).to_tangent_aval())


def _transpose(cotangents: Sequence[Any], *operands: Any, stages: Stages) -> list[Any]:
    """Carry cotangents back to what is linear: w and b, or y; x or k by the composition."""
    (x, kernel, *rest), limits = stages.part(operands)
    through_h = ad.is_undefined_primal(x) or ad.is_undefined_primal(kernel)
    if through_h or stages.result not in ("y", "w") or stages.activation is not None:
        return transpose_defined(functools.partial(_defined, stages), cotangents, operands)
    unknown = rest[0].aval
    known = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    transposed = replace(stages, result="w" if stages.result == "y" else "y", dtype=unknown.dtype)
    gradients = _bind(transposed, x, kernel, *known, *limits)
    shardings = [operand.aval.sharding for operand in rest]
    return [None, None, *map(reshard_to, gradients, shardings), *(None for _ in limits)]


def _batch(
    operands: Sequence[jax.Array], axes: Sequence[int | None], *, stages: Stages
) -> tuple[list[jax.Array], list[int]]:
    """Fold a mapped axis of rows and limits into the batch; else map the composition."""
    _, limits = stages.part(operands)
    rows = (0, *range(len(operands) - len(limits), len(operands)))
    if stages.result == "y" and all(axes[i] is None for i in range(len(axes)) if i not in rows):
        size = next(operands[i].shape[axes[i]] for i in rows if axes[i] is not None)
        folded = list(operands)
        for i in rows:
            folded[i] = fold(operands[i], axes[i], size)
        (y,) = _bind(stages, *folded)
        return [y.reshape(size, y.shape[0] // size, *y.shape[1:])], [0]
    out = jax.vmap(functools.partial(_defined, stages), in_axes=tuple(axes))(*operands)
    return out, [0] * len(out)


def _lower(ctx: mlir.LoweringRuleContext, *operands: Any, platform: str, stages: Stages) -> Any:
    """Lower to a call that computes both stages together where there is one, or to both."""
    context = Context.of(ctx, platform)
    types: Any = (*stages.part(ctx.avals_in)[0], *ctx.avals_out)
    stages = name_by_table(stages, types, context)
    dtype = types[0].dtype
    first = stages.first_stage(types[1].shape[2], dtype, dtype, context)
    joint = choose_for_both(stages, first, types)
    named = LOWERINGS[stages.implementation] if stages.implementation else None
    placed = replace(stages, context=context)
    function: Callable[..., Any]
    if joint is not None:
        function = functools.partial(_together, joint, placed)
    elif named is not None and _is_for_whole_rows(named, placed, types):
        function = functools.partial(_between_masks, named, placed)
    else:
        # One more channel divides as badly as it can.
        divided = platform == "tpu" and not context.is_one_device
        function = functools.partial(_defined, stages, platform=None if divided else platform)
    with lowering():
        return mlir.lower_fun(function)(ctx, *operands)


def _together(lowering: Lowering, stages: Stages, *operands: jax.Array) -> list[jax.Array]:
    """Compute a result of both stages by a lowering, and the activation that it does not."""
    if stages.activation is None or lowering.activates:
        return lowering.separable(stages, *operands)
    (y,) = lowering.separable(stages.linear(), *operands)
    return [ACTIVATIONS[stages.activation](y)]


def _is_for_whole_rows(lowering: Lowering, stages: Stages, types: Sequence[Any]) -> bool:
    """Tell whether a lowering computes both stages together, but knows no lengths."""
    is_masked = stages.limits == "lengths" and "lengths" not in lowering.limits
    is_joint = is_masked and stages.result in lowering.stages
    return is_joint and lowering.supports(whole(stages), types)


def _between_masks(lowering: Lowering, stages: Stages, *operands: jax.Array) -> list[jax.Array]:
    """Compute a result for sequences that end by one for whole rows."""
    (x, *rest), (lengths,) = stages.part(operands)
    geometry = stages.geometry
    rows, ends = whole_rows(x, lengths, geometry), output_lengths(lengths, geometry)
    if stages.result == "y":
        (y,) = _together(lowering, whole(stages), rows, *rest)
        return [zero_tails(y, ends)]
    kernel, weights, y = rest
    dx, *others = lowering.separable(whole(stages), rows, kernel, weights, zero_tails(y, ends))
    return [transpose_whole_rows(dx, lengths, geometry), *others]


register(separable_p, abstract=_abstract, batch=_batch, jvp=_jvp, transpose=_transpose)
register_lowering(separable_p, _lower)


@dataclass(frozen=True)
class Movement:
    """How y moves: with which of x, k, w and, where there is one, the bias."""

    stages: Stages
    moves: tuple[bool, ...]

    @property
    def result(self) -> StagesResult:
        """The gradients that its transpose gives; those of w and the bias are one."""
        x, k, *pointwise = self.moves
        named = LOWERINGS[self.stages.implementation] if self.stages.implementation else None
        asked = "x" * x + "k" * k + "w" * any(pointwise)
        if named is not None and asked not in named.stages and "xkw" in named.stages:
            return "xkw"  # What it can: all of them.
        return cast(StagesResult, asked)


def _tangent(movement: Movement, *operands: jax.Array) -> list[jax.Array]:
    """Compute how y moves, from x, k, w, how each of what moves does, and what limits the rows."""
    stages = movement.stages
    (x, kernel, weights, *moved), limits = stages.part(operands)
    dots = [moved.pop(0) if does else None for does in movement.moves]
    terms = [y for (y,) in _moved(stages, (x, kernel, weights), dots, limits)]
    return [sum(terms[1:], terms[0])]


def _tangent_transpose(
    cotangents: Sequence[Any], *operands: Any, movement: Movement
) -> list[jax.Array | None]:
    """Compute the gradients of what moves."""
    (x, kernel, weights, *dots), limits = movement.stages.part(operands)
    (y,) = map(ad.instantiate_zeros, cotangents)
    stages = replace(movement.stages, result=movement.result, dtype=weights.dtype)
    primals = (x, kernel, y) if stages.result == "w" else (x, kernel, weights, y)
    found = iter(_bind(stages, *primals, *limits))
    given = {name: next(found) for name in stages.result}
    letters = ["x", "k", "w"]
    if stages.bias and "w" in given:
        given["b"] = next(found)
        letters.append("b")
    moving = [name for name, does in zip(letters, movement.moves, strict=False) if does]
    wanted = [
        reshard_to(given[name], dot.aval.sharding) for name, dot in zip(moving, dots, strict=True)
    ]
    return [None, None, None, *wanted, *(None for _ in limits)]


register_defined(tangent_p, _tangent, _tangent_transpose)
