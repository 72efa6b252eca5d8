"""MatchboxNet: spoken commands by QuartzNet's block, in fewer than 100,000 parameters.

Majumdar and Ginsburg, "MatchboxNet: 1D Time-Channel Separable Convolutional Neural Network
Architecture for Speech Commands Recognition" (arXiv 2004.08531), figure 1 and table 1. The paper
names a network BxRxC: MatchboxNet-3x1x64 has 77 and 3x2x64 has 93 thousand parameters.
"""

import flax.linen as nn
import jax

from examples.quartznet import Block
from examples.sequences import batch_norm, mean_over_time


class MatchboxNet(nn.Module):
    """The network of table 1, to the logits of a recording.

    Args:
        classes: of the logits; 30 and 35 in the two versions of Speech Commands.
        repeats: R, separable convolutions in a block.
        filters: C, channels of the blocks.
        kernel_sizes: of the B blocks.
        outer_filters: channels of the layers before and behind the blocks.
        dropout: share of the values that training drops.
    """

    classes: int
    repeats: int = 2
    filters: int = 64
    kernel_sizes: tuple[int, ...] = (13, 15, 17)
    outer_filters: int = 128
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: jax.Array, lengths: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Return logits: (B, L, cepstral coefficients) -> (B, classes).

        Args:
            x: floating point.
            lengths: int (B,), the real frames of each recording, or None: all. What stands behind
                them does not change the logits.
            train: whether to normalise by the batch, and to drop out.
        """
        drop, outer = self.dropout, self.outer_filters
        blocks = [
            Block(outer, 11, 1, residual=False, dropout=drop, name="prologue"),
            *(
                Block(self.filters, K, self.repeats, dropout=drop, name=f"block{b}")
                for b, K in enumerate(self.kernel_sizes)
            ),
            Block(outer, 29, 1, dilation_rate=2, residual=False, dropout=drop, name="epilogue"),
        ]
        for block in blocks:
            x = block(x, lengths, train=train)
        x = nn.Dense(outer, use_bias=False, name="wide")(x)
        x = nn.relu(batch_norm(x, lengths, train=train, name="wide_norm"))
        return nn.Dense(self.classes, name="head")(mean_over_time(x, lengths))
