"""What all frameworks build: layers by name, weights by name, and the numbers in them.

Names of layers and weights are those of the networks in `examples/`.
"""

import math
from typing import ClassVar, Literal, NamedTuple, Protocol

import numpy as np

Kind = Literal[
    "separable", "depthwise", "conv", "dense", "batch_norm", "layer_norm", "global_norm", "prelu"
]


class Layer(NamedTuple):
    """A layer with weights; convolutions are padded by TensorFlow's "same" rule."""

    kind: Kind
    channels: int = 0
    filters: int = 0
    kernel_size: int = 1
    strides: int = 1
    dilation_rate: int = 1
    use_bias: bool = False
    epsilon: float = 1e-3
    momentum: float = 0.9

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its weights."""
        C, F, K = self.channels, self.filters, self.kernel_size
        bias = {"bias": (F,)} if self.use_bias else {}
        match self.kind:
            case "separable":
                return {"depthwise_kernel": (K, C, 1), "pointwise_kernel": (1, C, F), **bias}
            case "depthwise":
                return {"depthwise_kernel": (K, C, 1), **bias}
            case "conv":
                return {"kernel": (K, C, F), **bias}
            case "dense":
                return {"kernel": (C, F), **bias}
            case "prelu":
                return {"negative_slope": ()}
        return {"scale": (C,), "bias": (C,)}


Layers = dict[str, Layer]


class Description(Protocol):
    """A network, its input and how it is trained; frozen, hashable, picklable.

    Attributes:
        title: what it is called.
        learning_rate: of Adam, whose other settings are `ADAM`.
        classes: of the logits, or None: its outputs are to come near others, by their squares.
    """

    title: ClassVar[str]

    @property
    def learning_rate(self) -> float: ...  # noqa: D102
    @property
    def classes(self) -> int | None: ...  # noqa: D102

    def layers(self) -> Layers:
        """Return the layers that have weights."""

    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of the batch: B, L, C, or B, samples."""

    def target_shape(self) -> tuple[int, ...]:
        """Return the shape of the targets: of classes, that of the logits but for the last axis."""


ADAM = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}


def shapes_of(description: Description) -> dict[str, tuple[int, ...]]:
    """Return the shape of every trained weight, as `layer/weight`."""
    return {
        f"{layer}/{weight}": shape
        for layer, facts in description.layers().items()
        for weight, shape in facts.shapes().items()
    }


class Numbers(NamedTuple):
    """The weights a network starts from, and its batch."""

    weights: dict[str, np.ndarray]
    inputs: np.ndarray
    targets: np.ndarray


def numbers(description: Description, seed: int = 0) -> Numbers:
    """Draw them; the same in every process."""
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        values = rng.standard_normal(shape, np.float32)
        if name.endswith("/bias"):
            return 0.1 * values
        if name.endswith(("/scale", "/negative_slope")):
            return np.float32(name.endswith("/scale")) + np.float32(0.1) * np.asarray(values)
        terms = shape[0] if name.endswith("/depthwise_kernel") else math.prod(shape[:-1])
        return values / np.sqrt(terms, dtype=np.float32)

    weights = {name: draw(name, shape) for name, shape in shapes_of(description).items()}
    inputs = rng.standard_normal(description.input_shape(), np.float32)
    shape = description.target_shape()
    if description.classes is None:
        return Numbers(weights, inputs, rng.standard_normal(shape, np.float32))
    return Numbers(weights, inputs, rng.integers(description.classes, size=shape, dtype=np.int32))
