"""Ways to compute the depthwise stage: siblings with one signature, named by mechanism."""

from typing import Literal

from flax_sepconv.ops.lowerings.fft import Fft
from flax_sepconv.ops.lowerings.grouped_conv import GroupedConv
from flax_sepconv.ops.lowerings.lowering import Lowering
from flax_sepconv.ops.lowerings.mosaic import Mosaic
from flax_sepconv.ops.lowerings.native import Native
from flax_sepconv.ops.lowerings.shifted_sum import ShiftedSum
from flax_sepconv.ops.lowerings.triton import Triton

Implementation = Literal["grouped_conv", "shifted_sum", "fft", "native", "triton", "mosaic"]

LOWERINGS: dict[str, Lowering] = {
    "grouped_conv": GroupedConv(),
    "shifted_sum": ShiftedSum(),
    "fft": Fft(),
    "native": Native(),
    "triton": Triton(),
    "mosaic": Mosaic(),
}

# XLA's own operations alone: what every process on every platform can run.
PORTABLE = tuple(name for name, lowering in LOWERINGS.items() if lowering.is_portable)

__all__ = ["LOWERINGS", "PORTABLE", "Implementation", "Lowering"]
