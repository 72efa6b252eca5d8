"""What a row of a table is about: problems so alike that one choice serves them all."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
from jax import lax

from flax_sepconv.ops.contraction import Contraction, ContractionName, Stages
from flax_sepconv.ops.limits import Limit

# Of both stages: the output alone, or it and all gradients; of the depthwise stage: one of three.
Program = Literal["forward", "forward_backward"] | ContractionName
LAYER_PROGRAMS: tuple[Literal["forward", "forward_backward"], ...] = ("forward", "forward_backward")
PROGRAMS: tuple[Program, ...] = (*LAYER_PROGRAMS, *get_args(ContractionName))

# Up to here kernel sizes are told apart one by one.
EXACT_TAPS = 16
# What fills the registers of a TPU: steps, and channels.
SUBLANES, LANES = 8, 128


@dataclasses.dataclass(frozen=True)
class ShapeClass:
    """A class of problems; sizes are the upper ends of what they stand for.

    Batch, length, channels, filters and dilation stand for all sizes down to half of them, and so
    do kernel sizes above 16; the rest is exact.

    Attributes:
        program: what is computed, one of `PROGRAMS`.
        limits: what limits the rows.
        dtype: of all operands and results.
        precision: of products on matrix units, "default" where none is asked for.
        batch, length, channels: B, L, C.
        filters: F, or 0 for the depthwise stage alone.
        kernel_size, strides, dilation_rate, depth_multiplier: K, S, D, M.
        whole_tiles: whether L is a multiple of 8, and C and F of 128.
    """

    program: Program
    limits: Limit
    dtype: str
    precision: str
    batch: int
    length: int
    channels: int
    filters: int
    kernel_size: int
    strides: int
    dilation_rate: int
    depth_multiplier: int
    whole_tiles: bool

    def __str__(self) -> str:
        limits = "" if self.limits == "whole" else f" {self.limits}"
        precision = "" if self.precision == "default" else f" {self.precision}"
        filters = f"->{self.filters}" if self.filters else ""
        tiles = "" if self.whole_tiles else " (no whole tiles)"
        return (
            f"{self.program} {self.dtype}{precision}{limits} B{self.batch} L{self.length} "
            f"C{self.channels}{filters} K{self.kernel_size} S{self.strides} "
            f"D{self.dilation_rate} M{self.depth_multiplier}{tiles}"
        )


def bucket(size: int) -> int:
    """Return the least power of two that is no less than a size.

    Example:
        >>> [bucket(size) for size in (1, 5, 64, 65)]
        [1, 8, 64, 128]
    """
    return 1 << max(size - 1, 0).bit_length()


def classify(
    program: Program,
    *,
    limits: Limit = "whole",
    dtype: str,
    precision: lax.PrecisionLike = None,
    sizes: Sequence[Any],
    kernel: Sequence[int],
) -> ShapeClass | None:
    """Return the class of a problem; None where a size is 0 or a symbol.

    Args:
        program: what is computed.
        limits: what limits the rows.
        dtype: of all operands and results.
        precision: as it was asked for.
        sizes: B, L, C and F (0 for the depthwise stage alone).
        kernel: K, S, D and M.
    """
    batch, length, channels, filters = sizes
    if not all(isinstance(size, int) and size > 0 for size in (batch, length, channels)):
        return None
    if not isinstance(filters, int):
        return None
    taps, strides, dilation, multiplier = kernel
    return ShapeClass(
        program=program,
        limits=limits,
        dtype=dtype,
        precision=precision_name(precision),
        batch=bucket(batch),
        length=bucket(length),
        channels=bucket(channels),
        filters=bucket(filters) if filters else 0,
        kernel_size=taps if taps <= EXACT_TAPS else bucket(taps),
        strides=strides,
        dilation_rate=bucket(dilation) if taps > 1 else 1,
        depth_multiplier=multiplier,
        whole_tiles=length % SUBLANES == channels % LANES == filters % LANES == 0,
    )


def class_of_stages(stages: Stages, types: Sequence[Any]) -> ShapeClass | None:
    """Return the class of both stages; None where no row can be about them.

    Args:
        stages: with the result "y" or "xkw".
        types: of the operands, without what limits them, and of the results.
    """
    x, kernel, weights, *_ = types
    if stages.result == "w" or {each.dtype for each in types} != {stages.dtype}:
        return None
    learns = stages.result == "xkw" or stages.differentiated
    return classify(
        "forward_backward" if learns else "forward",
        limits=stages.limits,
        dtype=stages.dtype.name,
        precision=stages.precision,
        sizes=(*x.shape, weights.shape[-1]),
        kernel=_kernel(stages, kernel.shape[2]),
    )


def class_of_contraction(contraction: Contraction, types: Sequence[Any]) -> ShapeClass | None:
    """Return the class of a contraction of the depthwise stage alone, as `class_of_stages`."""
    a, b, *_ = types
    if contraction.operand_dtype != contraction.dtype:
        return None
    channels = b.shape[1] if contraction.result == "x" else a.shape[2]
    return classify(
        contraction.name,
        limits=contraction.limits,
        dtype=contraction.dtype.name,
        precision=contraction.precision,
        sizes=(a.shape[0], contraction.geometry.length, channels, 0),
        kernel=_kernel(contraction, contraction.multiplier),
    )


def _kernel(task: Stages | Contraction, multiplier: int) -> tuple[int, int, int, int]:
    geometry = task.geometry
    return geometry.kernel_size, geometry.stride, geometry.dilation, multiplier


def precision_name(precision: Any) -> str:
    """Return one name for all spellings of a precision; None is what JAX is set to.

    Example:
        >>> precision_name(None), precision_name(lax.Precision.HIGHEST), precision_name("highest")
        ('default', 'highest', 'highest')
    """
    if precision is None:
        precision = getattr(jax.config, "jax_default_matmul_precision", None) or "default"
    if isinstance(precision, tuple):
        return ", ".join(dict.fromkeys(map(precision_name, precision)))
    return str(getattr(precision, "name", precision)).lower()
