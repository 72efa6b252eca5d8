"""Depthwise-separable 1-D convolution for Flax, with the semantics of TF1 and Keras."""

from flax_sepconv import (
    activations,
    constraints,
    initializers,
    nnx,
    ops,
    quantization,
    regularizers,
)
from flax_sepconv.functional import separable_conv1d
from flax_sepconv.linen import DepthwiseConv1D, SeparableConv1D, regularization_loss
from flax_sepconv.streams import stream_delay
from flax_sepconv.transforms import keep_params_constrained
from flax_sepconv.weights import constraints_of

__version__ = "0.2.0"

__all__ = [
    "DepthwiseConv1D",
    "SeparableConv1D",
    "__version__",
    "activations",
    "constraints",
    "constraints_of",
    "initializers",
    "keep_params_constrained",
    "nnx",
    "ops",
    "quantization",
    "regularization_loss",
    "regularizers",
    "separable_conv1d",
    "stream_delay",
]


def __dir__() -> list[str]:
    return sorted(__all__)
