"""How JAX gets to know a primitive. Of `jax._src`, all that the package uses is here."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax._src import checkify, dispatch
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla

Rule = Callable[..., Any]

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def register(
    primitive: Primitive,
    *,
    abstract: Rule,
    batch: Rule,
    jvp: Rule | None = None,
    transpose: Rule | None = None,
) -> None:
    """Register the rules of a primitive; of those of differentiation, the ones that are given."""
    primitive.def_impl(functools.partial(xla.apply_primitive, primitive))
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batch
    if jvp is not None:
        ad.primitive_jvps[primitive] = jvp
    if transpose is not None:
        ad.primitive_transposes[primitive] = transpose
    # A lowering that is partitioned by a rule of its own must know the devices.
    dispatch.prim_requires_devices_during_lowering.add(primitive)


def register_lowering(primitive: Primitive, lower: Rule) -> None:
    """Register a lowering that is told its `platform`, one of `PLATFORMS`."""
    for platform in PLATFORMS:
        by_platform = functools.partial(lower, platform=platform)
        mlir.register_lowering(primitive, by_platform, platform=platform)


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
