"""Trained weights of other libraries, in and out.

`load` and `save` know the formats (`formats.FORMATS`), `to_params` and `from_params` the way to a
model. Names and axes, the whole of it (K taps, C channels, M multiplier, F filters):

| here, Keras, TF1 | shape | PyTorch | shape |
|---|---|---|---|
| `depthwise_kernel` | (K, C, M) | weight of `Conv1d(C, C*M, K, groups=C)` | (C*M, 1, K) |
| `pointwise_kernel` | (1, C*M, F) | weight of `Conv1d(C*M, F, 1)` | (F, C*M, 1) |
| `bias` | (F,) | its bias | (F,) |

A `DepthwiseConv1D` has no `pointwise_kernel`, and its `bias` is (C*M,), that of the first `Conv1d`.
"""

from flax_sepconv.interop.export import export_model
from flax_sepconv.interop.formats import format_of, load, save
from flax_sepconv.interop.keras3 import keras_weights
from flax_sepconv.interop.layer import InteropError, InteropWarning, Layer
from flax_sepconv.interop.params import from_params, to_params, to_quantization
from flax_sepconv.interop.pytorch import to_state_dict
from flax_sepconv.interop.pytorch_modules import from_modules
from flax_sepconv.interop.qwix import qwix_provider
from flax_sepconv.interop.tensorflow_layer import tensorflow_layer

__all__ = [
    "InteropError",
    "InteropWarning",
    "Layer",
    "export_model",
    "format_of",
    "from_modules",
    "from_params",
    "keras_weights",
    "load",
    "qwix_provider",
    "save",
    "tensorflow_layer",
    "to_params",
    "to_quantization",
    "to_state_dict",
]
