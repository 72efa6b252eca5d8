"""The depthwise stage as XLA's grouped convolution: the definition of all other lowerings.

`lax.conv_general_dilated` with `feature_group_count=C`; legal on every platform and for every
shape. The gradients are written as convolutions of their own, so that they too are single calls.
XLA sums 16-bit convolutions in float32 whatever type is asked for; asking for float32 where 16 bits
are wanted makes it convert the operands first.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from flax_sepconv.geometry import Geometry


def declines(platform: str, surroundings: str | None) -> None:
    """Say why the lowering cannot run there: it runs everywhere."""


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
    del accumulator  # XLA has its own.
    K, C, M = kernel.shape
    x, kernel = _operands(x, kernel, platform)
    out = lax.conv_general_dilated(
        x,
        kernel.reshape(K, 1, C * M),
        window_strides=(geometry.stride,),
        padding=[(geometry.pad_low, geometry.pad_high)],
        rhs_dilation=(geometry.dilation,),
        dimension_numbers=("NHC", "HIO", "NHC"),
        feature_group_count=C,
        precision=precision,
        preferred_element_type=jnp.promote_types(x.dtype, dtype),
    )
    return out.astype(dtype)


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
    del accumulator  # XLA has its own.
    C = kernel.shape[1]
    y, kernel = _operands(y, kernel, platform)
    out = lax.conv_general_dilated(
        y,
        jnp.flip(kernel, 0).swapaxes(1, 2),
        window_strides=(1,),
        padding=[geometry.input_gradient_padding],
        lhs_dilation=(geometry.stride,),
        rhs_dilation=(geometry.dilation,),
        dimension_numbers=("NHC", "HIO", "NHC"),
        feature_group_count=C,
        precision=precision,
        preferred_element_type=jnp.promote_types(y.dtype, dtype),
    )
    return out.astype(dtype)


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
    del accumulator  # XLA has its own.
    C = x.shape[-1]
    x, y = _operands(x, y, platform)
    # Channels take the role of the batch, examples that of the contracted features.
    gradient = lax.conv_general_dilated(
        x,
        y,
        window_strides=(geometry.dilation,),
        padding=[(geometry.pad_low, geometry.pad_high)],
        rhs_dilation=(geometry.stride,),
        dimension_numbers=("CHN", "IHO", "NHC"),
        batch_group_count=C,
        precision=precision,
        preferred_element_type=jnp.promote_types(x.dtype, dtype),
    )
    return gradient.reshape(geometry.kernel_size, C, y.shape[-1] // C).astype(dtype)


def _operands(a: jax.Array, b: jax.Array, platform: str) -> tuple[jax.Array, jax.Array]:
    """Convert to the common dtype: XLA's convolutions take no mixed operands.

    On GPUs also to 32 bits: 1-D convolutions of fewer are reported to fail (jax-ml/jax#37922).
    """
    dtype = jnp.promote_types(a.dtype, b.dtype)
    if platform in ("cuda", "rocm"):
        dtype = jnp.promote_types(dtype, jnp.float32)
    return a.astype(dtype), b.astype(dtype)
