"""Conformer as in `examples/conformer.py`: blocks of the width of Conformer (S), 4 of its 16."""

import dataclasses
from typing import ClassVar

from benchmarks.networks.description import Layer, Layers


@dataclasses.dataclass(frozen=True)
class Conformer:
    """4 clips of 8 seconds, 40 ms a frame; a class for each frame stands in for the decoder."""

    title: ClassVar[str] = "Conformer (S), 4 blocks"

    batch: int = 4
    length: int = 200
    channels: int = 80
    classes: int = 29
    width: int = 144
    blocks: int = 4
    heads: int = 4
    kernel_size: int = 32
    learning_rate: float = 1e-3

    def layers(self) -> Layers:
        """Return the layers that have weights."""
        C = self.width

        def dense(channels: int, filters: int) -> Layer:
            return Layer("dense", channels, filters, use_bias=True)

        norm = Layer("layer_norm", C, epsilon=1e-5)
        layers = {"input": dense(self.channels, C)}
        for b in range(self.blocks):
            for feed in ("feed0", "feed1"):
                layers[f"block{b}/{feed}/norm"] = norm
                layers[f"block{b}/{feed}/expand"] = dense(C, 4 * C)
                layers[f"block{b}/{feed}/project"] = dense(4 * C, C)
            layers[f"block{b}/attention/norm"] = norm
            for name in ("query", "key", "value", "out"):
                layers[f"block{b}/attention/{name}"] = dense(C, C)
            convolution = f"block{b}/convolution"
            layers[f"{convolution}/norm"] = norm
            layers[f"{convolution}/expand"] = dense(C, 2 * C)
            depthwise = Layer("depthwise", C, C, self.kernel_size, use_bias=True)
            layers[f"{convolution}/depthwise"] = depthwise
            layers[f"{convolution}/depthwise_norm"] = Layer("batch_norm", C, epsilon=1e-5)
            layers[f"{convolution}/project"] = dense(C, C)
            layers[f"block{b}/norm"] = norm
        return {**layers, "head": dense(C, self.classes)}

    def input_shape(self) -> tuple[int, int, int]:
        """Return (B, L, C)."""
        return self.batch, self.length, self.channels

    def target_shape(self) -> tuple[int, int]:
        """Return (B, L): one class for each frame."""
        return self.batch, self.length
