"""Both stages as one primitive, so that a lowering may compute them together.

`separable_conv1d` with result "y" is pointwise(depthwise(x, k), w) + b; with result "w" it gives
the gradients of w and b, from x, k and the cotangent y. Given x and k, each is linear in what
remains, and the other one's transpose. h = depthwise(x, k) is no residual: where it is needed again
it is computed again (or, where XLA sees both, once for both).

By definition they are compositions, and that is what they are lowered to where nothing is gained
by computing them together.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax._src import dispatch  # JAX has no public name for what is asked of it below.
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from flax_sepconv.depthwise import depthwise, divided_like, surroundings_of, vary_alike
from flax_sepconv.geometry import Geometry
from flax_sepconv.lowerings import native
from flax_sepconv.selection import select

Result = Literal["y", "w"]

separable_p = Primitive("separable_conv1d")
separable_p.multiple_results = True


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
    together = implementation in (None, "native")
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


def compose(
    x: jax.Array,
    kernel: jax.Array,
    *rest: jax.Array,
    result: Result,
    bias: bool,
    geometry: Geometry,
    implementation: str | None,
    precision: lax.PrecisionLike,
    dtype: DTypeLike,
    bias_with_weights: bool = False,
) -> list[jax.Array]:
    """Compute both stages one after the other: the definition.

    `bias_with_weights` asks for the gradients of both in one pass over the cotangent.
    """
    h = depthwise(
        x,
        kernel,
        geometry,
        implementation=implementation,
        precision=precision,
        dtype=jnp.result_type(x, kernel),
    )
    if result == "w" and bias and bias_with_weights and h.dtype.itemsize == 2:
        return _gradients_in_one(h, rest[0], precision, dtype)
    return _contract(h, *rest, result=result, bias=bias, precision=precision, dtype=dtype)


def _gradients_in_one(
    h: jax.Array, y: jax.Array, precision: lax.PrecisionLike, dtype: DTypeLike
) -> list[jax.Array]:
    """Take the bias for the weights of one more channel of h, whose steps are all one.

    For 16-bit operands, which a dot multiplies without rounding: the sums are those of `_contract`.
    """
    with_ones = lax.pad(h, jnp.ones((), h.dtype), [(0, 0, 0), (0, 0, 0), (0, 1, 0)])
    (both,) = _contract(with_ones, y, result="w", bias=False, precision=precision, dtype=dtype)
    return [both[:-1], both[-1]]


def _contract(
    h: jax.Array,
    *rest: jax.Array,
    result: Result,
    bias: bool,
    precision: lax.PrecisionLike,
    dtype: DTypeLike,
) -> list[jax.Array]:
    """Contract h with the weights over channels, or with the cotangent over batch and steps."""
    accumulator = jnp.promote_types(jnp.result_type(h, rest[0]), jnp.float32)
    axes = ((2,), (0,)) if result == "y" else ((0, 1), (0, 1))
    own, other = jax.typeof(h).sharding, jax.typeof(rest[0]).sharding
    # Where types tell how arrays are divided, a sum over what is divided must say what it becomes.
    explicit = result == "w" and own.mesh.are_all_axes_explicit
    contracted = lax.dot_general(
        h,
        rest[0],
        (axes, ((), ())),
        precision=precision,
        preferred_element_type=accumulator,
        out_sharding=PartitionSpec(own.spec[2], other.spec[2]) if explicit else None,
    )
    if result == "y":
        shifted = contracted + rest[1].astype(accumulator) if len(rest) > 1 else contracted
        return [shifted.astype(dtype)]
    gradients = [contracted.astype(dtype)]
    if bias:
        gradients.append(rest[0].astype(accumulator).sum((0, 1)).astype(dtype))
    return gradients


def _bind(*operands: jax.Array, **params: Any) -> list[jax.Array]:
    return separable_p.bind(*vary_alike(*operands), **params)


def _abstract(*operands: Any, **params: Any) -> list[Any]:
    return list(jax.make_jaxpr(functools.partial(compose, **params))(*operands).out_avals)


def _jvp(
    primals: Sequence[jax.Array], tangents: Sequence[Any], **params: Any
) -> tuple[list[jax.Array], list[Any]]:
    """Differentiate: through h by the composition, and in the rest, which is linear, by itself."""
    out = _bind(*primals, **params)
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
            _contract(
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
    if ad.is_undefined_primal(x) or ad.is_undefined_primal(kernel):
        return _transpose_through_h(cotangents, operands, params)
    unknown: Any = rest[0]
    known = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    params["result"] = "w" if params["result"] == "y" else "y"
    params["dtype"] = unknown.aval.dtype
    gradients = _bind(x, kernel, *known, **params)
    return [None, None, *map(divided_like, gradients, rest)]


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


def _lower(ctx: mlir.LoweringRuleContext, *operands: Any, platform: str, **params: Any) -> Any:
    """Lower to a call that computes both stages together where there is one, or to both."""
    avals: Any = (*ctx.avals_in, *ctx.avals_out)
    dtypes = {aval.dtype for aval in avals}
    K, L = params["geometry"].kernel_size, params["geometry"].length
    selected = select(platform, "output", K, L, avals[0].dtype).name
    together = (
        (params["implementation"] or selected) == "native"
        and surroundings_of(ctx) is None
        and native.declines(platform, None) is None
        and native.joins(dtypes)
        and _is_whole(ctx)
    )
    if together:
        function = native.separable
    else:
        in_one = platform == "tpu" and _is_whole(ctx)
        function = functools.partial(compose, bias_with_weights=in_one)
    return mlir.lower_fun(functools.partial(function, **params))(ctx, *operands)


def _is_whole(ctx: mlir.LoweringRuleContext) -> bool:
    """Tell whether every device runs the program on what it holds, with nothing left to divide."""
    axes: Any = ctx.module_context.axis_context
    return hasattr(axes, "manual_axes") or getattr(axes, "num_devices", 1) == 1


separable_p.def_impl(functools.partial(dispatch.apply_primitive, separable_p))
separable_p.def_abstract_eval(_abstract)
ad.primitive_jvps[separable_p] = _jvp
ad.primitive_transposes[separable_p] = _transpose
batching.primitive_batchers[separable_p] = _batch
dispatch.prim_requires_devices_during_lowering.add(separable_p)
for _platform in ("cpu", "cuda", "rocm", "tpu"):
    mlir.register_lowering(
        separable_p, functools.partial(_lower, platform=_platform), platform=_platform
    )
