"""QuartzNet: residual blocks of separable convolutions over spectrogram frames.

Kriman et al., "QuartzNet: Deep automatic speech recognition with 1D time-channel separable
convolutions" (2020): the stack with 5 blocks of 3 convolutions. Dropout is left out, and a
cross-entropy for every frame stands in for CTC, of which the frameworks have different versions.
"""

import dataclasses
from typing import ClassVar, NamedTuple

from benchmarks.networks.description import Convolution, Shapes, head_shapes


class Block(NamedTuple):
    """Convolutions in a row, and the one around them."""

    convolutions: tuple[Convolution, ...]
    residual: Convolution


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
    momentum: float = 0.9
    epsilon: float = 1e-3
    learning_rate: float = 1e-3

    @property
    def prologue(self) -> Convolution:
        """The convolution of the input, to every second frame."""
        return Convolution("prologue", self.channels, self.filters[0], 33, strides=2)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The residual blocks."""
        blocks, C = [], self.filters[0]
        for b, (F, K) in enumerate(zip(self.filters, self.kernel_sizes, strict=True)):
            inner = [Convolution(f"block{b}_{r}", F if r else C, F, K) for r in range(self.repeats)]
            residual = Convolution(f"residual{b}", C, F, 1, is_separable=False)
            blocks.append(Block(tuple(inner), residual))
            C = F
        return tuple(blocks)

    @property
    def epilogue(self) -> tuple[Convolution, ...]:
        """The convolutions after the blocks."""
        F = self.filters[-1]
        return (
            Convolution("epilogue0", F, F, 87, dilation_rate=2),
            Convolution("epilogue1", F, 2 * F, 1, is_separable=False),
        )

    def shapes(self) -> Shapes:
        """Return the shape of every trained weight."""
        shapes = self.prologue.shapes_with_norm()
        for block in self.blocks:
            for convolution in (*block.convolutions, block.residual):
                shapes |= convolution.shapes_with_norm()
        for convolution in self.epilogue:
            shapes |= convolution.shapes_with_norm()
        return shapes | head_shapes(2 * self.filters[-1], self.classes)

    def input_shape(self) -> tuple[int, int, int]:
        """Return (B, L, C)."""
        return self.batch, self.length, self.channels

    def label_shape(self) -> tuple[int, ...]:
        """Return (B, frames): one class for each frame left."""
        return self.batch, -(-self.length // self.prologue.strides)
