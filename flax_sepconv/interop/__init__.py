"""Trained weights of other libraries, in and out.

Names and axes, the whole of it (K taps, C channels, M multiplier, F filters):

| here, Keras, TF1 | shape | PyTorch | shape |
|---|---|---|---|
| `depthwise_kernel` | (K, C, M) | weight of `Conv1d(C, C*M, K, groups=C)` | (C*M, 1, K) |
| `pointwise_kernel` | (1, C*M, F) | weight of `Conv1d(C*M, F, 1)` | (F, C*M, 1) |
| `bias` | (F,) | its bias | (F,) |
"""

from flax_sepconv.interop.layer import InteropError, Layer
from flax_sepconv.interop.params import from_params, to_params

__all__ = ["InteropError", "Layer", "from_params", "to_params"]
