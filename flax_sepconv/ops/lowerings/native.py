"""The kernels in C++ (`flax_sepconv/ops/native/`), called through XLA's FFI.

For CPUs. 16-bit floats are summed in float32. Products and sums of the accumulator's dtype are
exact enough for any precision.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flax_sepconv.ops import native
from flax_sepconv.ops.context import UNKNOWN, Context
from flax_sepconv.ops.contraction import Activation, Contraction, Stages, StagesResult
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
    ("float16", "float16"),
    ("float16", "float32"),
)
# As `native/problem.h` numbers them.
ACTIVATIONS = (None, *get_args(Activation))
STAGES_DTYPES = {"float32", "float64", "bfloat16", "float16"}


class Native(Lowering):
    """Calls of the native library; what is behind the end of a sequence it neither reads nor masks.

    Both stages are computed block by block: the depthwise output stays in the caches.
    """

    limits: frozenset[Limit] = frozenset({"whole", "lengths", "segments"})
    stages: frozenset[StagesResult] = frozenset(get_args(StagesResult))
    adds_bias: bool = True
    activates: bool = True
    has_step: bool = True
    version: int = 3

    def declines(self, context: Context) -> str | None:
        """Say why it cannot run in a program, or None."""
        return native.declines(context)

    def output_with_bias(
        self, task: Contraction, x: Array, kernel: Array, bias: Array, *limits: Array
    ) -> Array:
        """Let sums start from the bias, and end with the activation."""
        if _is_left_to_xla(task.activation, task.accumulator):
            without = replace(task, activation=None)
            return jax.nn.silu(self.output_with_bias(without, x, kernel, bias, *limits))
        return self._call(task, f"{task.name}_with_bias", x, kernel, bias, *limits)

    def contract(self, task: Contraction, a: Array, b: Array, *limits: Array) -> Array:
        """Call the library on operands of one dtype."""
        return self._call(task, task.name, a, b, None, *limits)

    def _call(
        self, task: Contraction, target: str, a: Array, b: Array, bias: Array | None, *limits: Array
    ) -> Array:
        common, result = task.operand_dtype, task.dtype
        if (common.name, result.name) not in DTYPES:
            common = result = task.accumulator
        a, b = a.astype(common), b.astype(common)
        rest = limits if bias is None else (bias.astype(common), *limits)
        lanes = b.shape[2] if task.result == "k" else b.shape[1] * b.shape[2]
        products = a.shape[0] * task.geometry.output_length, task.geometry.kernel_size, lanes
        b = counted(b, task.context, products, 0 if bias is None else products[0] * lanes)
        out = result_type(task.name, (a, b), _shape_of_result(task, a, b), result)
        more = {} if bias is None else {"activation": _number(task.activation)}
        operands = a, b, *rest
        called: Array = native.call(target, out, task.geometry, task.limits, operands, **more)
        return called.astype(task.dtype)

    def supports(self, stages: Stages, types: Sequence[Any]) -> bool:
        """Tell whether `separable` is for operands and results of these types."""
        dtypes = {each.dtype.name for each in types}
        by_pieces = stages.limits == "segments" and "x" in stages.result
        return len(dtypes) == 1 and dtypes <= STAGES_DTYPES and not by_pieces

    def separable(self, stages: Stages, *operands: Array) -> list[Array]:
        """Compute the output, or the gradients that are wanted."""
        if _is_left_to_xla(stages.activation, stages.dtype):
            return [jax.nn.silu(y) for y in self.separable(stages.linear(), *operands)]
        (x, kernel, *rest), limits = stages.part(operands)
        rows = x.shape[0], stages.geometry.output_length
        K, J = kernel.shape[0], kernel.shape[1] * kernel.shape[2]
        geometry, dtype, filters = stages.geometry, stages.dtype, rest[-1].shape[-1]
        if stages.result == "y":
            w, b = rest if stages.bias else (rest[0], jnp.zeros(0, dtype))
            kernel = _counted(kernel, rows, J, K + filters, filters if stages.bias else 0)
            out = whole_type(x, (*rows, filters), dtype)
            operands = x, kernel, w, b, *limits
            end = _number(stages.activation)
            return [
                native.call(
                    "separable_output", out, geometry, stages.limits, operands, activation=end
                )
            ]
        wants_x, wants_k, wants_w = (name in stages.result for name in "xkw")
        # The weights are not looked at for their own gradients.
        w = rest[0] if len(rest) == 2 else jnp.zeros((0, filters), dtype)
        shapes = [
            shape if wanted else (0,)
            for shape, wanted in (
                (x.shape, wants_x),
                (kernel.shape, wants_k),
                ((J, filters), wants_w),
                ((filters,), wants_w and stages.bias),
            )
        ]
        taps = K * (wants_x + wants_k + wants_w)
        products = taps + filters * ((wants_x or wants_k) + wants_w)
        kernel = _counted(kernel, rows, J, products, filters if shapes[-1] != (0,) else 0)
        types = tuple(whole_type(x, shape, dtype) for shape in shapes)
        operands = x, kernel, w, rest[-1], *limits
        found = native.call("separable_gradients", types, geometry, stages.limits, operands)
        return [array for array, shape in zip(found, shapes, strict=True) if shape != (0,)]

    def step(self, stages: Stages, before: Array, x: Array, *weights: Array) -> list[Array]:
        """Compute a chunk's output and the steps behind it by one call."""
        if _is_left_to_xla(stages.activation, stages.dtype):
            y, after = self.step(stages.linear(), before, x, *weights)
            return [jax.nn.silu(y), after]
        kernel, w, *bias = weights
        rows, filters = (x.shape[0], x.shape[1]), w.shape[-1]
        K, J = kernel.shape[0], kernel.shape[1] * kernel.shape[2]
        kernel = _counted(kernel, rows, J, K + filters, filters if stages.bias else 0)
        out = tuple(
            whole_type(x, shape, stages.dtype) for shape in ((*rows, filters), before.shape)
        )
        (b,) = bias or (jnp.zeros(0, stages.dtype),)
        operands, end = (before, x, kernel, w, b), _number(stages.activation)
        y, after = native.step(out, stages.geometry.dilation, operands, end)
        return [y, after]


def _number(activation: Activation | None) -> np.int64:
    """Return an activation as the library knows it."""
    return np.int64(ACTIVATIONS.index(activation))


def _is_left_to_xla(activation: Activation | None, sums: jnp.dtype) -> bool:
    """Tell whether the library has no such activation of sums of a type."""
    return activation == "silu" and sums.itemsize > 4


def _counted(kernel: Array, rows: tuple[int, int], lanes: int, products: int, sums: int) -> Array:
    """Let a call count for so many products of a row and lane. It is for one device's program."""
    steps = rows[0] * rows[1]
    return counted(kernel, UNKNOWN, (steps, lanes, products), steps * sums)


def _shape_of_result(task: Contraction, a: Array, b: Array) -> tuple[int, ...]:
    """Return the shape of the result for operands, or for a device's share of them."""
    geometry = task.geometry
    if task.result == "y":
        return a.shape[0], geometry.output_length, b.shape[1] * task.multiplier
    if task.result == "x":
        return a.shape[0], geometry.length, b.shape[1]
    return geometry.kernel_size, a.shape[2], task.multiplier
