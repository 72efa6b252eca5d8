"""The operation on integers as one primitive, so that a lowering may compute it in one call."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast, get_args

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import mlir

from flax_sepconv.ops import native
from flax_sepconv.ops.context import Context
from flax_sepconv.ops.exporting import Replaced, resolve_name
from flax_sepconv.ops.limits import has_known_padding
from flax_sepconv.ops.partitioning import whole_type
from flax_sepconv.ops.primitives import fold, register, register_lowering
from flax_sepconv.ops.quantized import definition
from flax_sepconv.ops.quantized.definition import Form, Task
from flax_sepconv.ops.quantized.scales import NO_DERIVATIVE
from flax_sepconv.ops.sharding import vary_alike

quantized_p = Primitive("quantized_conv1d")
FORMS: tuple[Form, ...] = get_args(Form)
NAMES = ("native", *FORMS)


def compute(task: Task, *operands: jax.Array) -> jax.Array:
    """Compute a result of operands as `definition` has them."""
    y: jax.Array = quantized_p.bind(*vary_alike(*operands), task=task)
    return y


def _defined(task: Task, form: Form, *operands: jax.Array) -> jax.Array:
    function = definition.separable if task.has_pointwise else definition.depthwise
    return function(task, form, *operands)


def _abstract(*operands: Any, task: Task) -> Any:
    function = functools.partial(_defined, task, "shifted_sum")
    return jax.make_jaxpr(function)(*operands).out_avals[0]


def _batch(
    operands: Sequence[jax.Array], axes: Sequence[int | None], *, task: Task
) -> tuple[jax.Array, int]:
    """Fold a mapped axis of x, and of multipliers, into the batch; else map the definition."""
    rows = (0, 4, 5) if task.has_pointwise else (0, 3)
    if any(axis is not None for i, axis in enumerate(axes) if i not in rows):
        form = task.implementation if task.implementation in FORMS else FORMS[0]
        function = functools.partial(_defined, task, form)
        return jax.vmap(function, in_axes=tuple(axes))(*operands), 0
    size = next(o.shape[a] for o, a in zip(operands, axes, strict=True) if a is not None)
    folded = list(operands)
    folded[0] = fold(operands[0], axes[0], size)
    examples = folded[0].shape[0] // size
    for i in rows[1:]:
        axis, own = axes[i], operands[i]
        if axis is not None or own.shape[0] > 1:
            # Each example of each mapped row has multipliers of its own.
            own = own[None] if axis is None else jnp.moveaxis(own, axis, 0)
            each = jnp.broadcast_to(own, (size, examples, own.shape[-1]))
            folded[i] = each.reshape(size * examples, own.shape[-1])
    y = compute(task, *folded)
    return y.reshape(size, examples, *y.shape[1:]), 0


def _jvp(*_: Any, **__: Any) -> NoReturn:
    raise TypeError(NO_DERIVATIVE)


def _lower(ctx: mlir.LoweringRuleContext, *operands: Any, platform: str, task: Task) -> Any:
    """Lower to the native call where there is one, and the program may contain it."""
    context = Context.of(ctx, platform)
    named, replaced = resolve_name(task.implementation, context)
    reason = _reason_against_native(task, context, named is not None)
    name = named or ("shifted_sum" if reason else "native")
    if named == "native" and reason:
        raise NotImplementedError(f"implementation='native' cannot run here: {reason}")
    if named == "grouped_conv" and platform in ("cuda", "rocm"):
        raise NotImplementedError(
            "implementation='grouped_conv' cannot run here: GPU libraries have no such convolution "
            "of integers"
        )
    if task.implementation is not None and replaced is not None:
        replaced.add(Replaced(task.implementation, platform, name))
    function: Callable[..., Any] = functools.partial(_native, task)
    if name != "native":
        function = functools.partial(_defined, task, cast(Form, name))
    return mlir.lower_fun(function, multiple_results=False)(ctx, *operands)


def _reason_against_native(task: Task, context: Context, is_named: bool) -> str | None:
    found = native.declines(context) if is_named else native.reason_to_avoid(context)
    if found is None and not context.is_one_device and context.surroundings is None:
        found = "XLA divides the program among devices, and cannot divide the call"
    if found is None and not has_known_padding(task.geometry):
        found = "its padding is not known"
    return found


def _native(task: Task, *operands: jax.Array) -> jax.Array:
    """Call the library."""
    x, features = operands[0], operands[2].shape[-1]
    shape = x.shape[0], task.geometry.output_length, features
    out = whole_type(x, shape, jnp.dtype(task.dtype))
    target = "quantized_separable" if task.has_pointwise else "quantized_depthwise"
    return native.quantized(target, out, task.geometry, operands)


register(quantized_p, abstract=_abstract, batch=_batch, jvp=_jvp, transpose=_jvp)
register_lowering(quantized_p, _lower)
