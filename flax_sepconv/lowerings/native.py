"""The depthwise stage in C++ (`flax_sepconv/native/`), called through XLA's FFI.

For CPUs. Channels lie in vectors, products are summed in registers, and the work is shared by XLA's
own threads, cut by shape alone: the same operands give the same bits for any number of threads.
bfloat16 is summed in float32; float16 is computed as float32.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from flax_sepconv.geometry import Geometry
from flax_sepconv.native import library
from flax_sepconv.partitioning import partitioned, result_type, whole_type

# Operands' and result's; others are converted.
DTYPES = (
    ("float32", "float32"),
    ("float64", "float64"),
    ("bfloat16", "bfloat16"),
    ("bfloat16", "float32"),
)

# Programs that had better do without calls that XLA cannot look into.
SURROUNDINGS = {
    "exported": "an exported program should not need a library of its maker's",
    "partly manual": "in a shard_map over some axes of a mesh XLA divides the rest by itself",
    "without mesh": "XLA divides arrays that are sharded over no named mesh by itself",
    "explicit mesh": "JAX cannot lower a partitioning rule's sum over explicit mesh axes",
}


ABSENCE = library.register()


def declines(platform: str, surroundings: str | None) -> str | None:
    """Say why the lowering cannot run there, or None. What is exported only XLA refuses."""
    if platform != "cpu":
        return f"it is for CPUs, and the program is lowered for {platform}"
    if surroundings not in (None, "exported"):
        return SURROUNDINGS[surroundings]
    return ABSENCE


def output(
    x: jax.Array,
    kernel: jax.Array,
    geometry: Geometry,
    accumulator: DTypeLike,
    dtype: DTypeLike,
    precision: lax.PrecisionLike,
    platform: str,
) -> jax.Array:
    """Filter every channel: (B, L, C), (K, C, M) -> (B, output_length, C*M)."""
    del precision, platform  # Products and sums of the accumulator's dtype are exact enough.
    M = kernel.shape[2]

    def shape(x: jax.Array, kernel: jax.Array) -> tuple[int, ...]:
        return x.shape[0], geometry.output_length, kernel.shape[1] * M

    return _call("output", (x, kernel), geometry, shape, M, accumulator, dtype)


def input_gradient(
    y: jax.Array,
    kernel: jax.Array,
    geometry: Geometry,
    accumulator: DTypeLike,
    dtype: DTypeLike,
    precision: lax.PrecisionLike,
    platform: str,
) -> jax.Array:
    """Carry a cotangent back: (B, output_length, C*M), (K, C, M) -> (B, L, C)."""
    del precision, platform
    M = kernel.shape[2]

    def shape(y: jax.Array, kernel: jax.Array) -> tuple[int, ...]:
        return y.shape[0], geometry.length, kernel.shape[1]

    return _call("input_gradient", (y, kernel), geometry, shape, M, accumulator, dtype)


def kernel_gradient(
    x: jax.Array,
    y: jax.Array,
    geometry: Geometry,
    accumulator: DTypeLike,
    dtype: DTypeLike,
    precision: lax.PrecisionLike,
    platform: str,
) -> jax.Array:
    """Correlate inputs and cotangents: (B, L, C), (B, output_length, C*M) -> (K, C, M)."""
    del precision, platform
    M = y.shape[-1] // x.shape[-1]

    def shape(x: jax.Array, y: jax.Array) -> tuple[int, ...]:
        return geometry.kernel_size, x.shape[-1], M

    return _call("kernel_gradient", (x, y), geometry, shape, M, accumulator, dtype)


def _call(
    contraction: str,
    operands: tuple[jax.Array, jax.Array],
    geometry: Geometry,
    shape: Callable[[jax.Array, jax.Array], tuple[int, ...]],
    multiplier: int,
    accumulator: DTypeLike,
    dtype: DTypeLike,
) -> jax.Array:
    """Call the library on operands of one dtype; `shape` is that of the result for their shards."""
    common = jnp.promote_types(operands[0].dtype, operands[1].dtype)
    result = jnp.dtype(dtype)
    if (common.name, result.name) not in DTYPES:
        common = result = jnp.dtype(accumulator)

    def call(a: jax.Array, b: jax.Array) -> jax.Array:
        out = result_type(contraction, a, b, shape(a, b), result)
        return _ffi_call(contraction, out, geometry, a, b)

    a, b = (operand.astype(common) for operand in operands)
    return partitioned(contraction, call, multiplier)(a, b).astype(dtype)


def zero_tails(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Set what lies behind the ends to zero, in place where XLA lets go of x: (B, L, C), (B,)."""

    def call(x: jax.Array, lengths: jax.Array) -> jax.Array:
        out = result_type("zero_tails", x, lengths, x.shape, x.dtype)
        target = jax.ffi.ffi_call("flax_sepconv_zero_tails", out, input_output_aliases={0: 0})
        return target(x, lengths)

    return partitioned("zero_tails", call, 1)(x, lengths)


def joins(result: str, geometry: Geometry, avals: Sequence[Any]) -> bool:
    """Tell whether `separable` is for operands and results of these types."""
    del result, geometry
    dtypes = {aval.dtype for aval in avals}
    return len(dtypes) == 1 and dtypes <= {jnp.dtype("float32"), jnp.dtype("float64")}


def separable(
    x: jax.Array,
    kernel: jax.Array,
    *rest: jax.Array,
    result: str,
    bias: bool,
    geometry: Geometry,
    implementation: str | None,
    precision: lax.PrecisionLike,
    dtype: DTypeLike,
) -> list[jax.Array]:
    """Compute both stages together, as `flax_sepconv.separable` defines them.

    The depthwise output stays in the caches, block by block.
    """
    del implementation, precision
    B, _, C = x.shape
    J, F = C * kernel.shape[2], rest[0].shape[-1]
    if result == "y":
        out = whole_type(x, (B, geometry.output_length, F), dtype)
        w, b = rest if bias else (rest[0], jnp.zeros(0, dtype))
        return [_ffi_call("separable_output", out, geometry, x, kernel, w, b)]
    gradients = whole_type(x, (J, F), dtype), whole_type(x, (F if bias else 0,), dtype)
    w, b = _ffi_call("pointwise_gradient", gradients, geometry, x, kernel, rest[0])
    return [w, b] if bias else [w]


def ragged(
    x: jax.Array,
    kernel: jax.Array,
    weights: jax.Array,
    *rest: jax.Array,
    result: str,
    bias: bool,
    padding: str,
    geometry: Geometry,
    implementation: str | None,
    precision: lax.PrecisionLike,
    dtype: DTypeLike,
) -> list[jax.Array]:
    """Compute both stages of ragged batches, as `flax_sepconv.sequences` defines them.

    What is behind the end of a sequence is neither read nor, but for the zeros, written. Lengths go
    in as they are: one operation of XLA's beside the call would take longer than small calls do.
    """
    del implementation
    *others, lengths = rest
    settings = {**_steps(geometry), "same": np.bool_(padding == "same")}

    def call(target: str, shapes: Any, *operands: jax.Array) -> Any:
        out = [whole_type(x, shape, dtype) for shape in shapes]
        target = f"flax_sepconv_ragged_{target}"
        return jax.ffi.ffi_call(target, out)(*operands, lengths, **settings)

    (B, _, _), (J, F) = x.shape, weights.shape
    if result == "y":
        b = others[0] if bias else jnp.zeros(0, dtype)
        shape = (B, geometry.output_length, F)
        return list(call("output", [shape], x, kernel, weights, b))
    (y,) = others
    h = lax.dot_general(y, weights, (((2,), (1,)), ((), ())), precision=precision)
    gradients = [
        *call("input_gradient", [x.shape], h, kernel),
        *call("kernel_gradient", [kernel.shape], x, h),
        *call("pointwise_gradient", [(J, F), (F if bias else 0,)], x, kernel, y),
    ]
    return gradients if bias else gradients[:-1]


def _ffi_call(target: str, out: Any, geometry: Geometry, *operands: jax.Array) -> Any:
    return jax.ffi.ffi_call(f"flax_sepconv_{target}", out)(*operands, **_steps(geometry))


def _steps(geometry: Geometry) -> dict[str, np.int64]:
    """Return what a call is told of the geometry: the lengths are in the shapes."""
    names = ("stride", "dilation", "pad_low")
    return {name: np.int64(getattr(geometry, name)) for name in names}


# Results of both stages, as `flax_sepconv.separable` names them.
FUSED = {"y": separable, "w": separable}
