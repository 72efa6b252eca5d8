"""Ways to compute the depthwise stage: siblings with one signature, named by mechanism."""

from flax_sepconv.lowerings import grouped_conv, native, shifted_sum, triton

LOWERINGS = {
    "grouped_conv": grouped_conv,
    "shifted_sum": shifted_sum,
    "native": native,
    "triton": triton,
}

__all__ = ["LOWERINGS", "grouped_conv", "native", "shifted_sum", "triton"]
