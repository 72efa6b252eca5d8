"""Ways to compute the depthwise stage: siblings with one signature, named by mechanism."""

from flax_sepconv.lowerings import grouped_conv, mosaic, native, shifted_sum, triton

LOWERINGS = {
    "grouped_conv": grouped_conv,
    "shifted_sum": shifted_sum,
    "native": native,
    "triton": triton,
    "mosaic": mosaic,
}

__all__ = ["LOWERINGS", "grouped_conv", "mosaic", "native", "shifted_sum", "triton"]
