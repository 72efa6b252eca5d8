"""Both stages as one primitive, so that a lowering may compute them together.

`separable_conv1d` with result "y" is pointwise(depthwise(x, k), w) + b. With result "w" it gives
the gradients of w and b, from x, k and the cotangent y: given x and k, each of the two is linear in
what remains, and the other one's transpose. What limits the rows is the last operand.

With result "xkw" it gives all gradients, from x, k, w and y: the transpose of `separable_tangent`,
the derivative of y as a primitive of its own, which takes the place of its parts where all operands
move, so that a lowering may compute all gradients together.

By definition they are compositions, and that is what they are lowered to where nothing is gained
by computing them together.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from flax_sepconv.ops.choices.deciding import whole
from flax_sepconv.ops.context import Context
from flax_sepconv.ops.contraction import Stages
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
    """Filter, then contract: (B, L, C), (K, C, M), (1, C*M, F), (F,) -> (B, output_length, F)."""
    if not is_intercepted() or traced(stages.implementation, x, kernel) is None:
        pointwise = (pointwise[0][0], *pointwise[1:])
    named = LOWERINGS[stages.implementation] if stages.implementation else None
    if is_divided_by_xla(x, kernel):
        # Two operations, for h to be kept: XLA would not see that what it needs was exchanged.
        platform = "cuda" if jax.default_backend() == "gpu" else None
        (y,) = compose(stages, x, kernel, *pointwise, *limits, platform=platform)
    elif named is not None and not named.stages:
        # What is asked for by name and has no way to compute both together stays two operations.
        (y,) = compose(stages, x, kernel, *pointwise, *limits)
    elif named is not None and stages.limits == "lengths" and stages.limits not in named.limits:
        (lengths,), geometry = limits, stages.geometry
        whole = replace(stages, geometry=rows_geometry(geometry), limits="whole")
        (y,) = _bind(whole, whole_rows(x, lengths, geometry), kernel, *pointwise)
        y = zero_tails(y, output_lengths(lengths, geometry))
    else:
        (y,) = _bind(stages, x, kernel, *pointwise, *limits)
    return y


def _bind(stages: Stages, *operands: jax.Array) -> list[jax.Array]:
    results: list[jax.Array] = separable_p.bind(*vary_alike(*operands), stages=stages)
    return results


def _abstract(*operands: Any, stages: Stages) -> list[Any]:
    return list(jax.make_jaxpr(functools.partial(compose, stages))(*operands).out_avals)


def _jvp(
    primals: Sequence[jax.Array], tangents: Sequence[Any], *, stages: Stages
) -> tuple[list[jax.Array], list[Any]]:
    """Differentiate: through h by the composition, and in the rest, which is linear, by itself."""
    dots, limits = stages.part(tangents)[0], stages.part(primals)[1]
    if stages.result == "y" and _differentiates_at_once(stages, dots):
        moved = vary_alike(*primals[:3], *map(ad.instantiate_zeros, dots), *limits)
        is_ours = stages.implementation is None
        out = _bind(replace(stages, differentiated=is_ours), *primals)
        return out, tangent_p.bind(*moved, stages=stages)
    out = _bind(stages, *primals)
    if stages.result == "xkw":
        moving = tuple(map(ad.instantiate_zeros, tangents))
        return out, jax.jvp(functools.partial(compose, stages), tuple(primals), moving)[1]
    return out, _moved(stages, primals, dots, out)


def _moved(
    stages: Stages, primals: Sequence[jax.Array], tangents: Sequence[Any], out: Sequence[Any]
) -> list[Any]:
    """Tell how the results, of the types of `out`, move with the operands: by parts."""
    (x, kernel, *rest), limits = stages.part(primals)
    x_dot, kernel_dot, *rest_dot = tangents
    h_dots = [
        hidden(stages, a, b, limits)
        for a, b, dot in ((x_dot, kernel, x_dot), (x, kernel_dot, kernel_dot))
        if not isinstance(dot, ad.Zero)
    ]
    terms: list[list[Any]] = []
    if h_dots:
        # No bias: nothing but h moves. With "w", what is behind ends in y must not meet h's zeros.
        other = masked(stages, rest[0], limits) if stages.result == "w" else rest[0]
        terms.append(contract(replace(stages, bias=False), sum(h_dots[1:], h_dots[0]), other))
    if not all(isinstance(dot, ad.Zero) for dot in rest_dot):
        terms.append(_bind(stages, x, kernel, *map(ad.instantiate_zeros, rest_dot), *limits))
    return [_add(terms, i, value) for i, value in enumerate(out)]


def _differentiates_at_once(stages: Stages, tangents: Sequence[Any]) -> bool:
    """Tell whether the derivative is one primitive.

    What no lowering is named for is, where nobody asks for a part of the gradients alone: which
    lowering computes them is known when the program is lowered.
    """
    if stages.implementation is None:
        return not any(isinstance(dot, ad.Zero) for dot in tangents)
    return stages.limits == "whole" and "xkw" in LOWERINGS[stages.implementation].stages


def _add(terms: list[list[Any]], index: int, like: jax.Array) -> Any:
    """Add one of the results of several terms; a term may lack it."""
    present = [term[index] for term in terms if index < len(term)]
    return sum(present[1:], present[0]) if present else ad.Zero(jax.typeof(like).to_tangent_aval())


def _transpose(cotangents: Sequence[Any], *operands: Any, stages: Stages) -> list[Any]:
    """Carry cotangents back to what is linear: w and b, or y; x or k by the composition."""
    (x, kernel, *rest), limits = stages.part(operands)
    through_h = ad.is_undefined_primal(x) or ad.is_undefined_primal(kernel)
    if through_h or stages.result == "xkw":
        return transpose_defined(functools.partial(compose, stages), cotangents, operands)
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
    out = jax.vmap(functools.partial(compose, stages), in_axes=tuple(axes))(*operands)
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
    function: Callable[..., Any]
    if joint is not None:
        function = functools.partial(joint.separable, stages)
    elif named is not None and _is_for_whole_rows(named, stages, types):
        function = functools.partial(_between_masks, named, stages)
    elif stages.result == "xkw":
        function = functools.partial(_gradients, stages)
    else:
        # One more channel divides as badly as it can.
        divided = platform == "tpu" and not context.is_one_device
        function = functools.partial(compose, stages, platform=None if divided else platform)
    with lowering():
        return mlir.lower_fun(function)(ctx, *operands)


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
        (y,) = lowering.separable(whole(stages), rows, *rest)
        return [zero_tails(y, ends)]
    kernel, weights, y = rest
    dx, *others = lowering.separable(whole(stages), rows, kernel, weights, zero_tails(y, ends))
    return [transpose_whole_rows(dx, lengths, geometry), *others]


def _gradients(stages: Stages, *operands: jax.Array) -> list[jax.Array]:
    """Compute all gradients part by part; what nobody asks for XLA leaves out."""
    (x, kernel, weights, y), limits = stages.part(operands)
    h_type = jax.eval_shape(lambda x, k: hidden(stages, x, k, limits), x, kernel)
    through_w = functools.partial(contract, replace(stages, result="y", bias=False))
    (dh,) = jax.linear_transpose(lambda h: through_w(h, weights)[0], h_type)(
        masked(stages, y, limits).astype(stages.dtype)
    )
    (dx,) = jax.linear_transpose(lambda x: hidden(stages, x, kernel, limits), x)(dh)
    (dk,) = jax.linear_transpose(lambda k: hidden(stages, x, k, limits), kernel)(dh)
    of_w = replace(stages, result="w", dtype=weights.dtype)
    return [dx, dk, *_bind(of_w, x, kernel, y, *limits)]


register(separable_p, abstract=_abstract, batch=_batch, jvp=_jvp, transpose=_transpose)
register_lowering(separable_p, _lower)


def _tangent_transpose(cotangents: Sequence[Any], *operands: Any, stages: Stages) -> list[Any]:
    """Compute all gradients, and hand out those that are asked for."""
    (x, kernel, weights, *dots), limits = stages.part(operands)
    (y,) = map(ad.instantiate_zeros, cotangents)
    gradients = _bind(replace(stages, result="xkw"), x, kernel, weights, y, *limits)
    wanted = [
        reshard_to(gradient, dot.aval.sharding) if ad.is_undefined_primal(dot) else None
        for gradient, dot in zip(gradients, dots, strict=True)
    ]
    return [None, None, None, *wanted, *(None for _ in limits)]


def _tangent(stages: Stages, *operands: jax.Array) -> list[Any]:
    """Compute how y moves, from x, k, w, how each of them and the bias moves, and the limits."""
    (x, kernel, weights, *dots), limits = stages.part(operands)
    biases = [jnp.zeros_like(dots[3])] if stages.bias else []
    primals = (x, kernel, weights, *biases, *limits)
    (out,) = jax.eval_shape(functools.partial(compose, stages), *primals)
    return _moved(stages, primals, dots, [out])


register_defined(tangent_p, _tangent, _tangent_transpose)
