"""The versions of a trained network that are compared."""

from typing import Any, Literal, NamedTuple


class Version(NamedTuple):
    """One way to make integers of a network.

    Attributes:
        title: in tables and pictures.
        trained: "after" training, or "while": the trained network is trained on, rounded.
        settings: of `quantization.Int8`.
    """

    title: str
    trained: Literal["after", "while"]
    settings: dict[str, Any]


FLOAT = "float32"
VERSIONS = {
    "ptq": Version("int8 after training", "after", {}),
    "ptq_tensor": Version("one scale a kernel", "after", {"weights": "per_tensor"}),
    "ptq_dynamic": Version("dynamic scales", "after", {"activations": "dynamic_per_example"}),
    "ptq_weights": Version("weights alone", "after", {"activations": None}),
    "qat": Version("int8, trained on", "while", {}),
    "qat_tensor": Version("trained on, one scale a kernel", "while", {"weights": "per_tensor"}),
    "qat_learned": Version("trained on, learned steps", "while", {"learned": True}),
}
# Chosen before any test series was scored, and for no set: a fifth of the epochs more, at a tenth
# of the rate.
EPOCHS, RATE = 0.2, 0.1
