"""Who is compared: one process for each, whose module's `build(problem)` makes programs.

Ours are "integers" (int8 to int8), "integers_to_real" (int8 to float32) and "float32"; the others
have "integers" alone. All scales are static; weights have one for each channel.
"""

import functools
from collections.abc import Mapping

from benchmarks.lasting import Lasting
from benchmarks.peers import Peer
from benchmarks.worker import Worker

PEERS = {
    "ours": Peer("flax_sepconv", ("flax-sepconv", "jax", "jaxlib", "flax")),
    "onnxruntime": Peer("ONNX Runtime", ("onnx", "onnxruntime")),
    "openvino": Peer("OpenVINO", ("onnx", "openvino")),
    "litert": Peer("LiteRT with XNNPACK", ("keras", "tensorflow"), {"KERAS_BACKEND": "tensorflow"}),
}
RIVALS = [name for name in PEERS if name != "ours"]
PROGRAMS = ("integers", "integers_to_real", "float32")


def start(name: str, environment: Mapping[str, str], patience: float) -> Lasting:
    """Start the process of one of `PEERS`.

    Args:
        name: who it is.
        environment: variables to set before the process imports anything.
        patience: the seconds that it may take for an answer.
    """
    variables = {**PEERS[name].environment, **environment}
    return Lasting(
        functools.partial(Worker, name, variables, patience),
        lambda worker: worker.call("os:getpid"),
    )
