"""Questions about the operations, answered without computing: how long, and by which lowering."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, cast, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flax_sepconv.ops import geometry as geometry_lib
from flax_sepconv.ops import lengths as lengths_lib
from flax_sepconv.ops.arguments import (
    Padding,
    Size,
    check_kernel,
    choice,
    positive_int,
)
from flax_sepconv.ops.context import Context, Surroundings
from flax_sepconv.ops.contraction import CONTRACTIONS, ContractionName, Stages
from flax_sepconv.ops.native import SURROUNDINGS
from flax_sepconv.ops.paddings import padding_rule
from flax_sepconv.ops.selection import Selection, select_for_both, select_on_device


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
        padding_rule(padding),
    )
    return counted


def select_implementation(
    x_shape: tuple[int, ...],
    depthwise_kernel_shape: tuple[int, ...],
    *,
    platform: str,
    contraction: ContractionName | Literal["gradients"] = "output",
    filters: int | None = None,
    strides: Size = 1,
    dilation_rate: Size = 1,
    padding: Padding = "causal",
    dtype: DTypeLike = "float32",
    surroundings: Surroundings | None = None,
    device_kind: str | None = None,
) -> Selection:
    """Tell which lowering `implementation=None` takes, and why.

    A function of static facts, and of the tables of choices that there are; nothing is measured or
    asked of a device. Where a row of a table decides, the reason names it.

    Args:
        x_shape: (..., L, C).
        depthwise_kernel_shape: (K, C, M).
        platform: "cpu", "cuda", "rocm" or "tpu" (`jax.default_backend()` says "gpu" for the middle
            two, which is accepted).
        contraction: "output", "input_gradient" or "kernel_gradient"; with filters "output", or
            "gradients" for the layer in a program that computes all its gradients too.
        filters: F of a whole layer, or None: the depthwise stage alone.
        strides: S, as in the operation.
        dilation_rate: D, as in the operation.
        padding: as in the operation; it tells how many taps meet a step, which very long kernels
            on CPU go by.
        dtype: of the operands.
        surroundings: None, or what sets the program apart: "exported" (lowered by `jax.export`),
            "partly manual" (inside a `shard_map` over some of the axes that divide a mesh),
            "without mesh" (several devices, arrays not sharded over a mesh), "explicit mesh" (whose
            other axes are automatic). There the native lowering stays out, and tables say nothing.
        device_kind: of the device, as `jax.devices()[0].device_kind` has it; None: it is not known,
            and tables say nothing. A CPU is the one that this process runs on.

    Example:
        >>> select_implementation((8, 1024, 256), (31, 256, 1), platform="tpu").name
        'grouped_conv'
    """
    results = {name: result for result, name in CONTRACTIONS.items()}
    names = (*results,) if filters is None else ("output", "gradients")
    if contraction not in names:
        of_layer = "" if filters is None else "with filters "
        raise ValueError(
            f"{of_layer}contraction must be one of {', '.join(names)}, got {contraction!r}"
        )
    if surroundings is not None:
        surroundings = choice("surroundings", surroundings, tuple(SURROUNDINGS))
    check_kernel(tuple(depthwise_kernel_shape), x_shape[-1])
    K, C, M = depthwise_kernel_shape
    geometry = geometry_lib.resolve(
        length=x_shape[-2],
        kernel_size=K,
        stride=positive_int("strides", strides),
        dilation=positive_int("dilation_rate", dilation_rate),
        padding=padding_rule(padding),
    )
    context = Context(platform, surroundings, device_kind=device_kind)
    x, k = (math.prod(x_shape[:-2]), *x_shape[-2:]), (K, C, M)
    h = (x[0], geometry.output_length, C * M)
    stages = Stages("y", False, geometry, "whole", None, None, jnp.dtype(dtype))
    first = stages.first_stage(M, dtype, dtype, context)
    if filters is None:
        operands = {"output": (x, k), "input_gradient": (h, k), "kernel_gradient": (x, h)}
        asked = replace(first, result=results[cast(ContractionName, contraction)])
        return select_on_device(asked, _types(operands[contraction], dtype))
    y = (*h[:2], positive_int("filters", filters))
    learns = contraction == "gradients"
    stages = replace(stages, result="xkw" if learns else "y")
    shapes = (x, k, (C * M, y[-1]), y)
    types = (x, k, shapes[2]) if learns else ()
    return select_for_both(stages, first, _types((*shapes, *types), dtype))


def _types(shapes: Sequence[tuple[int, ...]], dtype: DTypeLike) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
