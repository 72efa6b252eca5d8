"""How work is cut into programs, and what is declined: functions of shapes and dtypes alone.

The sizes were chosen by what the compiler says of sm_90a: registers are not spilled (but for a few
bytes, in float32, at some shapes), and where it can be, two programs fit on a multiprocessor, so
that one sums taps while the other multiplies matrices. None was tuned by measurement on a GPU.
"""

import dataclasses
import math
from typing import Any

from flax_sepconv.ops.geometry import Geometry

# Multiprocessors of the GPU in mind; fewer programs than that leave some of them idle.
MULTIPROCESSORS = 132
DTYPES = ("float32", "bfloat16", "float16")
# A block's smallest size along an axis that a matrix product keeps or sums.
SMALLEST = 16
# From so many taps on, computing h once more costs more than a program that has its
# multiprocessor to itself.
MANY_TAPS = 16


def check(*operands: Any, multiplier: int = 1, stride: int = 1) -> None:
    """Raise NotImplementedError for what the kernels do not compute.

    The fused kernels pass `multiplier`, as they keep a block for each, and the fused gradients
    `stride`, as they count input and output steps alike.
    """
    for operand in operands:
        if operand.dtype.name not in DTYPES:
            raise NotImplementedError(
                f"the Triton kernels take {', '.join(DTYPES)}; got {operand.dtype.name}"
            )
        if 0 in operand.shape:
            raise NotImplementedError(
                f"the Triton kernels take no empty arrays; got shape {operand.shape}"
            )
    if multiplier > 2:
        raise NotImplementedError(
            f"the fused Triton kernels take depth_multiplier 1 or 2; got {multiplier}"
        )
    if stride > 1:
        raise NotImplementedError(f"the fused Triton gradients take strides=1; got {stride}")


def fitting(size: int, largest: int | None = None) -> int:
    """Return the power of two that holds `size`, within what a block may have."""
    holding = max(SMALLEST, 1 << (size - 1).bit_length())
    return holding if largest is None else min(largest, holding)


def split(items: int, others: int, residents: int) -> tuple[int, int]:
    """Share items among programs: (items of a program, programs).

    `others` is the number of programs that do the same items for other channels; together they
    should be so many `residents` of every multiprocessor.
    """
    share = math.ceil(items / max(1, residents * MULTIPROCESSORS // others))
    return share, math.ceil(items / share)


@dataclasses.dataclass(frozen=True)
class Tile:
    """What one program computes at a time.

    Attributes:
        steps: output (or input) steps.
        channels: of the input.
        filters: of the output; 0 where the depthwise stage is alone.
        residents: programs that the registers of a multiprocessor have room for.
        warps: groups of 32 threads that share the work of one program.
    """

    steps: int
    channels: int
    filters: int = 0
    residents: int = 2
    warps: int = 8


def depthwise_tile(steps: int, C: int) -> Tile:
    """Cut the depthwise stage: 16 sums for each thread."""
    return Tile(fitting(steps, 32), fitting(C, 64), residents=4, warps=4)


def forward_tile(B: int, L: int, C: int, F: int, K: int, M: int, itemsize: int) -> Tile:
    """Cut the output. Every tile of filters computes h anew."""
    channels, filters = (64 if itemsize == 2 else 32), 128
    if itemsize == 2 and M == 1:
        filters = 512 if K >= MANY_TAPS else 256
    steps, filters = fitting(L, 64), fitting(F, filters)
    # Fewer steps at a time where most multiprocessors would have nothing to do.
    while (
        steps > SMALLEST and B * math.ceil(L / steps) * math.ceil(F / filters) < MULTIPROCESSORS / 2
    ):
        steps //= 2
    return Tile(steps, fitting(C, channels), filters, warps=8 if steps * filters > 4096 else 4)


def pointwise_tile(L: int, C: int, F: int, K: int, M: int, itemsize: int) -> Tile:
    """Cut the pointwise kernel's gradient. Every tile of filters computes h anew."""
    channels, filters, residents = 64 // M, 64, 2
    if itemsize == 2:
        filters, residents = (512, 1) if M == 1 and K >= MANY_TAPS else (256 // M, 2)
    return Tile(fitting(L, 64), fitting(C, channels), fitting(F, filters), residents)


@dataclasses.dataclass(frozen=True)
class GradientPlan(Tile):
    """How the programs of the fused gradients walk.

    Attributes:
        filters: that one contraction of dy takes at a time.
        all_filters: the smallest block that holds all of them.
        bias_filters: for which a program sums the bias' gradient at a time.
        joint: whether the pointwise kernel's gradient is summed as well, in registers.
        stages: tiles of dy that are on their way at a time, while it is contracted.
        chunk: steps that a program does with one filling of its slot; `chunks` make a sequence.
        held: steps of dh that the slot has room for.
        share: chunks of a program; `splits` programs share those of the same channels.
        blocks: tiles of channels.
    """

    all_filters: int = 0
    bias_filters: int = 0
    joint: bool = False
    stages: int = 1
    chunk: int = 0
    chunks: int = 0
    held: int = 0
    share: int = 0
    splits: int = 0
    blocks: int = 0

    @property
    def tiles(self) -> int:
        """Tiles of a chunk."""
        return math.ceil(self.chunk / self.steps)


def gradient_plan(
    geometry: Geometry, B: int, C: int, F: int, M: int, itemsize: int
) -> GradientPlan:
    """Cut the fused gradients."""
    all_filters = fitting(F)
    joint = M * all_filters <= (512 if itemsize == 2 else 128)
    steps = 64
    widest = 64 if itemsize == 2 else 32
    channels = fitting(C, widest if itemsize == 2 and not joint else widest // M)
    residents = 1 if joint and all_filters > 128 else 2
    blocks = math.ceil(C / channels)
    longest = max(geometry.length, geometry.output_length)

    def cut(tiles: int) -> tuple[int, int, int, int]:
        """Return (a program's work, chunks, share, splits) where a chunk holds so many tiles."""
        chunks = math.ceil(longest / (tiles * steps - geometry.reach))
        share, splits = split(B * chunks, blocks, residents)
        return share * (tiles + 1), chunks, share, splits  # a chunk costs about a tile of its own

    fewest = geometry.reach // steps + 1
    _, chunks, share, splits = min(map(cut, range(fewest, fewest + 8)), key=lambda cut: cut[0])
    chunk = math.ceil(longest / chunks)
    return GradientPlan(
        steps=steps,
        channels=channels,
        filters=fitting(F, 64 if itemsize == 2 else 32),
        residents=residents,
        warps=8 if itemsize == 2 or joint else 4,
        all_filters=all_filters,
        bias_filters=fitting(math.ceil(F / blocks), channels),
        joint=joint,
        # Of two or three taps the compiler makes no loop: it would load ahead for the taps too.
        stages={1: 1, 2: 1, 3: 2}.get(geometry.kernel_size, 3),
        chunk=chunk,
        chunks=chunks,
        held=math.ceil((chunk + geometry.reach) / steps) * steps,
        share=share,
        splits=splits,
        blocks=blocks,
    )
