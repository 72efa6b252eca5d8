"""Both gradients of the depthwise stage as one primitive, for programs that XLA divides.

Each needs the cotangents of neighbouring steps. Where steps are divided among devices, these are
exchanged once for both; else the primitives are the compositions that they are by definition.

`depthwise_tangent` says how the output moves with x and the kernel; its transpose is
`depthwise_gradients`.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from flax_sepconv.ops.context import Context
from flax_sepconv.ops.contraction import Contraction
from flax_sepconv.ops.depthwise import (
    Contract,
    apply,
    one_device,
    tangent_p,
    to_kernel,
    to_steps,
)
from flax_sepconv.ops.halo import cotangents_with_halo
from flax_sepconv.ops.partitioning import partitioned
from flax_sepconv.ops.primitives import register_defined, register_lowering, transpose_defined
from flax_sepconv.ops.sharding import Shards, reshard_to

gradients_p = Primitive("depthwise_gradients")
gradients_p.multiple_results = True


def tangent(contraction: Contraction, *operands: jax.Array) -> list[jax.Array]:
    """Compute how the output moves with x and the kernel.

    Args:
        contraction: of the output.
        operands: x, k, how each of them moves, and what limits the rows.
    """
    x, kernel, x_dot, kernel_dot, *limits = operands
    by_x = apply(contraction, x_dot, kernel, *limits)
    return [by_x + apply(contraction, x, kernel_dot, *limits)]


def gradients(
    contraction: Contraction, *operands: jax.Array, contract: Contract = apply
) -> list[jax.Array]:
    """Carry a cotangent of the output back to x and the kernel.

    Args:
        contraction: of the output.
        operands: x, k, the cotangent, and what limits the rows.
        contract: computes any contraction.
    """
    x, kernel, y, *limits = operands
    to_x, to_k = _parts(contraction, x, kernel)
    return [contract(to_x, y, kernel, *limits), contract(to_k, x, y, *limits)]


def _parts(
    contraction: Contraction, x: jax.Array, kernel: jax.Array
) -> tuple[Contraction, Contraction]:
    """Return what is to be computed for the gradients of x and the kernel."""
    to_x = replace(contraction, result="x", dtype=x.dtype)
    return to_x, replace(contraction, result="k", dtype=kernel.dtype)


def _transpose_tangent(
    cotangents: Sequence[Any], *operands: Any, contraction: Contraction
) -> list[jax.Array | None]:
    """Compute both gradients, or the one that is asked for."""
    x, kernel, *dots = operands
    limits = dots[2:]
    (y,) = map(ad.instantiate_zeros, cotangents)
    asked = [ad.is_undefined_primal(dot) for dot in dots[:2]]
    to_x, to_k = _parts(contraction, x, kernel)
    if all(asked):
        found = gradients_p.bind(x, kernel, y, *limits, contraction=contraction)
    elif asked[0]:
        found = [apply(to_x, y, kernel, *limits), None]
    else:
        found = [None, apply(to_k, x, y, *limits)]
    back = [
        reshard_to(gradient, dot.aval.sharding) if is_asked else None
        for gradient, dot, is_asked in zip(found, dots[:2], asked, strict=True)
    ]
    return [None, None, *back, *(None for _ in limits)]


def _transpose_gradients(
    cotangents: Sequence[Any], *operands: Any, contraction: Contraction
) -> list[jax.Array | None]:
    """Carry cotangents back to the one operand that is linear, by the definition."""
    return transpose_defined(functools.partial(gradients, contraction), cotangents, operands)


def _lower_gradients(
    ctx: mlir.LoweringRuleContext, *operands: Any, platform: str, contraction: Contraction
) -> Any:
    function: Callable[..., Any] = functools.partial(gradients, contraction)
    context = Context.of(ctx, platform)
    if context.is_partitioned:
        local = functools.partial(_local, contraction, one_device(context))
        M, limits = contraction.multiplier, contraction.limits
        function = partitioned("gradients", local, M, limits, ctx.avals_in)
    return mlir.lower_fun(function)(ctx, *operands)


def _local(
    contraction: Contraction, contract: Contract, shards: Shards | None, *operands: jax.Array
) -> tuple[jax.Array, ...]:
    """Compute a device's part of both gradients."""
    if shards is None:
        return tuple(gradients(contraction, *operands, contract=contract))
    x, kernel, y, *limits = operands
    to_x, to_k = _parts(contraction, x, kernel)
    geometry, kind, M = contraction.geometry, contraction.limits, contraction.multiplier
    met = cotangents_with_halo(y, tuple(limits), kind, geometry, shards, 2, M)
    steps = to_steps(to_x, contract, met, kernel, x.shape[1])
    return steps, to_kernel(to_k, contract, met, x)


register_defined(tangent_p, tangent, _transpose_tangent)
register_defined(gradients_p, gradients, _transpose_gradients)
register_lowering(gradients_p, _lower_gradients)  # where a platform is known
