"""The kernels in C++ (`flax_sepconv/ops/native/`), called through XLA's FFI.

For CPUs. bfloat16 is summed in float32; float16 is computed as float32. Products and sums of the
accumulator's dtype are exact enough for any precision.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from flax_sepconv.ops import native
from flax_sepconv.ops.context import UNKNOWN, Context
from flax_sepconv.ops.contraction import Contraction, Stages, StagesResult
from flax_sepconv.ops.limits import Limit
from flax_sepconv.ops.lowerings.lowering import Lowering
from flax_sepconv.ops.native.cost import counted
from flax_sepconv.ops.partitioning import result_type, whole_type

# Operands' and result's; others are converted.
DTYPES = (
    ("float32", "float32"),
    ("float64", "float64"),
    ("bfloat16", "bfloat16"),
    ("bfloat16", "float32"),
)


class Native(Lowering):
    """Calls of the native library; what is behind the end of a sequence it neither reads nor masks.

    Both stages are computed block by block: the depthwise output stays in the caches.
    """

    limits: frozenset[Limit] = frozenset({"whole", "lengths", "segments"})
    stages: frozenset[StagesResult] = frozenset({"y", "w"})

    def declines(self, context: Context) -> str | None:
        """Say why it cannot run in a program, or None."""
        return native.declines(context)

    def contract(self, task: Contraction, a: Array, b: Array, *limits: Array) -> Array:
        """Call the library on operands of one dtype."""
        common, result = task.operand_dtype, task.dtype
        if (common.name, result.name) not in DTYPES:
            common = result = task.accumulator
        a, b = a.astype(common), b.astype(common)
        lanes = b.shape[2] if task.result == "k" else b.shape[1] * b.shape[2]
        products = a.shape[0] * task.geometry.output_length, task.geometry.kernel_size, lanes
        b = counted(b, task.context, products)
        out = result_type(task.name, (a, b), _shape_of_result(task, a, b), result)
        called: Array = native.call(task.name, out, task.geometry, task.limits, (a, b, *limits))
        return called.astype(task.dtype)

    def supports(self, stages: Stages, types: Sequence[Any]) -> bool:
        """Tell whether `separable` is for operands and results of these types."""
        dtypes = {each.dtype for each in types}
        return len(dtypes) == 1 and dtypes <= {jnp.dtype("float32"), jnp.dtype("float64")}

    def separable(self, stages: Stages, *operands: Array) -> list[Array]:
        """Compute the output, or the gradients of w and the bias, which is empty without one."""
        x, kernel, *rest = operands
        steps, filters = x.shape[0] * stages.geometry.output_length, rest[0].shape[-1]
        products = steps, kernel.shape[1] * kernel.shape[2], kernel.shape[0] + filters
        # Both stages are for programs that nobody divides.
        kernel = counted(kernel, UNKNOWN, products, steps * filters if stages.bias else 0)
        last = rest[-1:] if stages.limits != "whole" else []
        geometry, dtype = stages.geometry, stages.dtype
        if stages.result == "y":
            w, b = rest[:2] if stages.bias else (rest[0], jnp.zeros(0, dtype))
            out = whole_type(x, (x.shape[0], geometry.output_length, w.shape[1]), dtype)
            operands = x, kernel, w, b, *last
            return [native.call("separable_output", out, geometry, stages.limits, operands)]
        y, J = rest[0], kernel.shape[1] * kernel.shape[2]
        F = y.shape[-1]
        gradients = whole_type(x, (J, F), dtype), whole_type(x, (F if stages.bias else 0,), dtype)
        operands = x, kernel, y, *last
        w, b = native.call("pointwise_gradient", gradients, geometry, stages.limits, operands)
        return [w, b] if stages.bias else [w]


def _shape_of_result(task: Contraction, a: Array, b: Array) -> tuple[int, ...]:
    """Return the shape of the result for operands, or for a device's share of them."""
    geometry = task.geometry
    if task.result == "y":
        return a.shape[0], geometry.output_length, b.shape[1] * task.multiplier
    if task.result == "x":
        return a.shape[0], geometry.length, b.shape[1]
    return geometry.kernel_size, a.shape[2], task.multiplier
