"""The depthwise stage as XLA's grouped convolution: the definition of all other lowerings.

`lax.conv_general_dilated` with `feature_group_count=C`; legal on every platform and for every
shape. The gradients are written as convolutions of their own, so that they too are single calls.
Where it is named the output is traced as this one convolution, and JAX differentiates it, by
convolutions of the same forms.

XLA sums 16-bit convolutions in float32 whatever type is asked for; asking for float32 where 16 bits
are wanted makes it convert the operands first.
"""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from flax_sepconv.ops.contraction import Contraction
from flax_sepconv.ops.interception import is_intercepted
from flax_sepconv.ops.limits import pad_steps
from flax_sepconv.ops.lowerings.lowering import Lowering
from flax_sepconv.ops.lowerings.shifted_sum import ShiftedSum
from flax_sepconv.ops.partitioning import result_sharding
from flax_sepconv.ops.sharding import axes_of, mesh_of, sharding_on


class GroupedConv(Lowering):
    """One convolution for each contraction."""

    is_portable = True
    is_traced = True

    def output(self, task: Contraction, x: Array, kernel: Array, *limits: Array) -> Array:
        """Filter every channel: (B, L, C), (K, C, M) -> (B, output_length, C*M)."""
        K, C, M = kernel.shape
        sharding = result_sharding("output", x, kernel)
        x, kernel = _operands(x, kernel, task)
        task, low, high = _within_reach(task)
        x = pad_steps(x, low, high)
        divided = sharding_on(mesh_of(x, kernel), None, None, axes_of(kernel, 1))
        folded = lax.reshape(kernel, (K, 1, C * M), out_sharding=divided)
        return _convolve(task, x, folded, "HIO", sharding)

    def traced(self, task: Contraction, x: Array, kernel: Any) -> Array:
        """Filter every channel; a kernel of one multiplier goes to a tool as it is kept."""
        x, kernel = _operands(x, kernel, task)
        task, low, high = _within_reach(task)
        x = pad_steps(x, low, high)
        unread = max(-task.geometry.pad_high, 0)
        if unread:  # Converters take no negative padding.
            read = x.shape[1] - unread
            x = lax.slice_in_dim(x, 0, read, axis=1)
            task = replace(task, geometry=replace(task.geometry, length=read))
        if kernel.shape[1:] == (x.shape[2], 1) and is_intercepted():
            return _convolve(task, x, kernel, "HOI")
        K, *lanes = kernel.shape
        return _convolve(task, x, kernel.reshape(K, 1, math.prod(lanes)), "HIO")

    def input_gradient(self, task: Contraction, y: Array, kernel: Array, *limits: Array) -> Array:
        """Carry a cotangent back: (B, output_length, C*M), (K, C, M) -> (B, L, C)."""
        sharding = result_sharding("input_gradient", y, kernel)
        y, kernel = _operands(y, kernel, task)
        task, low, high = _within_reach(task)
        geometry = task.geometry
        out = lax.conv_general_dilated(
            y,
            jnp.flip(kernel, 0).swapaxes(1, 2),
            window_strides=(1,),
            padding=[geometry.input_gradient_padding],
            lhs_dilation=(geometry.stride,),
            rhs_dilation=(geometry.dilation,),
            dimension_numbers=("NHC", "HIO", "NHC"),
            feature_group_count=kernel.shape[1],
            precision=task.precision,
            preferred_element_type=jnp.promote_types(y.dtype, task.dtype),
            out_sharding=sharding,
        )
        return pad_steps(out.astype(task.dtype), -low, -high)

    def kernel_gradient(self, task: Contraction, x: Array, y: Array, *limits: Array) -> Array:
        """Correlate inputs and cotangents: (B, L, C), (B, output_length, C*M) -> (K, C, M)."""
        if task.context.summation.kind == "by tap":
            return ShiftedSum().kernel_gradient(task, x, y)
        sharding = result_sharding("kernel_gradient", x, y)
        x, y = _operands(x, y, task)
        if task.context.summation.mesh is not None:
            gradient = _by_example(task.context.summation.mesh, x, y, task)
            return gradient if sharding is None else jax.reshard(gradient, sharding)
        C = x.shape[-1]
        lanes = sharding and sharding.update(spec=PartitionSpec(None, None, sharding.spec[1]))
        # Channels take the role of the batch, examples that of the contracted features.
        gradient = _correlate(x, y, C, task, task.dtype, lanes)
        shape = (task.geometry.kernel_size, C, task.multiplier)
        return lax.reshape(gradient, shape, out_sharding=sharding).astype(task.dtype)


def _within_reach(task: Contraction) -> tuple[Contraction, int, int]:
    """Return the task for an x that holds the zeros beyond the taps' reach, and how many there are.

    The gradient would crop them, and XLA's grouped convolutions on CPU are wrong where they crop.
    """
    own = task.geometry
    low, high = (
        max(zeros - own.reach, 0) if isinstance(zeros, int) else 0
        for zeros in (own.pad_low, own.pad_high)
    )
    wider = replace(own, length=own.length + low + high, pad_low=own.pad_low - low)
    return replace(task, geometry=wider), low, high


def _convolve(
    task: Contraction, x: Array, kernel: Any, axes: str, sharding: NamedSharding | None = None
) -> Array:
    """Filter every channel with a kernel whose axes are taps (H), one (I) and outputs (O)."""
    geometry = task.geometry
    out: Array = lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(geometry.stride,),
        padding=((geometry.pad_low, geometry.pad_high),),
        rhs_dilation=(geometry.dilation,),
        dimension_numbers=("NHC", axes, "NHC"),
        feature_group_count=x.shape[2],
        precision=task.precision,
        preferred_element_type=jnp.promote_types(x.dtype, task.dtype),
        out_sharding=sharding,
    )
    return out.astype(task.dtype)


def _by_example(mesh: AbstractMesh, x: Array, y: Array, task: Contraction) -> Array:
    """Correlate inputs and cotangents, and sum over the batch afterwards, in the accumulator.

    For programs that XLA divides over a mesh whose axes are all explicit, or all automatic: the
    convolution contracts nothing that devices share.
    """
    B, _, C = x.shape
    is_explicit, batch = mesh.are_all_axes_explicit, axes_of(x, 0) or axes_of(y, 0)

    def sharding(*axes: Any) -> NamedSharding | None:
        return sharding_on(mesh, *axes) if is_explicit else None

    def side_by_side(rows: Array) -> Array:
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
        task,
        task.accumulator,
        sharding(None, None, batch),
    )
    shape = (task.geometry.kernel_size, B, C, task.multiplier)
    apart = lax.reshape(gradients, shape, out_sharding=sharding(None, batch, None, None))
    return apart.sum(1).astype(task.dtype)


def _correlate(
    x: Array,
    y: Array,
    groups: int,
    task: Contraction,
    dtype: DTypeLike,
    sharding: NamedSharding | None,
) -> Array:
    """Correlate each channel of x with its lanes of y: -> (K, 1, lanes)."""
    geometry = task.geometry
    return lax.conv_general_dilated(
        x,
        y,
        window_strides=(geometry.dilation,),
        padding=[(geometry.pad_low, geometry.pad_high)],
        rhs_dilation=(geometry.stride,),
        dimension_numbers=("CHN", "IHO", "NHC"),
        batch_group_count=groups,
        precision=task.precision,
        preferred_element_type=jnp.promote_types(x.dtype, dtype),
        out_sharding=sharding,
    )


def _operands(a: Array, b: Any, task: Contraction) -> tuple[Array, Any]:
    """Convert to the common dtype: XLA's convolutions take no mixed operands.

    On GPUs also to 32 bits: 1-D convolutions of fewer are reported to fail (jax-ml/jax#37922).
    While JAX traces, the platform is taken to be the process' own.
    """
    dtype = task.operand_dtype
    if (task.context.platform or jax.default_backend()) in ("cuda", "rocm", "gpu"):
        dtype = jnp.promote_types(dtype, jnp.float32)
    return a.astype(dtype), b.astype(dtype) if isinstance(b, Array) else b
