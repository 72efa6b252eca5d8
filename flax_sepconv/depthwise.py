r"""The differentiable depthwise stage, as one trilinear form.

.. math:: T(x, k, y) = \sum_{b,l,i,c,m} x_{b,\,lS + iD - p,\,c} \; k_{i,c,m} \; y_{b,\,l,\,cM + m}

Leaving one argument out gives the three contractions: the output (y left out), the input gradient
(x left out) and the kernel gradient (k left out). Each is bilinear, and its derivatives and
transposes are the other two: one JAX primitive with the parameter `result` is closed under
differentiation, in both modes and to any order.

A lowering is chosen per contraction when a program is lowered, because only then is the platform
known: one traced (or exported) program may be lowered for several.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir
from jax.sharding import AbstractMesh, AxisType
from jax.typing import DTypeLike

from flax_sepconv.exporting import Replaced, exchanged
from flax_sepconv.geometry import Geometry
from flax_sepconv.lowerings import LOWERINGS, grouped_conv, shifted_sum
from flax_sepconv.primitives import register, register_lowering
from flax_sepconv.selection import CONTRACTIONS, select
from flax_sepconv.sharding import reshard_to

Argument = Literal["x", "k", "y"]

OPERANDS: dict[Argument, tuple[Argument, Argument]] = {
    "y": ("x", "k"),
    "x": ("y", "k"),
    "k": ("x", "y"),
}


class Summation(NamedTuple):
    """How the convolution of the kernel gradient sums over examples and steps.

    Where XLA divides a program, and devices hold the same examples or steps, it sums what a
    convolution contracts as often as they do, for `jax.lax`'s own gradients too: on a (2, 2) mesh
    whose first axis divides the batch they are twice as large (jaxlib 0.10.2 and 0.12.0.1).

    Attributes:
        kind: "at once"; "by example", over whole steps in the convolution and over examples behind
            it; or "by tap", without a convolution.
        mesh: that divides the program, for "by example".
    """

    kind: Literal["at once", "by example", "by tap"]
    mesh: AbstractMesh | None = None


AT_ONCE, BY_TAP = Summation("at once"), Summation("by tap")

depthwise_p = Primitive("depthwise_conv1d")


def depthwise(
    x: jax.Array,
    kernel: jax.Array,
    geometry: Geometry,
    *,
    implementation: str | None,
    precision: lax.PrecisionLike,
    dtype: DTypeLike,
) -> jax.Array:
    """Filter every channel on its own: (B, L, C), (K, C, M) -> (B, output_length, C*M) of `dtype`.

    Low-precision operands are accumulated in float32, here and in every derivative.
    """
    return _bind(
        {"x": x, "k": kernel},
        result="y",
        geometry=geometry,
        implementation=implementation,
        precision=precision,
        dtype=jnp.dtype(dtype),
    )


def _bind(operands: dict[Argument, jax.Array], *, result: Argument, **params: Any) -> jax.Array:
    """Bind the primitive to its two operands."""
    first, second = OPERANDS[result]
    a, b = vary_alike(operands[first], operands[second])
    return depthwise_p.bind(a, b, result=result, **params)


def vary_alike(*operands: jax.Array) -> tuple[jax.Array, ...]:
    """Inside `shard_map`, mark operands as varying over the mesh axes that any of them varies over.

    The mark's transpose is the sum over devices that the gradient of a replicated kernel needs.
    """
    axes = [jax.typeof(operand).manual_axis_type.varying for operand in operands]
    everywhere = frozenset().union(*axes)
    return tuple(
        lax.pcast(operand, tuple(everywhere - own), to="varying") if everywhere - own else operand
        for operand, own in zip(operands, axes, strict=True)
    )


def contract(
    a: jax.Array,
    b: jax.Array,
    *,
    result: Argument,
    geometry: Geometry,
    implementation: str | None,
    precision: lax.PrecisionLike,
    dtype: DTypeLike,
    platform: str,
    surroundings: str | None,
    summation: Summation,
) -> jax.Array:
    """Compute one contraction with the named lowering, or the one selected for the platform."""
    operand_dtype = jnp.promote_types(a.dtype, b.dtype)
    contraction = CONTRACTIONS[result]
    name, replaced = exchanged(implementation, surroundings)
    if name is None:
        M = b.shape[2] // a.shape[2] if result == "k" else b.shape[2]
        name = select(platform, contraction, geometry, M, operand_dtype, surroundings).name
    else:
        check_named(name, platform, surroundings)
    if implementation is not None and replaced is not None:
        replaced.add(Replaced(implementation, platform, name))
    lowering = getattr(LOWERINGS[name], contraction)
    if name == "grouped_conv" and result == "k" and summation.kind != "at once":
        lowering = shifted_sum.kernel_gradient
        if summation.mesh is not None:
            lowering = functools.partial(grouped_conv.kernel_gradient_by_example, summation.mesh)
    accumulator = jnp.promote_types(operand_dtype, jnp.float32)
    return lowering(a, b, geometry, accumulator, dtype, precision, platform)


def check_named(name: str, platform: str, surroundings: str | None) -> None:
    """Raise NotImplementedError where a lowering that was asked for by name does not run."""
    if reason := LOWERINGS[name].declines(platform, surroundings):
        raise NotImplementedError(f"implementation={name!r} cannot run here: {reason}")


def _abstract(
    a: Any, b: Any, *, result: Argument, geometry: Geometry, dtype: DTypeLike, **_: Any
) -> Any:
    """Infer the result's type (shape, dtype, sharding, varying axes) from a one-tap stand-in.

    The number of taps does not enter any of these but the first axis of a kernel.
    """
    one_tap = replace(geometry, kernel_size=1)
    stand_in = getattr(shifted_sum, CONTRACTIONS[result])

    def typed(a: jax.Array, b: jax.Array) -> jax.Array:
        if result == "k":
            out = stand_in(a, b, one_tap, dtype, dtype, None, "cpu")
            return jnp.repeat(out, geometry.kernel_size, 0)
        return stand_in(a, b[:1], one_tap, dtype, dtype, None, "cpu")

    return jax.make_jaxpr(typed)(a, b).out_avals[0]


def _transpose(
    position: int, cotangent: Any, a: Any, b: Any, *, result: Argument, **params: Any
) -> jax.Array:
    """Contract the cotangent with the operand that is known: the result is the other one."""
    wanted = OPERANDS[result][position]
    other = OPERANDS[result][1 - position]
    operand, unknown = (b, a) if position == 0 else (a, b)
    params["dtype"] = unknown.aval.dtype
    gradient = _bind({result: cotangent, other: operand}, result=wanted, **params)
    return reshard_to(gradient, unknown.aval.sharding)


def _batch(
    operands: Sequence[jax.Array], axes: Sequence[int | None], *, result: Argument, **params: Any
) -> tuple[jax.Array, int]:
    """Fold the mapped axis into the batch, or, where the kernel carries it, into the channels."""
    named = dict(zip(OPERANDS[result], zip(operands, axes, strict=True), strict=True))
    size = next(o.shape[a] for o, a in named.values() if a is not None)
    into_batch = result != "k" and named["k"][1] is None
    folded: dict[Argument, jax.Array] = {}
    for letter, (operand, axis) in named.items():
        if into_batch and letter == "k":
            folded[letter] = operand
        else:
            folded[letter] = _fold(operand, axis, size, _fold_axis(letter, into_batch))
    axis = _fold_axis(result, into_batch)
    out = _bind(folded, result=result, **params)
    return out.reshape(
        *out.shape[:axis], size, out.shape[axis] // size, *out.shape[axis + 1 :]
    ), axis


def _fold_axis(letter: Argument, into_batch: bool) -> int:
    """Return the axis that is folded into: the batch, or the channels of (B, L, C) or (K, C, M)."""
    return 0 if into_batch else 1 if letter == "k" else 2


def _fold(operand: jax.Array, mapped: int | None, size: int, axis: int) -> jax.Array:
    """Merge the mapped axis (or, unmapped, copies) into the front of another one."""
    if mapped is None:
        moved = jnp.repeat(jnp.expand_dims(operand, axis), size, axis)
    else:
        moved = jnp.moveaxis(operand, mapped, axis)
    shape = moved.shape
    return moved.reshape(*shape[:axis], size * shape[axis + 1], *shape[axis + 2 :])


def surroundings_of(ctx: mlir.LoweringRuleContext) -> str | None:
    """Tell programs apart in which a call that XLA cannot look into is out of place."""
    module = ctx.module_context
    if module.lowering_parameters.for_export:
        return "exported"
    axes: Any = module.axis_context
    if hasattr(axes, "manual_axes"):
        return None if set(axes.manual_axes) == set(axes.mesh.axis_names) else "partly manual"
    if getattr(axes, "num_devices", 1) > 1 and axes.abstract_mesh is None:
        return "without mesh"
    return None


def _summation(ctx: mlir.LoweringRuleContext) -> Summation:
    """Tell how a convolution may contract over what devices share (see `Summation`).

    Which devices hold the same examples or steps is not known here. They do where a mesh axis, or
    a part of one (XLA divides axes too), divides nothing; not on a prime number of devices.
    """
    if surroundings_of(ctx) in ("exported", "partly manual"):
        return BY_TAP  # Who calls an exported program may divide it.
    axes: Any = ctx.module_context.axis_context
    count = 1 if hasattr(axes, "manual_axes") else getattr(axes, "num_devices", 1)
    if all(count % divisor for divisor in range(2, count)):
        return AT_ONCE
    mesh = axes.abstract_mesh
    is_uniform = mesh is not None and (mesh.are_all_axes_explicit or mesh.are_all_axes_auto)
    return Summation("by example", mesh) if is_uniform else BY_TAP


def _divided_by_types(ctx: mlir.LoweringRuleContext) -> bool:
    """Tell whether the program is for several devices and types tell who holds what."""
    operand: Any = ctx.avals_in[0]
    several = getattr(ctx.module_context.axis_context, "num_devices", 1) > 1
    return several and AxisType.Explicit in operand.sharding.mesh.axis_types


def _lower(ctx: mlir.LoweringRuleContext, *operands: Any, platform: str, **params: Any) -> Any:
    """Lower the contraction that is chosen now that the platform is known."""
    surroundings = surroundings_of(ctx)
    if surroundings is None and params["result"] == "k" and _divided_by_types(ctx):
        surroundings = "explicit mesh"
    chosen = functools.partial(
        contract,
        platform=platform,
        surroundings=surroundings,
        summation=_summation(ctx),
    )
    return mlir.lower_fun(chosen, multiple_results=False)(ctx, *operands, **params)


register(depthwise_p, abstract=_abstract, batch=_batch)
ad.defbilinear(depthwise_p, functools.partial(_transpose, 0), functools.partial(_transpose, 1))
register_lowering(depthwise_p, _lower)
