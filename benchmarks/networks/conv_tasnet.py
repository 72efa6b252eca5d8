"""Conv-TasNet as in `examples/conv_tasnet.py`: the network of 5.1 million parameters.

The mean square between its voices and given ones stands in for the scale-invariant ratio of signal
and noise of the better of all assignments, which takes no time beside the network.
"""

import dataclasses
from typing import ClassVar

from benchmarks.networks.description import Layer, Layers


@dataclasses.dataclass(frozen=True)
class ConvTasNet:
    """Two voices in 2 recordings of half a second at 8 kHz."""

    title: ClassVar[str] = "Conv-TasNet"

    batch: int = 2
    samples: int = 4000
    sources: int = 2
    filters: int = 512
    window: int = 16
    bottleneck: int = 128
    hidden: int = 512
    skip: int = 128
    kernel_size: int = 3
    blocks: int = 8
    repeats: int = 3
    learning_rate: float = 1e-3
    classes: None = None

    def layers(self) -> Layers:
        """Return the layers that have weights."""
        N, B, H = self.filters, self.bottleneck, self.hidden

        def dense(channels: int, filters: int) -> Layer:
            return Layer("dense", channels, filters, use_bias=True)

        norm = Layer("global_norm", H, epsilon=1e-8)
        layers = {
            "encoder": Layer("dense", self.window, N),
            "separator/norm": norm._replace(channels=N),
            "separator/bottleneck": dense(N, B),
        }
        for name, dilation_rate in self.block_names.items():
            layers[f"{name}/expand"] = dense(B, H)
            layers[f"{name}/expand_prelu"] = Layer("prelu")
            layers[f"{name}/expand_norm"] = norm
            layers[f"{name}/depthwise"] = Layer(
                "depthwise", H, H, self.kernel_size, 1, dilation_rate, use_bias=True
            )
            layers[f"{name}/depthwise_prelu"] = Layer("prelu")
            layers[f"{name}/depthwise_norm"] = norm
            layers[f"{name}/residual"] = dense(H, B)
            layers[f"{name}/skip"] = dense(H, self.skip)
        layers["separator/masks_prelu"] = Layer("prelu")
        layers["separator/masks"] = dense(self.skip, self.sources * N)
        return {**layers, "decoder": Layer("dense", N, self.window)}

    @property
    def block_names(self) -> dict[str, int]:
        """The names of the blocks, and their dilation rates."""
        return {
            f"separator/block{r}_{b}": 2**b for r in range(self.repeats) for b in range(self.blocks)
        }

    def input_shape(self) -> tuple[int, int]:
        """Return (B, samples)."""
        return self.batch, self.samples

    def target_shape(self) -> tuple[int, int, int]:
        """Return (B, sources, samples)."""
        return self.batch, self.sources, self.samples
