"""LITE as in `examples/lite.py`; sizes and settings are those of `aeon`'s classifier."""

import dataclasses
from typing import ClassVar

from benchmarks.networks.description import Layer, Layers

FIXED = 17  # filters that are not trained


@dataclasses.dataclass(frozen=True)
class Lite:
    """One network of the ensemble; the batch is shaped as ArrowHead of the UCR archive."""

    title: ClassVar[str] = "LITE"

    batch: int = 64
    length: int = 251
    classes: int = 3
    filters: int = 32
    kernel_size: int = 40
    learning_rate: float = 1e-3

    def layers(self) -> Layers:
        """Return the layers that have weights."""
        F, K = self.filters, self.kernel_size
        C = 3 * F + FIXED
        layers = {f"parallel{i}": Layer("conv", 1, F, K >> i) for i in range(3)}
        layers["parallel_norm"] = Layer("batch_norm", C, momentum=0.99)
        layers["separable0"] = Layer("separable", C, F, K // 2, dilation_rate=2)
        layers["separable0_norm"] = Layer("batch_norm", F, momentum=0.99)
        layers["separable1"] = Layer("separable", F, F, K // 4, dilation_rate=4)
        layers["separable1_norm"] = Layer("batch_norm", F, momentum=0.99)
        return {**layers, "head": Layer("dense", F, self.classes, use_bias=True)}

    def input_shape(self) -> tuple[int, int, int]:
        """Return (B, L, C)."""
        return self.batch, self.length, 1

    def target_shape(self) -> tuple[int]:
        """Return (B,): one class for each series."""
        return (self.batch,)
