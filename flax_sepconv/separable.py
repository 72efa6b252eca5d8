"""Both stages as one primitive, so that a lowering may compute them together.

`separable_conv1d` with result "y" is pointwise(depthwise(x, k), w) + b. With result "w" it gives
the gradients of w and b, from x, k and the cotangent y: given x and k, each of the two is linear in
what remains, and the other one's transpose. With result "xkw" it gives all gradients, from x, k, w
and y: the transpose of `separable_tangent`, the derivative of y as a primitive of its own, which
takes the place of its parts for lowerings that compute all gradients together.

By definition they are compositions, and that is what they are lowered to where nothing is gained
by computing them together.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir
from jax.typing import DTypeLike

from flax_sepconv.composition import compose, contract, tangent
from flax_sepconv.depthwise import check_named, depthwise, surroundings_of, vary_alike
from flax_sepconv.exporting import exchanged
from flax_sepconv.geometry import Geometry
from flax_sepconv.lowerings import LOWERINGS
from flax_sepconv.primitives import register, register_lowering
from flax_sepconv.selection import select
from flax_sepconv.sharding import reshard_to

separable_p = Primitive("separable_conv1d")
separable_p.multiple_results = True
tangent_p = Primitive("separable_tangent")
tangent_p.multiple_results = True


def separable(
    x: jax.Array,
    kernel: jax.Array,
    weights: jax.Array,
    bias: jax.Array | None = None,
    *,
    geometry: Geometry,
    implementation: str | None,
    precision: lax.PrecisionLike,
    dtype: DTypeLike,
) -> jax.Array:
    """Filter, then contract: (B, L, C), (K, C, M), (C*M, F), (F,) -> (B, output_length, F)."""
    operands = (x, kernel, weights) if bias is None else (x, kernel, weights, bias)
    # What is asked for by name and has no way to compute both together stays two operations.
    together = implementation is None or _fused(implementation)
    (y,) = (_bind if together else compose)(
        *operands,
        result="y",
        bias=bias is not None,
        geometry=geometry,
        implementation=implementation,
        precision=precision,
        dtype=jnp.dtype(dtype),
    )
    return y


def _fused(implementation: str | None) -> dict[str, Any]:
    """Return the results that a lowering computes from both stages together, and how."""
    return getattr(LOWERINGS[implementation], "FUSED", {}) if implementation else {}


def _bind(*operands: jax.Array, **params: Any) -> list[jax.Array]:
    return separable_p.bind(*vary_alike(*operands), **params)


def _abstract(*operands: Any, **params: Any) -> list[Any]:
    return list(jax.make_jaxpr(functools.partial(compose, **params))(*operands).out_avals)


def _jvp(
    primals: Sequence[jax.Array], tangents: Sequence[Any], **params: Any
) -> tuple[list[jax.Array], list[Any]]:
    """Differentiate: through h by the composition, and in the rest, which is linear, by itself."""
    out = _bind(*primals, **params)
    if params["result"] == "xkw":
        dots = tuple(map(ad.instantiate_zeros, tangents))
        return out, jax.jvp(functools.partial(compose, **params), tuple(primals), dots)[1]
    if params["result"] == "y" and "xkw" in _fused(params["implementation"]):
        operands = vary_alike(*primals[:3], *map(ad.instantiate_zeros, tangents))
        return out, tangent_p.bind(*operands, **_without_result(params))
    x, kernel, *rest = primals
    x_dot, kernel_dot, *rest_dot = tangents
    h_dots = [
        depthwise(
            a,
            b,
            params["geometry"],
            implementation=params["implementation"],
            precision=params["precision"],
            dtype=jnp.result_type(x, kernel),
        )
        for a, b, dot in ((x_dot, kernel, x_dot), (x, kernel_dot, kernel_dot))
        if not isinstance(dot, ad.Zero)
    ]
    terms: list[list[Any]] = []
    if h_dots:
        # No bias: nothing but h moves.
        terms.append(
            contract(
                sum(h_dots[1:], h_dots[0]),
                rest[0],
                result=params["result"],
                bias=False,
                precision=params["precision"],
                dtype=params["dtype"],
            )
        )
    if not all(isinstance(dot, ad.Zero) for dot in rest_dot):
        terms.append(_bind(x, kernel, *map(ad.instantiate_zeros, rest_dot), **params))
    return out, [_add(terms, i, value) for i, value in enumerate(out)]


def _add(terms: list[list[Any]], index: int, like: jax.Array) -> Any:
    """Add one of the results of several terms; a term may lack it."""
    present = [term[index] for term in terms if index < len(term)]
    return sum(present[1:], present[0]) if present else ad.Zero(jax.typeof(like).to_tangent_aval())


def _transpose(cotangents: Sequence[Any], *operands: Any, **params: Any) -> list[Any]:
    """Carry cotangents back to what is linear: w and b, or y; x or k by the composition."""
    x, kernel, *rest = operands
    through_h = ad.is_undefined_primal(x) or ad.is_undefined_primal(kernel)
    if through_h or params["result"] == "xkw":
        return _transpose_through_h(cotangents, operands, params)
    unknown: Any = rest[0]
    known = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    params["result"] = "w" if params["result"] == "y" else "y"
    params["dtype"] = unknown.aval.dtype
    gradients = _bind(x, kernel, *known, **params)
    shardings = [operand.aval.sharding for operand in rest]
    return [None, None, *map(reshard_to, gradients, shardings)]


def _transpose_through_h(
    cotangents: Sequence[Any], operands: Sequence[Any], params: dict[str, Any]
) -> list[Any]:
    position = next(i for i, operand in enumerate(operands) if ad.is_undefined_primal(operand))

    def linear(unknown: jax.Array) -> list[jax.Array]:
        full = [unknown if i == position else operand for i, operand in enumerate(operands)]
        return compose(*full, **params)

    known = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    unknown: Any = operands[position].aval
    (gradient,) = jax.linear_transpose(linear, unknown)(known)
    return [gradient if i == position else None for i in range(len(operands))]


def _batch(
    operands: Sequence[jax.Array], axes: Sequence[int | None], **params: Any
) -> tuple[list[jax.Array], list[int]]:
    """Fold a mapped axis of x alone into the batch; map the composition over anything else."""
    if params["result"] == "y" and axes[0] is not None and not any(a is not None for a in axes[1:]):
        x = jnp.moveaxis(operands[0], axes[0], 0)
        (y,) = _bind(x.reshape(-1, *x.shape[2:]), *operands[1:], **params)
        return [y.reshape(*x.shape[:2], *y.shape[1:])], [0]
    out = jax.vmap(functools.partial(compose, **params), in_axes=tuple(axes))(*operands)
    return out, [0] * len(out)


def _without_result(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name != "result"}


def _tangent_abstract(*operands: Any, **params: Any) -> list[Any]:
    return list(jax.make_jaxpr(functools.partial(tangent, **params))(*operands).out_avals)


def _tangent_jvp(
    primals: Sequence[jax.Array], tangents: Sequence[Any], **params: Any
) -> tuple[list[jax.Array], list[jax.Array]]:
    dots = tuple(map(ad.instantiate_zeros, tangents))
    return jax.jvp(functools.partial(tangent, **params), tuple(primals), dots)


def _tangent_transpose(
    cotangents: Sequence[Any], x: Any, kernel: Any, weights: Any, *dots: Any, **params: Any
) -> list[Any]:
    """Compute all gradients, and hand out those that are asked for."""
    (y,) = map(ad.instantiate_zeros, cotangents)
    gradients = _bind(x, kernel, weights, y, result="xkw", **params)
    wanted = [
        reshard_to(gradient, dot.aval.sharding) if ad.is_undefined_primal(dot) else None
        for gradient, dot in zip(gradients, dots, strict=True)
    ]
    return [None, None, None, *wanted]


def _tangent_batch(
    operands: Sequence[jax.Array], axes: Sequence[int | None], **params: Any
) -> tuple[list[jax.Array], list[int]]:
    out = jax.vmap(functools.partial(tangent, **params), in_axes=tuple(axes))(*operands)
    return out, [0] * len(out)


def _lower(ctx: mlir.LoweringRuleContext, *operands: Any, platform: str, **params: Any) -> Any:
    """Lower to a call that computes both stages together where there is one, or to both."""
    avals: Any = (*ctx.avals_in, *ctx.avals_out)
    surroundings = surroundings_of(ctx)
    named, _ = exchanged(params["implementation"], surroundings)
    result, geometry = params["result"], params["geometry"]
    M = avals[1].shape[2]
    name = named or select(platform, "output", geometry, M, avals[0].dtype, surroundings).name
    if named:
        check_named(named, platform, surroundings)
    lowering: Any = LOWERINGS[name]
    if (
        result in _fused(name)
        and surroundings is None
        and is_whole(ctx)
        and lowering.joins(result, geometry, avals)
    ):
        function = _fused(name)[result]
    else:
        # One more channel divides as badly as it can.
        divided = platform == "tpu" and not is_whole(ctx)
        function = functools.partial(compose, platform=None if divided else platform)
    return mlir.lower_fun(functools.partial(function, **params))(ctx, *operands)


def is_whole(ctx: mlir.LoweringRuleContext) -> bool:
    """Tell whether every device runs the program on what it holds, with nothing left to divide."""
    axes: Any = ctx.module_context.axis_context
    return hasattr(axes, "manual_axes") or getattr(axes, "num_devices", 1) == 1


register(separable_p, abstract=_abstract, batch=_batch, jvp=_jvp, transpose=_transpose)
register_lowering(separable_p, _lower)
register(
    tangent_p,
    abstract=_tangent_abstract,
    batch=_tangent_batch,
    jvp=_tangent_jvp,
    transpose=_tangent_transpose,
)
mlir.register_lowering(tangent_p, mlir.lower_fun(tangent))
