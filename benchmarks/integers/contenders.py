"""Who is compared: one process for each, whose module's `build(problem)` makes programs.

Ours are "integers" (int8 to int8), "integers_to_real" (int8 to float32) and "float32"; the others
have "integers" alone. All scales are static; weights have one for each channel.
"""

from benchmarks.peers import Peer

PEERS = {
    "ours": Peer("flax_sepconv", ("flax-sepconv", "jax", "jaxlib", "flax")),
    "onnxruntime": Peer("ONNX Runtime", ("onnx", "onnxruntime")),
    "openvino": Peer("OpenVINO", ("onnx", "openvino")),
    "litert": Peer("LiteRT with XNNPACK", ("keras", "tensorflow"), {"KERAS_BACKEND": "tensorflow"}),
}
RIVALS = [name for name in PEERS if name != "ours"]
PROGRAMS = ("integers", "integers_to_real", "float32")
