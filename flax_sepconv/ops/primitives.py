"""How JAX gets to know a primitive, and XLA a native handler.

Of JAX's private names, all that the package uses is here; `tests/ops/test_private_names.py` says
which release took one away.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jax._src import checkify, dispatch
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla
from jaxlib import xla_client

Rule = Callable[..., Any]
Call = TypeVar("Call", bound=Rule)

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def register(
    primitive: Primitive, *, abstract: Rule, batch: Rule, jvp: Rule, transpose: Rule
) -> None:
    """Register the rules of a primitive, but for its lowerings."""
    primitive.def_impl(functools.partial(xla.apply_primitive, primitive))
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batch
    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    # `checkify.nan_checks` looks at the results, as it does at those of `lax` convolutions.
    checkify.error_checks[primitive] = functools.partial(checkify.nan_error_check, primitive)
    # A lowering that is partitioned by a rule of its own must know the devices.
    dispatch.prim_requires_devices_during_lowering.add(primitive)


def register_defined(primitive: Primitive, define: Rule, transpose: Rule) -> None:
    """Register the rules of a primitive with several results that is what a function computes.

    Args:
        primitive: with one parameter.
        define: (the parameter, *operands) -> list of results, by other operations.
        transpose: its rule.
    """

    def defined(parameters: dict[str, Any]) -> Rule:
        return functools.partial(define, *parameters.values())

    def abstract(*operands: Any, **parameters: Any) -> list[Any]:
        return list(jax.make_jaxpr(defined(parameters))(*operands).out_avals)

    def batch(operands: Sequence[Any], axes: Sequence[int | None], **parameters: Any) -> Any:
        out = jax.vmap(defined(parameters), in_axes=tuple(axes))(*operands)
        return out, [0] * len(out)

    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **parameters: Any) -> Any:
        dots = tuple(map(ad.instantiate_zeros, tangents))
        return jax.jvp(defined(parameters), tuple(primals), dots)

    def lower(ctx: mlir.LoweringRuleContext, *operands: Any, **parameters: Any) -> Any:
        return mlir.lower_fun(defined(parameters))(ctx, *operands)

    register(primitive, abstract=abstract, batch=batch, jvp=jvp, transpose=transpose)
    mlir.register_lowering(primitive, lower)


def transpose_defined(
    define: Rule, cotangents: Sequence[Any], operands: Sequence[Any]
) -> list[Any]:
    """Carry cotangents of what a function computes back to the one operand that is linear."""
    position = next(i for i, operand in enumerate(operands) if ad.is_undefined_primal(operand))

    def linear(unknown: jax.Array) -> Any:
        return define(*(unknown if i == position else o for i, o in enumerate(operands)))

    known = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    (gradient,) = jax.linear_transpose(linear, operands[position].aval)(known)
    return [gradient if i == position else None for i in range(len(operands))]


def register_lowering(primitive: Primitive, lower: Rule) -> None:
    """Register a lowering that is told its `platform`, one of `PLATFORMS`."""
    for platform in PLATFORMS:
        by_platform = functools.partial(lower, platform=platform)
        mlir.register_lowering(primitive, by_platform, platform=platform)


def fold(operand: jax.Array, mapped: int | None, size: int, axis: int = 0) -> jax.Array:
    """Merge the mapped axis (or, unmapped, copies) into the front of another one."""
    if mapped is None:
        moved = jnp.repeat(jnp.expand_dims(operand, axis), size, axis)
    else:
        moved = jnp.moveaxis(operand, mapped, axis)
    shape = moved.shape
    return moved.reshape(*shape[:axis], size * shape[axis + 1], *shape[axis + 2 :])


def compiled(*static: str) -> Callable[[Call], Call]:
    """Let a function be one program where it is called on arrays outside of any.

    Its constants are part of the program then. Operation by operation each would be a transfer to
    the device, which `jax.transfer_guard("disallow")` refuses.

    Args:
        static: the names of its arguments that are no arrays.
    """

    def decorate(function: Call) -> Call:
        program = jax.jit(function, static_argnames=static)

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            leaves = jax.tree.leaves((arguments, named))
            is_traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
            is_eager = any(isinstance(leaf, jax.Array) for leaf in leaves) and not is_traced
            return (program if is_eager else function)(*arguments, **named)

        return cast(Call, call)

    return decorate


def register_identity(primitive: Primitive) -> None:
    """Register all rules of a primitive that is the identity of its one operand."""
    primitive.def_impl(functools.partial(xla.apply_primitive, primitive))
    primitive.def_abstract_eval(lambda operand, **_: operand)
    ad.primitive_jvps[primitive] = lambda primals, tangents, **params: (
        primitive.bind(*primals, **params),
        tangents[0],
    )
    batching.primitive_batchers[primitive] = lambda operands, axes, **params: (
        primitive.bind(*operands, **params),
        axes[0],
    )
    mlir.register_lowering(primitive, lambda context, operand, **_: [operand])


def register_check(primitive: Primitive, failure: Rule) -> None:
    """Let `checkify` look at the one operand of a primitive that is the identity.

    Args:
        primitive: the identity.
        failure: (operand, **params) -> whether it is wrong, a message with the names of values in
            braces, and the values by name.
    """
    let_fail: Any = checkify.assert_func

    def check(*arguments: Any, **params: Any) -> tuple[Any, jax.Array]:
        # JAX 0.11.2 put a context before the error.
        *context, error, enabled, operand = arguments
        if checkify.FailedCheckError in enabled:
            wrong, message, values = failure(operand, **params)
            told = checkify.FailedCheckError(checkify.get_traceback(), message, **values)
            error = let_fail(*context, error, wrong, told)
        return error, operand

    checkify.error_checks[primitive] = check


def refusal(handlers: Sequence[Any]) -> str | None:
    """Let XLA judge native handlers at once, under names that nothing calls.

    How old a library it still takes no header tells. JAX's public function would ask when the
    platform starts, which is too late.

    Returns:
        None, or what XLA has against them.
    """
    judge = getattr(getattr(xla_client, "_xla", None), "register_custom_call_target", None)
    if judge is None:
        return None
    traits = xla_client.CustomCallTargetTraits.DEFAULT
    for number, handler in enumerate(handlers):
        try:
            judge(f"flax_sepconv_trial_{number}", handler, "cpu", 1, traits)
        except (RuntimeError, TypeError) as error:
            return str(error)
    return None
