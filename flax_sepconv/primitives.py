"""How JAX gets to know a primitive whose lowerings must know the devices."""

import functools
from collections.abc import Callable
from typing import Any

from jax._src import dispatch  # JAX has no public name for what is asked of it below.
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

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
    primitive.def_impl(functools.partial(dispatch.apply_primitive, primitive))
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
