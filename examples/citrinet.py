"""Citrinet: QuartzNet's block with squeeze-and-excitation, over an eighth of the frames.

Majumdar et al., "Citrinet: Closing the Gap between Non-Autoregressive and Autoregressive End-to-End
Models for Automatic Speech Recognition" (arXiv 2104.01721), section 2: a prologue, 21 residual
blocks of five separable convolutions in three parts, of which each begins with strides of 2, and an
epilogue. Kernel sizes are those of the published Citrinet-256, -384, -512 and -1024.
"""

import flax.linen as nn
import jax

from examples.quartznet import Block, frames_left

# A part of the network is a tuple of kernel sizes; its first block halves the frames.
PARTS = (
    (11, 13, 15, 17, 19, 21),
    (13, 15, 17, 19, 21, 23, 25),
    (25, 27, 29, 31, 33, 35, 37, 39),
)


class Citrinet(nn.Module):
    """The network, to the logits of its last layer.

    Args:
        classes: of the logits; the word pieces and CTC's blank.
        filters: channels of all blocks.
        last_filters: channels of the epilogue.
        repeats: R, separable convolutions in a block.
        reduction: of the squeeze-and-excitation.
        parts: the kernel sizes of the blocks of each part.
        dropout: share of the values that training drops in the blocks.
    """

    classes: int
    filters: int = 512
    last_filters: int = 640
    repeats: int = 5
    reduction: int = 8
    parts: tuple[tuple[int, ...], ...] = PARTS
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: jax.Array, lengths: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Return logits: (B, L, mel channels) -> (B, ceil(L / 8), classes), with three parts.

        Args:
            x: floating point.
            lengths: int (B,), the real frames of each sequence, or None: all.
            train: whether to normalise by the batch, and to drop out.
        """
        gate = self.reduction
        first = Block(self.filters, 5, 1, residual=False, reduction=gate, name="prologue")
        x = first(x, lengths, train=train)
        for p, kernel_sizes in enumerate(self.parts):
            for b, K in enumerate(kernel_sizes):
                strides = 1 if b else 2
                block = Block(
                    self.filters,
                    K,
                    self.repeats,
                    strides,
                    dropout=self.dropout,
                    reduction=gate,
                    name=f"block{p}_{b}",
                )
                x, lengths = block(x, lengths, train=train), frames_left(lengths, strides)
        last = Block(self.last_filters, 41, 1, residual=False, reduction=gate, name="epilogue")
        return nn.Dense(self.classes, name="head")(last(x, lengths, train=train))
