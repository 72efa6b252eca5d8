"""Both stages on ragged batches as one primitive, so that a lowering may go sequence by sequence.

By definition it is `separable` between masks. With result "y" it is the output, with "xkw" all
gradients, from x, k, w and the cotangent y: the transpose of the derivative of y, which is a
primitive of its own, so that what is kept for it is x itself and no masked copy. The last operand
is always the plan (`flax_sepconv.ragged.plan`): integers, of which nothing is a derivative.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax._src import dispatch  # JAX has no public name for what is asked of it below.
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import DTypeLike

from flax_sepconv import ragged
from flax_sepconv.depthwise import divided_like, surroundings_of, vary_alike
from flax_sepconv.geometry import Geometry
from flax_sepconv.lowerings import native
from flax_sepconv.separable import is_whole
from flax_sepconv.separable import separable as separable_of_rows
from flax_sepconv.tails import zero_tails

sequences_p = Primitive("separable_conv1d_of_sequences")
sequences_p.multiple_results = True
tangent_p = Primitive("separable_tangent_of_sequences")
tangent_p.multiple_results = True

# Sequences of fewer lanes (C*M) leave vectors half empty, which the whole batch would fill, and
# those of fewer elements are less work than the call of a kernel.
LEAST_LANES, LEAST_ELEMENTS = 16, 2048


def separable(
    x: jax.Array,
    kernel: jax.Array,
    weights: jax.Array,
    bias: jax.Array | None = None,
    *,
    lengths: jax.Array,
    padding: str,
    geometry: Geometry,
    implementation: str | None,
    precision: jax.lax.PrecisionLike,
    dtype: DTypeLike,
) -> jax.Array:
    """Filter, then contract, each sequence by itself; zeros behind: (B, L, C) -> (B, steps, F)."""
    operands = (x, kernel, weights) if bias is None else (x, kernel, weights, bias)
    # What is asked for by name and cannot go sequence by sequence stays what it is made of.
    (y,) = (_bind if implementation in (None, "native") else _compose)(
        *operands,
        ragged.plan(lengths, geometry, padding),
        result="y",
        bias=bias is not None,
        padding=padding,
        geometry=geometry,
        implementation=implementation,
        precision=precision,
        dtype=jnp.dtype(dtype),
    )
    return y


def _bind(*operands: jax.Array, **params: Any) -> list[jax.Array]:
    return sequences_p.bind(*vary_alike(*operands), **params)


def _compose(*operands: jax.Array, result: str, bias: bool, **params: Any) -> list[jax.Array]:
    """Define the results."""
    x, kernel, weights, *others, plan = operands

    def output(*primals: jax.Array) -> jax.Array:
        return _output(*primals, plan=plan, **params)

    if result == "y":
        return [output(x, kernel, weights, *others)]
    biases = [jnp.zeros(weights.shape[1], weights.dtype)] if bias else []
    (y,) = others
    gradients = jax.vjp(output, x, kernel, weights, *biases)[1](y.astype(params["dtype"]))
    return list(gradients)


def _output(
    x: jax.Array,
    *weights: jax.Array,
    plan: jax.Array,
    padding: str,
    geometry: Geometry,
    **params: Any,
) -> jax.Array:
    rows, geometry = ragged.mask(x, plan[0], geometry, padding)
    return zero_tails(separable_of_rows(rows, *weights, geometry=geometry, **params), plan[1])


def _tangent(*operands: jax.Array, bias: bool, **params: Any) -> list[jax.Array]:
    """Define how y moves with x, both kernels and, where there is one, the bias."""
    x, kernel, weights, *dots, plan = operands
    primals = (x, kernel, weights, *(jnp.zeros_like(dot) for dot in dots[3:]))
    output = functools.partial(_output, plan=plan, **params)
    return [jax.jvp(output, primals, tuple(dots))[1]]


def _abstract(define: Callable[..., Any], *operands: Any, **params: Any) -> list[Any]:
    return list(jax.make_jaxpr(functools.partial(define, **params))(*operands).out_avals)


def _jvp(
    primals: Sequence[jax.Array], tangents: Sequence[Any], **params: Any
) -> tuple[list[jax.Array], list[jax.Array]]:
    out = _bind(*primals, **params)
    if params["result"] == "xkw":
        return out, _jvp_by_definition(_compose, primals, tangents, **params)[1]
    dots = map(ad.instantiate_zeros, tangents[:-1])
    operands = vary_alike(*primals[:3], *dots, primals[-1])
    rest = {name: value for name, value in params.items() if name != "result"}
    return out, tangent_p.bind(*operands, **rest)


def _jvp_by_definition(
    define: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], **params: Any
) -> tuple[list[jax.Array], list[jax.Array]]:
    *moving, plan = primals
    dots = tuple(map(ad.instantiate_zeros, tangents[:-1]))
    return jax.jvp(lambda *moving: define(*moving, plan, **params), tuple(moving), dots)


def _transpose(cotangents: Sequence[Any], *operands: Any, **params: Any) -> list[Any]:
    """Carry cotangents back to the one operand that is not known, by the definition."""
    position = next(i for i, operand in enumerate(operands) if ad.is_undefined_primal(operand))

    def linear(unknown: jax.Array) -> list[jax.Array]:
        return _compose(*operands[:position], unknown, *operands[position + 1 :], **params)

    known = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    (gradient,) = jax.linear_transpose(linear, operands[position].aval)(known)
    return [gradient if i == position else None for i in range(len(operands))]


def _tangent_transpose(cotangents: Sequence[Any], *operands: Any, **params: Any) -> list[Any]:
    """Compute all gradients, and hand out those that are asked for."""
    x, kernel, weights, *dots, plan = operands
    (y,) = map(ad.instantiate_zeros, cotangents)
    gradients = _bind(x, kernel, weights, y, plan, result="xkw", **params)
    wanted = [
        divided_like(gradient, dot) if ad.is_undefined_primal(dot) else None
        for gradient, dot in zip(gradients, dots, strict=True)
    ]
    return [None, None, None, *wanted, None]


def _batch(
    define: Callable[..., Any],
    operands: Sequence[jax.Array],
    axes: Sequence[int | None],
    **params: Any,
) -> tuple[list[jax.Array], list[int]]:
    out = jax.vmap(functools.partial(define, **params), in_axes=tuple(axes))(*operands)
    return out, [0] * len(out)


def _lower(ctx: mlir.LoweringRuleContext, *operands: Any, platform: str, **params: Any) -> Any:
    """Lower to the native calls where there are any, else to the definition."""
    avals: Any = (*ctx.avals_in[:-1], *ctx.avals_out)
    lanes = math.prod(avals[1].shape[1:])
    by_sequence = (
        platform == "cpu"
        and native.ABSENCE is None
        and surroundings_of(ctx) is None
        and is_whole(ctx)
        and native.joins(params["result"], params["geometry"], avals)
        and lanes >= LEAST_LANES
        and lanes * params["geometry"].output_length >= LEAST_ELEMENTS
    )
    function = native.ragged if by_sequence else _compose
    return mlir.lower_fun(functools.partial(function, **params))(ctx, *operands)


for _primitive, _definition, _rules in (
    (sequences_p, _compose, (_jvp, _transpose)),
    (tangent_p, _tangent, (functools.partial(_jvp_by_definition, _tangent), _tangent_transpose)),
):
    _primitive.def_impl(functools.partial(dispatch.apply_primitive, _primitive))
    _primitive.def_abstract_eval(functools.partial(_abstract, _definition))
    ad.primitive_jvps[_primitive], ad.primitive_transposes[_primitive] = _rules
    batching.primitive_batchers[_primitive] = functools.partial(_batch, _definition)
    dispatch.prim_requires_devices_during_lowering.add(_primitive)
mlir.register_lowering(tangent_p, mlir.lower_fun(_tangent))
for _platform in ("cpu", "cuda", "rocm", "tpu"):
    mlir.register_lowering(
        sequences_p, functools.partial(_lower, platform=_platform), platform=_platform
    )
