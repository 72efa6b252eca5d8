"""Both stages on ragged batches as one primitive, so that a lowering may stop at the ends.

By definition it is `separable` between masks. With result "y" it is the output, with "xkw" all
gradients, from x, k, w and the cotangent y: the transpose of the derivative of y, which is a
primitive of its own, so that what is kept for it is x itself and no masked copy. The last operand
is always the lengths: integers, of which nothing is a derivative.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir
from jax.typing import DTypeLike

from flax_sepconv import ragged
from flax_sepconv.depthwise import surroundings_of, vary_alike
from flax_sepconv.geometry import Geometry
from flax_sepconv.lowerings import native
from flax_sepconv.primitives import register, register_lowering
from flax_sepconv.separable import is_whole
from flax_sepconv.separable import separable as separable_of_rows
from flax_sepconv.sharding import reshard_to
from flax_sepconv.tails import zero_tails

sequences_p = Primitive("separable_conv1d_of_sequences")
sequences_p.multiple_results = True
tangent_p = Primitive("separable_tangent_of_sequences")
tangent_p.multiple_results = True


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
    # What is asked for by name and cannot stop at the ends stays what it is made of.
    (y,) = (_bind if implementation in (None, "native") else _compose)(
        *operands,
        lengths,
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
    x, kernel, weights, *others, lengths = operands

    def output(*primals: jax.Array) -> jax.Array:
        return _output(*primals, lengths=lengths, **params)

    if result == "y":
        return [output(x, kernel, weights, *others)]
    (y,) = others
    biases = [vary_alike(jnp.zeros(weights.shape[1], weights.dtype), y)[0]] if bias else []
    gradients = jax.vjp(output, x, kernel, weights, *biases)[1](y.astype(params["dtype"]))
    return list(gradients)


def _output(
    x: jax.Array,
    *weights: jax.Array,
    lengths: jax.Array,
    padding: str,
    geometry: Geometry,
    **params: Any,
) -> jax.Array:
    rows, geometry, ends = ragged.mask(x, lengths, geometry, padding)
    return zero_tails(separable_of_rows(rows, *weights, geometry=geometry, **params), ends)


def _tangent(*operands: jax.Array, bias: bool, **params: Any) -> list[jax.Array]:
    """Define how y moves with x, both kernels and, where there is one, the bias."""
    x, kernel, weights, *dots, lengths = operands
    primals = (x, kernel, weights, *(jnp.zeros_like(dot) for dot in dots[3:]))
    output = functools.partial(_output, lengths=lengths, **params)
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
    *moving, lengths = primals
    dots = tuple(map(ad.instantiate_zeros, tangents[:-1]))
    return jax.jvp(lambda *moving: define(*moving, lengths, **params), tuple(moving), dots)


def _transpose(cotangents: Sequence[Any], *operands: Any, **params: Any) -> list[Any]:
    """Carry cotangents back to the operands that are not known, by the definition."""
    unknown = [i for i, operand in enumerate(operands) if ad.is_undefined_primal(operand)]

    def linear(*values: jax.Array) -> list[jax.Array]:
        given = dict(zip(unknown, values, strict=True))
        return _compose(*(given.get(i, operand) for i, operand in enumerate(operands)), **params)

    known = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    transposed = jax.linear_transpose(linear, *(operands[i].aval for i in unknown))(known)
    gradients = dict(zip(unknown, transposed, strict=True))
    return [gradients.get(i) for i in range(len(operands))]


def _tangent_transpose(cotangents: Sequence[Any], *operands: Any, **params: Any) -> list[Any]:
    """Compute all gradients, and hand out those that are asked for."""
    x, kernel, weights, *dots, lengths = operands
    (y,) = map(ad.instantiate_zeros, cotangents)
    gradients = _bind(x, kernel, weights, y, lengths, result="xkw", **params)
    wanted = [
        reshard_to(gradient, dot.aval.sharding) if ad.is_undefined_primal(dot) else None
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
    is_native = (
        platform == "cpu"
        and native.ABSENCE is None
        and surroundings_of(ctx) is None
        and is_whole(ctx)
        and native.joins(params["result"], params["geometry"], avals)
    )
    function = native.ragged if is_native else _compose
    return mlir.lower_fun(functools.partial(function, **params))(ctx, *operands)


register(
    sequences_p,
    abstract=functools.partial(_abstract, _compose),
    batch=functools.partial(_batch, _compose),
    jvp=_jvp,
    transpose=_transpose,
)
register_lowering(sequences_p, _lower)
register(
    tangent_p,
    abstract=functools.partial(_abstract, _tangent),
    batch=functools.partial(_batch, _tangent),
    jvp=functools.partial(_jvp_by_definition, _tangent),
    transpose=_tangent_transpose,
)
mlir.register_lowering(tangent_p, mlir.lower_fun(_tangent))
