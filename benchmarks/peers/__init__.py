"""The layer in every framework: siblings whose `build(workload)` makes the same two programs.

"forward" returns (y,); "forward_backward" returns (y, dx, d_depthwise_kernel, d_pointwise_kernel,
d_bias) for a given dy, and is missing where a runtime has no gradients (`INFERENCE`). Some take a
`dtype` for all operands and results, in place of float32 (`NARROW`). The layer has a bias and no
activation; weights and inputs are the same numbers (`benchmarks.case`), on the device before
anything is timed. Each peer runs in its own process (`benchmarks.worker`), with the threads that
its framework takes by default.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Peer(NamedTuple):
    """What the benchmark knows of a peer; its code is the module of the same name."""

    title: str
    packages: tuple[str, ...]
    environment: Mapping[str, str] = {}


PEERS = {
    "ours": Peer("flax_sepconv", ("flax-sepconv", "jax", "jaxlib", "flax")),
    "flax_stock": Peer("Flax nn.Conv + nn.Dense", ("jax", "jaxlib", "flax")),
    "keras_jax": Peer("Keras 3 on JAX", ("keras", "jax", "jaxlib"), {"KERAS_BACKEND": "jax"}),
    "haiku": Peer("Haiku", ("dm-haiku", "jax", "jaxlib")),
    "equinox": Peer("Equinox", ("equinox", "jax", "jaxlib")),
    "keras_tf": Peer(
        "Keras 3 on TensorFlow", ("keras", "tensorflow"), {"KERAS_BACKEND": "tensorflow"}
    ),
    "tf_nn": Peer("tf.nn.separable_conv2d", ("tensorflow",)),
    "torch_ncl": Peer("PyTorch, data (B, C, L)", ("torch",)),
    "torch_nlc": Peer("PyTorch, data (B, L, C)", ("torch",)),
    "onnxruntime": Peer("ONNX Runtime", ("onnx", "onnxruntime")),
    "openvino": Peer("OpenVINO", ("onnx", "openvino")),
    "floor": Peer("pointwise matmuls alone", ("jax", "jaxlib")),
}

# The peers on JAX, the best that there is elsewhere, and what runs trained networks only.
STOCK = ("flax_stock", "keras_jax", "haiku", "equinox")
RIVALS = ("keras_tf", "tf_nn", "torch_ncl", "torch_nlc")
INFERENCE = ("onnxruntime", "openvino")
NARROW = ("ours", "torch_ncl", "torch_nlc")
