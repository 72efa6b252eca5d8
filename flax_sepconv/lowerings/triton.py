"""Both stages, and the depthwise stage alone, in Triton (`flax_sepconv/triton/`), through Pallas.

For NVIDIA GPUs. Compiled for them and checked by interpretation, not yet run on one: it is taken
only by name. Sums are float32.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jax.typing import DTypeLike

from flax_sepconv.geometry import Geometry
from flax_sepconv.partitioning import partitioned

DTYPES = {"float32", "bfloat16", "float16"}
LARGEST_MULTIPLIER = 2


def declines(platform: str, surroundings: str | None) -> str | None:
    """Say why the lowering cannot run there, or None."""
    if platform != "cuda":
        return f"it is for NVIDIA GPUs, and the program is lowered for {platform}"
    if surroundings in ("partly manual", "without mesh", "explicit mesh"):
        return "XLA cannot divide its calls among devices by itself there"
    return None


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
    del accumulator, precision, platform
    from flax_sepconv import triton  # Pallas is imported where it is used.

    def call(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return triton.output(x, kernel, geometry, dtype)

    return partitioned("output", call, kernel.shape[2])(x, kernel)


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
    del accumulator, precision, platform
    from flax_sepconv import triton

    def call(y: jax.Array, kernel: jax.Array) -> jax.Array:
        return triton.input_gradient(y, kernel, geometry, dtype)

    return partitioned("input_gradient", call, kernel.shape[2])(y, kernel)


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
    del accumulator, precision, platform
    from flax_sepconv import triton

    def call(x: jax.Array, y: jax.Array) -> jax.Array:
        return triton.kernel_gradient(x, y, geometry, dtype)

    return partitioned("kernel_gradient", call, y.shape[-1] // x.shape[-1])(x, y)


def joins(result: str, geometry: Geometry, avals: Sequence[Any]) -> bool:
    """Tell whether both stages can be computed together for operands and results of these types."""
    multiplier = avals[1].shape[2]
    return (
        all(aval.dtype.name in DTYPES and 0 not in aval.shape for aval in avals)
        and multiplier <= LARGEST_MULTIPLIER
        and (result == "y" or geometry.stride == 1)
    )


def _separable_output(
    x: jax.Array,
    kernel: jax.Array,
    weights: jax.Array,
    *biases: jax.Array,
    geometry: Geometry,
    precision: lax.PrecisionLike,
    dtype: DTypeLike,
    **_: object,
) -> list[jax.Array]:
    from flax_sepconv import triton

    bias = biases[0] if biases else None
    return [triton.separable_output(x, kernel, weights, bias, geometry, dtype, precision=precision)]


def _separable_gradients(
    x: jax.Array,
    kernel: jax.Array,
    weights: jax.Array,
    y: jax.Array,
    *,
    bias: bool,
    geometry: Geometry,
    precision: lax.PrecisionLike,
    **_: object,
) -> list[jax.Array]:
    from flax_sepconv import triton

    gradients = triton.separable_gradients(
        x, kernel, weights, y, geometry, bias=bias, precision=precision
    )
    return [gradient for gradient in gradients if gradient is not None]


# Results of both stages, as `flax_sepconv.separable` names them.
FUSED = {"y": _separable_output, "xkw": _separable_gradients}
