"""8-bit integers for the layers: training with rounded numbers, and making integers of weights."""

from flax_sepconv.quantization.config import Int8

__all__ = ["Int8"]
