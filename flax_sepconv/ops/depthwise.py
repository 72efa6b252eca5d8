r"""The differentiable depthwise stage, as one trilinear form.

.. math:: T(x, k, y) = \sum_{b,l,i,c,m} x_{b,\,lS + iD - p,\,c} \; k_{i,c,m} \; y_{b,\,l,\,cM + m}

The sum is over the steps that rows have; where these are limited, over pairs of steps of one
sequence. Leaving one argument out gives the three contractions: the output (y left out), the
input gradient (x left out) and the kernel gradient (k left out). Each is bilinear, and its
derivatives and transposes are the other two, under the same limits: one JAX primitive, whose
parameter says which contraction it is, is closed under differentiation, in both modes and to any
order.

A lowering is chosen per contraction when a program is lowered, because only then is the platform
known: one traced (or exported) program may be lowered for several.
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
from flax_sepconv.ops.contraction import OPERANDS, Argument, Contraction
from flax_sepconv.ops.halo import Cotangents, cotangents_with_halo, rows_with_halo
from flax_sepconv.ops.limits import (
    has_known_padding,
    output_lengths,
    rows_geometry,
    transpose_whole_rows,
    whole_rows,
)
from flax_sepconv.ops.lowerings import LOWERINGS, Lowering
from flax_sepconv.ops.masking import zero_tails
from flax_sepconv.ops.partitioning import partitioned
from flax_sepconv.ops.primitives import fold, register, register_lowering
from flax_sepconv.ops.selection import choose, traced
from flax_sepconv.ops.sharding import Shards, is_divided_by_xla, reshard_to, vary_alike

# (contraction, its two operands, what limits them) -> result
Contract = Callable[..., jax.Array]

depthwise_p = Primitive("depthwise_conv1d")
# How the output moves with both operands at once; its rules are in `joint`.
tangent_p = Primitive("depthwise_tangent")
tangent_p.multiple_results = True


def depthwise(
    x: jax.Array,
    kernel: Any,
    limits: Sequence[jax.Array],
    contraction: Contraction,
) -> jax.Array:
    """Filter every channel on its own: (B, L, C), (K, C, M) -> (B, output_length, C*M).

    Low-precision operands are accumulated in float32, here and in every derivative.
    """
    lowering = traced(contraction.implementation, x, kernel)
    if lowering is None:
        return apply(contraction, x, kernel, *limits)
    if contraction.limits == "whole":
        return lowering.traced(contraction, x, kernel)
    return _between_masks(lowering.traced, contraction, x, kernel, *limits)


def _compute(lowering: Lowering, contraction: Contraction, *operands: jax.Array) -> jax.Array:
    """Compute a contraction; lengths that are not for the lowering are masked around it."""
    if contraction.limits in lowering.limits and has_known_padding(contraction.geometry):
        return lowering.contract(contraction, *operands)
    return _between_masks(lowering.contract, contraction, *operands)


def _between_masks(
    contract: Callable[[Contraction, jax.Array, jax.Array], jax.Array],
    contraction: Contraction,
    a: jax.Array,
    b: jax.Array,
    lengths: jax.Array,
) -> jax.Array:
    """Define a contraction of sequences that end by one of whole rows."""
    geometry = contraction.geometry
    ends = output_lengths(lengths, geometry)
    whole = replace(contraction, geometry=rows_geometry(geometry), limits="whole")
    if contraction.result == "y":
        return zero_tails(contract(whole, whole_rows(a, lengths, geometry), b), ends)
    if contraction.result == "x":
        return transpose_whole_rows(contract(whole, zero_tails(a, ends), b), lengths, geometry)
    return contract(whole, whole_rows(a, lengths, geometry), zero_tails(b, ends))


def apply(contraction: Contraction, a: jax.Array, b: jax.Array, *limits: jax.Array) -> jax.Array:
    """Bind the primitive to its two operands, and to what limits them."""
    a, b, *limits_alike = vary_alike(a, b, *limits)
    contraction = replace(contraction, operand_dtype=jnp.promote_types(a.dtype, b.dtype))
    out: jax.Array = depthwise_p.bind(a, b, *limits_alike, contraction=contraction)
    return out


def _apply_named(
    contraction: Contraction, operands: dict[Argument, jax.Array], limits: Sequence[jax.Array]
) -> jax.Array:
    """Put operands into their order, and bind."""
    first, second = OPERANDS[contraction.result]
    return apply(contraction, operands[first], operands[second], *limits)


def _abstract(a: Any, b: Any, *limits: Any, contraction: Contraction) -> Any:
    """Infer the result's type: limits do not enter it."""
    return _type_of_result(a, b, replace(contraction, limits="whole"))


@functools.lru_cache(maxsize=4096)
def _type_of_result(a: Any, b: Any, contraction: Contraction) -> Any:
    """Infer a type (shape, dtype, sharding, varying axes) from a one-tap stand-in.

    The number of taps does not enter any of these but the first axis of a kernel.
    """
    K = contraction.geometry.kernel_size
    one_tap = replace(contraction, geometry=replace(contraction.geometry, kernel_size=1))
    contract = functools.partial(LOWERINGS["shifted_sum"].contract, one_tap)

    def typed(a: jax.Array, b: jax.Array) -> jax.Array:
        if contraction.result == "k":
            return jnp.repeat(contract(a, b), K, 0)
        return contract(a, b[:1])

    return jax.make_jaxpr(typed)(a, b).out_avals[0]


def _jvp(
    primals: Sequence[jax.Array], tangents: Sequence[Any], *, contraction: Contraction
) -> tuple[jax.Array, Any]:
    a, b, *limits = primals
    out = apply(contraction, a, b, *limits)
    terms = tangents_of(contraction, (a, b), tangents[:2], limits)
    if not terms:
        return out, ad.Zero(jax.typeof(out).to_tangent_aval())
    return out, sum(terms[1:], terms[0])


def tangents_of(
    contraction: Contraction,
    operands: Sequence[jax.Array],
    tangents: Sequence[Any],
    limits: Sequence[jax.Array],
) -> list[jax.Array]:
    """Tell how the result moves with its two operands, term by term."""
    a, b = operands
    moves_both = not any(isinstance(dot, ad.Zero) for dot in tangents)
    if moves_both and contraction.result == "y" and is_divided_by_xla(a, b):
        moved = vary_alike(a, b, *tangents, *limits)
        return list(tangent_p.bind(*moved, contraction=contraction))
    pairs = ((tangents[0], b), (a, tangents[1]))
    return [
        apply(contraction, a_dot, b_dot, *limits)
        for (a_dot, b_dot), dot in zip(pairs, tangents, strict=True)
        if not isinstance(dot, ad.Zero)
    ]


def _transpose(
    cotangent: Any, *operands: Any, contraction: Contraction
) -> list[jax.Array | ad.Zero | None]:
    """Contract the cotangent with the operand that is known: the result is the other one."""
    a, b, *limits = operands
    position = 0 if ad.is_undefined_primal(a) else 1
    operand, unknown = (b, a) if position == 0 else (a, b)
    letters = OPERANDS[contraction.result]
    wanted, other = letters[position], letters[1 - position]
    gradients: list[jax.Array | ad.Zero | None] = [None] * len(operands)
    if isinstance(cotangent, ad.Zero):
        gradients[position] = ad.Zero(unknown.aval)
        return gradients
    transposed = replace(contraction, result=wanted, dtype=unknown.aval.dtype)
    named = {contraction.result: cotangent, other: operand}
    gradient = _apply_named(transposed, named, limits)
    gradients[position] = reshard_to(gradient, unknown.aval.sharding)
    return gradients


def _batch(
    operands: Sequence[jax.Array], axes: Sequence[int | None], *, contraction: Contraction
) -> tuple[jax.Array, int]:
    """Fold the mapped axis into the batch, or, where the kernel carries it, into the channels."""
    result = contraction.result
    named = dict(zip(OPERANDS[result], zip(operands[:2], axes[:2], strict=True), strict=True))
    limits, limit_axes = operands[2:], axes[2:]
    size = next(o.shape[a] for o, a in zip(operands, axes, strict=True) if a is not None)
    into_batch = result != "k" and named["k"][1] is None
    if not into_batch and any(axis is not None for axis in limit_axes):
        return _map(contraction, operands, axes), 0
    folded: dict[Argument, jax.Array] = {}
    for letter, (operand, axis) in named.items():
        if into_batch and letter == "k":
            folded[letter] = operand
        else:
            folded[letter] = fold(operand, axis, size, _fold_axis(letter, into_batch))
    if into_batch:
        limits = [fold(o, a, size) for o, a in zip(limits, limit_axes, strict=True)]
    axis = _fold_axis(result, into_batch)
    out = _apply_named(contraction, folded, limits)
    return out.reshape(
        *out.shape[:axis], size, out.shape[axis] // size, *out.shape[axis + 1 :]
    ), axis


def _map(
    contraction: Contraction, operands: Sequence[jax.Array], axes: Sequence[int | None]
) -> jax.Array:
    """Map a contraction over limits and kernels at once, which no axis can be folded for."""
    if contraction.limits == "lengths":
        between_masks = functools.partial(_between_masks, apply, contraction)
        return jax.vmap(between_masks, in_axes=tuple(axes))(*operands)
    if contraction.implementation is None:
        by_taps = functools.partial(LOWERINGS["shifted_sum"].contract, contraction)
        return jax.vmap(by_taps, in_axes=tuple(axes))(*operands)
    mapped = {
        i: jnp.moveaxis(operand, axis, 0)
        for i, (operand, axis) in enumerate(zip(operands, axes, strict=True))
        if axis is not None
    }

    def one(own: dict[int, jax.Array]) -> jax.Array:
        return apply(contraction, *(own.get(i, operand) for i, operand in enumerate(operands)))

    out: jax.Array = lax.map(one, mapped)
    return out


def _fold_axis(letter: Argument, into_batch: bool) -> int:
    """Return the axis that is folded into: the batch, or the channels of (B, L, C) or (K, C, M)."""
    return 0 if into_batch else 1 if letter == "k" else 2


def _lower(
    ctx: mlir.LoweringRuleContext, *operands: Any, platform: str, contraction: Contraction
) -> Any:
    """Lower the contraction by what is chosen now that the platform is known."""
    context = Context.of(ctx, platform)
    in_context = replace(contraction, context=context)
    lowering = choose(in_context, ctx.avals_in)
    function: Callable[..., Any] = functools.partial(_compute, lowering, in_context)
    if context.is_partitioned:
        local = functools.partial(_local, contraction, one_device(context))
        name, M, limits = contraction.name, contraction.multiplier, contraction.limits
        function = partitioned(name, local, M, limits, ctx.avals_in)
    return mlir.lower_fun(function, multiple_results=False)(ctx, *operands)


def one_device(context: Context) -> Contract:
    """Return a function that computes any contraction in a program that is one of the devices'.

    What XLA divides it has traced when it is divided, in threads where `jax.enable_x64` is not what
    it is here: primitives, which trace when they are lowered, cannot stand in for it.
    """

    def contract(contraction: Contraction, a: Any, b: Any, *limits: Any) -> jax.Array:
        dtype = jnp.promote_types(a.dtype, b.dtype)
        task = replace(contraction, operand_dtype=dtype, context=context.on_one_device())
        return _compute(choose(task, (a, b)), task, a, b, *limits)

    return contract


def _local(
    contraction: Contraction,
    contract: Contract,
    shards: Shards | None,
    a: jax.Array,
    b: jax.Array,
    *limits: jax.Array,
) -> jax.Array:
    """Compute a device's part of a contraction."""
    if shards is None:
        return contract(contraction, a, b, *limits)
    geometry, kind = contraction.geometry, contraction.limits
    if contraction.result == "y":
        rows = rows_with_halo(a, limits, kind, geometry, shards)
        of_rows = replace(contraction, geometry=rows.geometry, limits=rows.kind)
        return rows.own(contract(of_rows, rows.x, b, *rows.limits))
    y, M = b if contraction.result == "k" else a, contraction.multiplier
    met = cotangents_with_halo(y, limits, kind, geometry, shards, 1, M)
    if contraction.result == "k":
        return to_kernel(contraction, contract, met, a)
    return to_steps(contraction, contract, met, b, -(-geometry.length // shards.count))


def to_steps(
    contraction: Contraction, contract: Contract, met: Cotangents, kernel: jax.Array, steps: int
) -> jax.Array:
    """Carry cotangents back to the device's own steps."""
    of_rows = replace(contraction, geometry=met.geometry, limits=met.kind)
    rows = contract(of_rows, met.y, kernel, *met.limits)
    own = jax.ShapeDtypeStruct((rows.shape[0], steps, rows.shape[2]), rows.dtype)
    gradient: jax.Array = jax.linear_transpose(met.rows, own)(rows)[0]
    return gradient


def to_kernel(
    contraction: Contraction, contract: Contract, met: Cotangents, x: jax.Array
) -> jax.Array:
    """Carry cotangents back to the kernel, from the device's own steps."""
    of_rows = replace(contraction, geometry=met.geometry, limits=met.kind)
    return contract(of_rows, met.rows(x), met.y, *met.limits)


register(depthwise_p, abstract=_abstract, batch=_batch, jvp=_jvp, transpose=_transpose)
register_lowering(depthwise_p, _lower)
