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

from flax_sepconv.ops.context import Context
from flax_sepconv.ops.contraction import Contraction
from flax_sepconv.ops.lowerings.lowering import Lowering
from flax_sepconv.ops.lowerings.shifted_sum import ShiftedSum
from flax_sepconv.ops.partitioning import result_sharding
from flax_sepconv.ops.sharding import axes_of, mesh_of, sharding_on


class GroupedConv(Lowering):
    """One convolution for each contraction."""

    is_portable = True

    def output(
        self,
        contraction: Contraction,
        context: Context,
        x: jax.Array,
        kernel: jax.Array,
        *limits: jax.Array,
    ) -> jax.Array:
        """Filter every channel: (B, L, C), (K, C, M) -> (B, output_length, C*M)."""
        (K, C, M), geometry = kernel.shape, contraction.geometry
        sharding = result_sharding("output", x, kernel)
        x, kernel = _operands(x, kernel, contraction, context)
        divided = sharding_on(mesh_of(x, kernel), None, None, axes_of(kernel, 1))
        out = lax.conv_general_dilated(
            x,
            lax.reshape(kernel, (K, 1, C * M), out_sharding=divided),
            window_strides=(geometry.stride,),
            padding=[(geometry.pad_low, geometry.pad_high)],
            rhs_dilation=(geometry.dilation,),
            dimension_numbers=("NHC", "HIO", "NHC"),
            feature_group_count=C,
            precision=contraction.precision,
            preferred_element_type=jnp.promote_types(x.dtype, contraction.dtype),
            out_sharding=sharding,
        )
        return out.astype(contraction.dtype)

    def input_gradient(
        self,
        contraction: Contraction,
        context: Context,
        y: jax.Array,
        kernel: jax.Array,
        *limits: jax.Array,
    ) -> jax.Array:
        """Carry a cotangent back: (B, output_length, C*M), (K, C, M) -> (B, L, C)."""
        geometry = contraction.geometry
        sharding = result_sharding("input_gradient", y, kernel)
        y, kernel = _operands(y, kernel, contraction, context)
        out = lax.conv_general_dilated(
            y,
            jnp.flip(kernel, 0).swapaxes(1, 2),
            window_strides=(1,),
            padding=[geometry.input_gradient_padding],
            lhs_dilation=(geometry.stride,),
            rhs_dilation=(geometry.dilation,),
            dimension_numbers=("NHC", "HIO", "NHC"),
            feature_group_count=kernel.shape[1],
            precision=contraction.precision,
            preferred_element_type=jnp.promote_types(y.dtype, contraction.dtype),
            out_sharding=sharding,
        )
        return out.astype(contraction.dtype)

    def kernel_gradient(
        self,
        contraction: Contraction,
        context: Context,
        x: jax.Array,
        y: jax.Array,
        *limits: jax.Array,
    ) -> jax.Array:
        """Correlate inputs and cotangents: (B, L, C), (B, output_length, C*M) -> (K, C, M)."""
        if context.summation.kind == "by tap":
            return ShiftedSum().kernel_gradient(contraction, context, x, y)
        sharding = result_sharding("kernel_gradient", x, y)
        x, y = _operands(x, y, contraction, context)
        if context.summation.mesh is not None:
            gradient = _by_example(context.summation.mesh, x, y, contraction)
            return gradient if sharding is None else jax.reshard(gradient, sharding)
        C = x.shape[-1]
        lanes = sharding and sharding.update(spec=PartitionSpec(None, None, sharding.spec[1]))
        # Channels take the role of the batch, examples that of the contracted features.
        gradient = _correlate(x, y, C, contraction, contraction.dtype, lanes)
        shape = (contraction.geometry.kernel_size, C, contraction.multiplier)
        return lax.reshape(gradient, shape, out_sharding=sharding).astype(contraction.dtype)


def _by_example(
    mesh: AbstractMesh, x: jax.Array, y: jax.Array, contraction: Contraction
) -> jax.Array:
    """Correlate inputs and cotangents, and sum over the batch afterwards, in the accumulator.

    For programs that XLA divides over a mesh whose axes are all explicit, or all automatic: the
    convolution contracts nothing that devices share.
    """
    B, _, C = x.shape
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

    gradients = _correlate(
        side_by_side(x),
        side_by_side(y),
        B * C,
        contraction,
        contraction.accumulator,
        sharding(None, None, batch),
    )
    shape = (contraction.geometry.kernel_size, B, C, contraction.multiplier)
    apart = lax.reshape(gradients, shape, out_sharding=sharding(None, batch, None, None))
    return apart.sum(1).astype(contraction.dtype)


def _correlate(
    x: jax.Array,
    y: jax.Array,
    groups: int,
    contraction: Contraction,
    dtype: DTypeLike,
    sharding: NamedSharding | None,
) -> jax.Array:
    """Correlate each channel of x with its lanes of y: -> (K, 1, lanes)."""
    geometry = contraction.geometry
    return lax.conv_general_dilated(
        x,
        y,
        window_strides=(geometry.dilation,),
        padding=[(geometry.pad_low, geometry.pad_high)],
        rhs_dilation=(geometry.stride,),
        dimension_numbers=("CHN", "IHO", "NHC"),
        batch_group_count=groups,
        precision=contraction.precision,
        preferred_element_type=jnp.promote_types(x.dtype, dtype),
        out_sharding=sharding,
    )


def _operands(
    a: jax.Array, b: jax.Array, contraction: Contraction, context: Context
) -> tuple[jax.Array, jax.Array]:
    """Convert to the common dtype: XLA's convolutions take no mixed operands.

    On GPUs also to 32 bits: 1-D convolutions of fewer are reported to fail (jax-ml/jax#37922).
    """
    dtype = contraction.operand_dtype
    if context.platform in ("cuda", "rocm"):
        dtype = jnp.promote_types(dtype, jnp.float32)
    return a.astype(dtype), b.astype(dtype)
