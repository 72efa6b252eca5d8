"""8-bit integers for the layers: training with rounded numbers, and integers for inference."""

from flax_sepconv.quantization import nnx
from flax_sepconv.quantization.batch_norm import fold_batch_norm
from flax_sepconv.quantization.config import Int8
from flax_sepconv.quantization.linen import QuantizedModel, calibrate, convert, quantize

__all__ = [
    "Int8",
    "QuantizedModel",
    "calibrate",
    "convert",
    "fold_batch_norm",
    "nnx",
    "quantize",
]
