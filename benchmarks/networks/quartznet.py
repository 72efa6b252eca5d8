"""QuartzNet as in `examples/quartznet.py`: the stack with 5 blocks of 3 convolutions.

Dropout is left out, and a cross-entropy for every frame stands in for CTC, of which the frameworks
have different versions.
"""

import dataclasses
from typing import ClassVar

from benchmarks.networks.description import Layer, Layers


@dataclasses.dataclass(frozen=True)
class QuartzNet:
    """The sizes of the paper, on 4 clips of 8 seconds (10 ms a frame) with 64 mel channels."""

    title: ClassVar[str] = "QuartzNet-5x3"

    batch: int = 4
    length: int = 800
    channels: int = 64
    classes: int = 29
    filters: tuple[int, ...] = (256, 256, 512, 512, 512)
    kernel_sizes: tuple[int, ...] = (33, 39, 51, 63, 75)
    repeats: int = 3
    learning_rate: float = 1e-3

    def layers(self) -> Layers:
        """Return the layers that have weights."""
        layers: Layers = {}

        def add_block(
            name: str, C: int, F: int, K: int, repeats: int, strides: int = 1, dilation: int = 1
        ) -> None:
            for r in range(repeats):
                conv = Layer("separable", F if r else C, F, K, strides, dilation)
                layers[f"{name}/conv{r}"] = conv
                layers[f"{name}/norm{r}"] = Layer("batch_norm", F)

        C = self.filters[0]
        add_block("prologue", self.channels, C, 33, 1, strides=2)
        for name, F, K in zip(self.blocks, self.filters, self.kernel_sizes, strict=True):
            add_block(name, C, F, K, self.repeats)
            layers[f"{name}/residual"] = Layer("dense", C, F)
            layers[f"{name}/residual_norm"] = Layer("batch_norm", F)
            C = F
        add_block("epilogue", C, C, 87, 1, dilation=2)
        layers["wide"] = Layer("dense", C, 2 * C)
        layers["wide_norm"] = Layer("batch_norm", 2 * C)
        return {**layers, "head": Layer("dense", 2 * C, self.classes, use_bias=True)}

    @property
    def blocks(self) -> tuple[str, ...]:
        """The names of the residual blocks."""
        return tuple(f"block{b}_0" for b in range(len(self.filters)))

    def input_shape(self) -> tuple[int, int, int]:
        """Return (B, L, C)."""
        return self.batch, self.length, self.channels

    def target_shape(self) -> tuple[int, int]:
        """Return (B, frames): one class for each frame left."""
        return self.batch, -(-self.length // 2)
