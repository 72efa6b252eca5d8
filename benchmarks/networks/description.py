"""What all frameworks build: convolutions by name, weights by name, and the numbers in them."""

from typing import ClassVar, NamedTuple, Protocol

import numpy as np

Shapes = dict[str, tuple[int, ...]]


class Convolution(NamedTuple):
    """A convolution without bias, padded by TensorFlow's "same" rule."""

    name: str
    channels: int
    filters: int
    kernel_size: int
    strides: int = 1
    dilation_rate: int = 1
    is_separable: bool = True

    def shapes(self) -> Shapes:
        """Return the shapes of its weights."""
        if self.is_separable:
            return {
                f"{self.name}/depthwise_kernel": (self.kernel_size, self.channels, 1),
                f"{self.name}/pointwise_kernel": (1, self.channels, self.filters),
            }
        return {f"{self.name}/kernel": (self.kernel_size, self.channels, self.filters)}

    def shapes_with_norm(self) -> Shapes:
        """Return the shapes of its weights and of those of the normalisation after it."""
        return self.shapes() | norm_shapes(f"{self.name}_norm", self.filters)


def norm_shapes(name: str, channels: int) -> Shapes:
    """Return the shapes of the weights of a batch normalisation."""
    return {f"{name}/gamma": (channels,), f"{name}/beta": (channels,)}


def head_shapes(channels: int, classes: int) -> Shapes:
    """Return the shapes of the weights of the dense layer at the end."""
    return {"head/kernel": (channels, classes), "head/bias": (classes,)}


class Description(Protocol):
    """A network, its input and how it is trained; frozen, hashable, picklable.

    Attributes:
        title: what it is called.
        classes: of the logits.
        momentum: of the running statistics of the batch normalisations.
        epsilon: of the batch normalisations.
        learning_rate: of Adam, whose other settings are `ADAM`.
    """

    title: ClassVar[str]

    @property
    def classes(self) -> int: ...  # noqa: D102
    @property
    def momentum(self) -> float: ...  # noqa: D102
    @property
    def epsilon(self) -> float: ...  # noqa: D102
    @property
    def learning_rate(self) -> float: ...  # noqa: D102

    def shapes(self) -> Shapes:
        """Return the shape of every trained weight."""

    def input_shape(self) -> tuple[int, int, int]:
        """Return (B, L, C)."""

    def label_shape(self) -> tuple[int, ...]:
        """Return the shape of the labels, which is that of the logits without the classes."""


ADAM = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}


class Numbers(NamedTuple):
    """The weights a network starts from, and its batch."""

    weights: dict[str, np.ndarray]
    inputs: np.ndarray
    labels: np.ndarray


def numbers(description: Description, seed: int = 0) -> Numbers:
    """Draw them; the same in every process."""
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        values = rng.standard_normal(shape, np.float32)
        if name.endswith(("/beta", "/bias")):
            return 0.1 * values
        if name.endswith("/gamma"):
            return 1 + 0.1 * values
        terms = shape[0] if name.endswith("/depthwise_kernel") else np.prod(shape[:-1])
        return values / np.sqrt(terms, dtype=np.float32)

    weights = {name: draw(name, shape) for name, shape in description.shapes().items()}
    inputs = rng.standard_normal(description.input_shape(), np.float32)
    labels = rng.integers(description.classes, size=description.label_shape(), dtype=np.int32)
    return Numbers(weights, inputs, labels)
