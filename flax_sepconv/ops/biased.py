"""The depthwise stage with a bias and an activation, as one primitive.

So a lowering may add the bias in its sums, and make of these what the activation says before it
writes them. By definition the primitive is the depthwise stage, a sum and a function of each
number, and that is what it is lowered to where nothing is gained by computing them together. How
the result moves is the depthwise stage's own business, the bias' and the activation's: all
derivatives are made of these.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from flax_sepconv.ops.context import Context
from flax_sepconv.ops.contraction import Activation, Contraction
from flax_sepconv.ops.depthwise import depthwise, tangents_of
from flax_sepconv.ops.limits import has_known_padding, output_lengths
from flax_sepconv.ops.masking import zero_tails
from flax_sepconv.ops.primitives import fold, register, register_lowering, transpose_defined
from flax_sepconv.ops.selection import choose, lowering, traced
from flax_sepconv.ops.sharding import is_divided_by_xla, vary_alike

biased_p = Primitive("depthwise_conv1d_with_bias")
ACCELERATORS = ("cuda", "rocm", "tpu")
ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "silu": jax.nn.silu,
}


def biased(
    x: jax.Array,
    kernel: Any,
    bias: jax.Array,
    limits: Sequence[jax.Array],
    contraction: Contraction,
) -> jax.Array:
    """Filter, then add and activate: (B, L, C), (K, C, M), (C*M,) -> (B, output_length, C*M).

    Behind the ends of sequences the result is zero.
    """
    as_traced = traced(contraction.implementation, x, kernel) is not None
    if as_traced or is_divided_by_xla(x, kernel):
        return _defined(contraction, x, kernel, bias, *limits)
    return _bind(contraction, x, kernel, bias, *limits)


def _bind(contraction: Contraction, *operands: jax.Array) -> jax.Array:
    out: jax.Array = biased_p.bind(*vary_alike(*operands), contraction=contraction)
    return out


def _defined(
    contraction: Contraction,
    x: jax.Array,
    kernel: Any,
    bias: jax.Array,
    *limits: jax.Array,
    platform: str | None = None,
) -> jax.Array:
    """Compute it by the depthwise stage.

    Accelerators, where one is given, spare passes over memory in 16 bits: the bias is added to what
    the stage rounded, as Flax and Keras do.
    """
    dtype = contraction.dtype
    is_rounded = platform in ACCELERATORS and dtype.itemsize == 2
    sums = dtype if is_rounded else jnp.promote_types(dtype, contraction.accumulator)
    h = depthwise(x, kernel, limits, replace(_linear(contraction), dtype=sums))
    y = h + bias.astype(sums)
    if contraction.activation is not None:
        y = ACTIVATIONS[contraction.activation](y)
    return _masked(contraction, y.astype(dtype), limits)


def _masked(contraction: Contraction, y: jax.Array, limits: Sequence[jax.Array]) -> jax.Array:
    """Set what lies behind the ends of sequences to zero."""
    if contraction.limits != "lengths":
        return y
    return zero_tails(y, output_lengths(limits[0], contraction.geometry))


def _abstract(*operands: Any, contraction: Contraction) -> Any:
    return jax.make_jaxpr(functools.partial(_defined, contraction))(*operands).out_avals[0]


def _jvp(
    primals: Sequence[jax.Array], tangents: Sequence[Any], *, contraction: Contraction
) -> tuple[jax.Array, Any]:
    activation, linear = contraction.activation, _linear(contraction)
    # How relu moves its result tells; for the others the sums without an activation are kept.
    out = _bind(contraction if activation == "relu" else linear, *primals)
    dot = _tangent(linear, out, primals, tangents)
    return (out, dot) if activation is None else moved_end(activation, out, dot)


def moved_end(activation: Activation, out: jax.Array, dot: Any) -> tuple[jax.Array, jax.Array]:
    """Return an activated output and how it moves.

    Args:
        activation: of which "relu" is in `out` already.
        out: the output, or the sums that the activation is made of.
        dot: how the sums move.
    """
    dot = ad.instantiate_zeros(dot)
    if activation == "relu":
        return out, lax.select(out > 0, dot, jnp.zeros_like(dot))
    return jax.jvp(ACTIVATIONS[activation], (out,), (dot,))


def _linear(contraction: Contraction) -> Contraction:
    """Return the same without an activation."""
    return replace(contraction, activation=None)


def _tangent(
    contraction: Contraction,
    out: jax.Array,
    primals: Sequence[jax.Array],
    tangents: Sequence[Any],
) -> Any:
    """Tell how sums of the type and shape of `out` move."""
    x, kernel, _, *limits = primals
    terms = tangents_of(contraction, (x, kernel), tangents[:2], limits)
    if not isinstance(bias_dot := tangents[2], ad.Zero):
        # Its transpose sums over steps: not in 16 bits.
        wide = contraction.accumulator
        spread = jnp.zeros_like(out, dtype=wide) + bias_dot.astype(wide)
        terms.append(_masked(contraction, spread.astype(out.dtype), limits))
    if not terms:
        return ad.Zero(jax.typeof(out).to_tangent_aval())
    return sum(terms[1:], terms[0])


def _transpose(cotangent: Any, *operands: Any, contraction: Contraction) -> list[Any]:
    """Carry a cotangent back by the definition, to the one operand that is linear."""

    def define(*values: Any) -> list[jax.Array]:
        return [_defined(contraction, *values)]

    return transpose_defined(define, [cotangent], operands)


def _batch(
    operands: Sequence[jax.Array], axes: Sequence[int | None], *, contraction: Contraction
) -> tuple[jax.Array, int]:
    """Fold a mapped axis of rows and limits into the batch; else map the definition."""
    if axes[1] is not None or axes[2] is not None:
        define = functools.partial(_defined, contraction)
        return jax.vmap(define, in_axes=tuple(axes))(*operands), 0
    size = next(o.shape[a] for o, a in zip(operands, axes, strict=True) if a is not None)
    folded = list(operands)
    for i in (0, *range(3, len(operands))):
        folded[i] = fold(operands[i], axes[i], size)
    y = _bind(contraction, *folded)
    return y.reshape(size, y.shape[0] // size, *y.shape[1:]), 0


def _lower(
    ctx: mlir.LoweringRuleContext, *operands: Any, platform: str, contraction: Contraction
) -> Any:
    """Lower to a call that adds the bias where there is one, or to all."""
    context = Context.of(ctx, platform)
    in_context = replace(contraction, context=context)
    x, kernel, *_ = ctx.avals_in
    chosen = choose(in_context, (x, kernel))
    is_known = contraction.limits in chosen.limits and has_known_padding(contraction.geometry)
    function = functools.partial(_defined, contraction, platform=platform)
    if chosen.adds_bias and is_known and not context.is_partitioned:
        function = functools.partial(chosen.output_with_bias, in_context)
    with lowering():
        return mlir.lower_fun(function, multiple_results=False)(ctx, *operands)


register(biased_p, abstract=_abstract, batch=_batch, jvp=_jvp, transpose=_transpose)
register_lowering(biased_p, _lower)
