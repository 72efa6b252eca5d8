"""The operations on arrays."""

from flax_sepconv.ops import joint as _joint  # noqa: F401 - registers its primitives
from flax_sepconv.ops.api import depthwise_conv1d, separable_conv1d
from flax_sepconv.ops.chunks import (
    depthwise_conv1d_step,
    initial_state,
    separable_conv1d_step,
)
from flax_sepconv.ops.quantized.api import (
    quantized_depthwise_conv1d,
    quantized_separable_conv1d,
)
from flax_sepconv.ops.queries import output_length, select_implementation
from flax_sepconv.ops.selection import Selection
from flax_sepconv.ops.state import StreamState
from flax_sepconv.ops.tuning.session import tune

__all__ = [
    "Selection",
    "StreamState",
    "depthwise_conv1d",
    "depthwise_conv1d_step",
    "initial_state",
    "output_length",
    "quantized_depthwise_conv1d",
    "quantized_separable_conv1d",
    "select_implementation",
    "separable_conv1d",
    "separable_conv1d_step",
    "tune",
]
