"""The depthwise stage as XLA's grouped convolution: the definition of all other lowerings.

`lax.conv_general_dilated` with `feature_group_count=C`; legal on every platform and for every
shape. The gradients are written as convolutions of their own, so that they too are single calls.
XLA sums 16-bit convolutions in float32 whatever type is asked for; asking for float32 where 16 bits
are wanted makes it convert the operands first.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from flax_sepconv.geometry import Geometry
from flax_sepconv.partitioning import result_sharding
from flax_sepconv.sharding import axes_of, mesh_of, sharding_on


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
    sharding = result_sharding("output", x, kernel)
    x, kernel = _operands(x, kernel, platform)
    divided = sharding_on(mesh_of(x, kernel), None, None, axes_of(kernel, 1))
    out = lax.conv_general_dilated(
        x,
        lax.reshape(kernel, (K, 1, C * M), out_sharding=divided),
        window_strides=(geometry.stride,),
        padding=[(geometry.pad_low, geometry.pad_high)],
        rhs_dilation=(geometry.dilation,),
        dimension_numbers=("NHC", "HIO", "NHC"),
        feature_group_count=C,
        precision=precision,
        preferred_element_type=jnp.promote_types(x.dtype, dtype),
        out_sharding=sharding,
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
    sharding = result_sharding("input_gradient", y, kernel)
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
        out_sharding=sharding,
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
    sharding = result_sharding("kernel_gradient", x, y)
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
        out_sharding=sharding and sharding.update(spec=PartitionSpec(None, None, sharding.spec[1])),
    )
    shape = (geometry.kernel_size, C, y.shape[-1] // C)
    return lax.reshape(gradient, shape, out_sharding=sharding).astype(dtype)


def kernel_gradient_by_example(
    mesh: AbstractMesh,
    x: jax.Array,
    y: jax.Array,
    geometry: Geometry,
    accumulator: DTypeLike,
    dtype: DTypeLike,
    precision: lax.PrecisionLike,
    platform: str,
) -> jax.Array:
    """Correlate inputs and cotangents, and sum over the batch afterwards, in the accumulator.

    For programs that XLA divides over a mesh whose axes are all explicit, or all automatic: the
    convolution contracts nothing that devices share.
    """
    (B, _, C), lanes = x.shape, y.shape[2]
    is_explicit, batch = mesh.are_all_axes_explicit, axes_of(x, 0) or axes_of(y, 0)

    def sharding(*axes: Any) -> NamedSharding | None:
        return sharding_on(mesh, *axes) if is_explicit else None

    def side_by_side(rows: jax.Array) -> jax.Array:
        """Make each channel of each example a channel of one: (B, L, C) -> (1, L, B*C)."""
        if not is_explicit:
            free = PartitionSpec.UNCONSTRAINED
            whole = NamedSharding(mesh, PartitionSpec(free, None, free))
            rows = lax.with_sharding_constraint(rows, whole)
        shape = (1, rows.shape[1], B * rows.shape[2])
        return lax.reshape(rows.swapaxes(0, 1), shape, out_sharding=sharding(None, None, batch))

    own = result_sharding("kernel_gradient", x, y)
    x, y = _operands(x, y, platform)
    gradients = lax.conv_general_dilated(
        side_by_side(x),
        side_by_side(y),
        window_strides=(geometry.dilation,),
        padding=[(geometry.pad_low, geometry.pad_high)],
        rhs_dilation=(geometry.stride,),
        dimension_numbers=("CHN", "IHO", "NHC"),
        batch_group_count=B * C,
        precision=precision,
        preferred_element_type=jnp.promote_types(x.dtype, accumulator),
        out_sharding=sharding(None, None, batch),
    )
    shape = (geometry.kernel_size, B, C, lanes // C)
    apart = lax.reshape(gradients, shape, out_sharding=sharding(None, batch, None, None))
    gradient = apart.sum(1).astype(dtype)
    return gradient if own is None else jax.reshard(gradient, own)


def _operands(a: jax.Array, b: jax.Array, platform: str) -> tuple[jax.Array, jax.Array]:
    """Convert to the common dtype: XLA's convolutions take no mixed operands.

    On GPUs also to 32 bits: 1-D convolutions of fewer are reported to fail (jax-ml/jax#37922).
    """
    dtype = jnp.promote_types(a.dtype, b.dtype)
    if platform in ("cuda", "rocm"):
        dtype = jnp.promote_types(dtype, jnp.float32)
    return a.astype(dtype), b.astype(dtype)
