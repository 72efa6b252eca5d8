"""Ways to compute the depthwise stage: siblings with one signature, named by mechanism."""

from flax_sepconv.lowerings import grouped_conv, shifted_sum

LOWERINGS = {"grouped_conv": grouped_conv, "shifted_sum": shifted_sum}

__all__ = ["LOWERINGS", "grouped_conv", "shifted_sum"]
