"""Ways to compute the depthwise stage: siblings with one signature, named by mechanism."""

from flax_sepconv.lowerings import grouped_conv, mosaic, native, shifted_sum, triton

LOWERINGS = {
    "grouped_conv": grouped_conv,
    "shifted_sum": shifted_sum,
    "native": native,
    "triton": triton,
    "mosaic": mosaic,
}

# XLA's own operations alone: what every process on every platform can run.
PORTABLE = ("grouped_conv", "shifted_sum")

__all__ = ["LOWERINGS", "PORTABLE", "grouped_conv", "mosaic", "native", "shifted_sum", "triton"]
