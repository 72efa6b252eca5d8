"""Questions about the operations, answered without computing: how long, and by which lowering."""

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flax_sepconv.ops import geometry as geometry_lib
from flax_sepconv.ops import lengths as lengths_lib
from flax_sepconv.ops.arguments import Padding, Size, check_kernel, choice, positive_int
from flax_sepconv.ops.context import Context, Surroundings
from flax_sepconv.ops.contraction import CONTRACTIONS, ContractionName, Stages
from flax_sepconv.ops.native import SURROUNDINGS
from flax_sepconv.ops.selection import Selection, select


@overload
def output_length(
    length: int,
    kernel_size: Size,
    strides: Size = 1,
    padding: Padding = "valid",
    dilation_rate: Size = 1,
) -> int: ...


@overload
def output_length(
    length: np.ndarray,
    kernel_size: Size,
    strides: Size = 1,
    padding: Padding = "valid",
    dilation_rate: Size = 1,
) -> np.ndarray: ...


@overload
def output_length(
    length: jax.Array | Sequence[int],
    kernel_size: Size,
    strides: Size = 1,
    padding: Padding = "valid",
    dilation_rate: Size = 1,
) -> jax.Array: ...


def output_length(
    length: int | np.ndarray | jax.Array | Sequence[int],
    kernel_size: Size,
    strides: Size = 1,
    padding: Padding = "valid",
    dilation_rate: Size = 1,
) -> int | np.ndarray | jax.Array:
    """Count the output steps of a sequence: 0 where it is too short for one.

    Args:
        length: an int, or an array (traced too) or list of integers of any shape, none negative.
        kernel_size, strides, padding, dilation_rate: as for `separable_conv1d`.

    Returns:
        An int for an int, else an array of the same shape and dtype (a list's is JAX's own).

    Raises:
        ValueError, TypeError: an argument breaks its rule. Traced values are not looked at.

    Example:
        >>> output_length(28, kernel_size=3, strides=2, padding="same")
        14
        >>> output_length(jnp.array([28, 3, 2]), kernel_size=3)
        Array([26,  1,  0], dtype=int32)
    """
    counted: int | np.ndarray | jax.Array = lengths_lib.output_length(
        lengths_lib.check_length(length),
        positive_int("kernel_size", kernel_size),
        positive_int("strides", strides),
        positive_int("dilation_rate", dilation_rate),
        choice("padding", padding, geometry_lib.PADDINGS),
    )
    return counted


def select_implementation(
    x_shape: tuple[int, ...],
    depthwise_kernel_shape: tuple[int, ...],
    *,
    platform: str,
    contraction: ContractionName = "output",
    strides: Size = 1,
    dilation_rate: Size = 1,
    padding: Padding = "causal",
    dtype: DTypeLike = "float32",
    surroundings: Surroundings | None = None,
) -> Selection:
    """Tell which depthwise lowering `implementation=None` takes, and why.

    A pure function of static facts; nothing is measured or asked of a device.

    Args:
        x_shape: (..., L, C).
        depthwise_kernel_shape: (K, C, M).
        platform: "cpu", "cuda", "rocm" or "tpu" (`jax.default_backend()` says "gpu" for the middle
            two, which is accepted).
        contraction: "output", "input_gradient" or "kernel_gradient".
        strides: S, as in the operation.
        dilation_rate: D, as in the operation.
        padding: as in the operation; it tells how many taps meet a step, which very long kernels
            on CPU go by.
        dtype: of the operands.
        surroundings: None, or what sets the program apart: "exported" (lowered by `jax.export`),
            "partly manual" (inside a `shard_map` over some of the axes that divide a mesh),
            "without mesh" (several devices, arrays not sharded over a mesh), "explicit mesh" (whose
            other axes are automatic). There the native lowering stays out.

    Example:
        >>> select_implementation((8, 1024, 256), (31, 256, 1), platform="tpu").name
        'grouped_conv'
    """
    results = {name: result for result, name in CONTRACTIONS.items()}
    if contraction not in results:
        raise ValueError(f"contraction must be one of {', '.join(results)}, got {contraction!r}")
    if surroundings is not None:
        surroundings = choice("surroundings", surroundings, tuple(SURROUNDINGS))
    check_kernel(tuple(depthwise_kernel_shape), x_shape[-1])
    geometry = geometry_lib.resolve(
        length=x_shape[-2],
        kernel_size=depthwise_kernel_shape[0],
        stride=positive_int("strides", strides),
        dilation=positive_int("dilation_rate", dilation_rate),
        padding=choice("padding", padding, geometry_lib.PADDINGS),
    )
    stages = Stages("y", False, geometry, "whole", None, None, jnp.dtype(dtype))
    M, context = depthwise_kernel_shape[2], Context(platform, surroundings)
    first = stages.first_stage(M, dtype, dtype, context)
    return select(replace(first, result=results[contraction]))
