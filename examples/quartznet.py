"""QuartzNet: residual blocks of separable convolutions over the frames of a spectrogram.

Kriman et al., "QuartzNet: Deep Automatic Speech Recognition with 1D Time-Channel Separable
Convolutions" (arXiv 1910.10261): figure 2 (the block) and table 1 (the network in three sizes: 5x5,
10x5 and 15x5 with 6.7, 12.8 and 18.9 million parameters).

The block can end with squeeze-and-excitation, as in Citrinet (`examples/citrinet.py`); MatchboxNet
(`examples/matchboxnet.py`) is made of it too. Strides follow TensorFlow's "same", which centres the
taps between two frames where the number of frames is even.
"""

import flax.linen as nn
import jax

import flax_sepconv as fsc
from examples.sequences import batch_norm, mean_over_time, zero_padding


def frames_left(lengths: jax.Array | None, strides: int) -> jax.Array | None:
    """Return how many frames remain of each sequence behind strides: (B,), or None."""
    if lengths is None or strides == 1:
        return lengths
    return fsc.ops.output_length(lengths, 1, strides=strides, padding="same")


class SqueezeExcite(nn.Module):
    """Weigh the channels by what all real frames say of them: (B, L, C) -> (B, L, C).

    Args:
        reduction: C over the channels between the two dense layers.
    """

    reduction: int = 8

    @nn.compact
    def __call__(self, x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """Apply it; `lengths` (B,), or None."""
        C = x.shape[-1]
        squeezed = mean_over_time(x, lengths)
        hidden = nn.relu(nn.Dense(C // self.reduction, use_bias=False, name="squeeze")(squeezed))
        weights = nn.sigmoid(nn.Dense(C, use_bias=False, name="excite")(hidden))
        return x * weights[:, None]


class Block(nn.Module):
    """R separable convolutions with batch normalisation, and a pointwise convolution around them.

    Parameters, with C channels in and F out, without strides and squeeze-and-excitation:
    K*C + C*F + 2*F, R - 1 times K*F + F*F + 2*F, and C*F + 2*F for the residual path.

    Args:
        filters: F, output channels.
        kernel_size: K, taps.
        repeats: R, separable convolutions.
        strides: of the last of them, and of the residual path.
        dilation_rate: of all of them.
        residual: whether there is a residual path.
        reduction: of a squeeze-and-excitation in front of the sum, or None: there is none.
        dropout: share of the values that training drops behind each activation.
    """

    filters: int
    kernel_size: int
    repeats: int = 5
    strides: int = 1
    dilation_rate: int = 1
    residual: bool = True
    reduction: int | None = None
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: jax.Array, lengths: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Apply the block: (B, L, C) -> (B, ceil(L / strides), F).

        Args:
            x: floating point.
            lengths: int (B,), the real frames of each sequence, or None: all. What stands behind
                them changes no real frame; of the output, `frames_left` are real.
            train: whether to normalise by the batch, and to drop out.
        """
        y, x = x, zero_padding(x, lengths)
        for r in range(self.repeats):
            is_last = r == self.repeats - 1
            strides = self.strides if is_last else 1
            conv = fsc.SeparableConv1D(
                self.filters,
                self.kernel_size,
                strides,
                padding="same",
                dilation_rate=self.dilation_rate,
                use_bias=False,
                name=f"conv{r}",
            )
            y, lengths = conv(y, lengths), frames_left(lengths, strides)
            y = batch_norm(y, lengths, train=train, name=f"norm{r}")
            if not is_last:
                y = self._activate(y, train)
        if self.reduction is not None:
            y = SqueezeExcite(self.reduction, name="gate")(y, lengths)
        if self.residual:
            x = x if self.strides == 1 else x[:, :: self.strides]
            x = nn.Dense(self.filters, use_bias=False, name="residual")(x)
            y += batch_norm(x, lengths, train=train, name="residual_norm")
        return self._activate(y, train)

    def _activate(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))


class QuartzNet(nn.Module):
    """The network of table 1, to the logits of its last layer.

    Args:
        classes: of the logits; the letters and CTC's blank.
        copies: S, how often each of the five kinds of block stands: 1, 2 or 3 in the paper.
        repeats: R, separable convolutions in a block.
        filters: of the kinds of block.
        kernel_sizes: of the kinds of block.
        dropout: share of the values that training drops.
    """

    classes: int
    copies: int = 3
    repeats: int = 5
    filters: tuple[int, ...] = (256, 256, 512, 512, 512)
    kernel_sizes: tuple[int, ...] = (33, 39, 51, 63, 75)
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: jax.Array, lengths: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Return logits: (B, L, mel channels) -> (B, ceil(L / 2), classes).

        Args:
            x: floating point.
            lengths: int (B,), the real frames of each sequence, or None: all. Half of them, rounded
                up, remain (`frames_left(lengths, 2)`).
            train: whether to normalise by the batch, and to drop out.
        """

        def apply(block: Block, x: jax.Array) -> jax.Array:
            return block(x, lengths, train=train)

        drop = self.dropout
        first = Block(
            self.filters[0], 33, 1, strides=2, residual=False, dropout=drop, name="prologue"
        )
        x, lengths = apply(first, x), frames_left(lengths, 2)
        for b, (F, K) in enumerate(zip(self.filters, self.kernel_sizes, strict=True)):
            for copy in range(self.copies):
                x = apply(Block(F, K, self.repeats, dropout=drop, name=f"block{b}_{copy}"), x)
        F = self.filters[-1]
        last = Block(F, 87, 1, dilation_rate=2, residual=False, dropout=drop, name="epilogue")
        x = nn.Dense(2 * F, use_bias=False, name="wide")(apply(last, x))
        x = nn.relu(batch_norm(x, lengths, train=train, name="wide_norm"))
        return nn.Dense(self.classes, name="head")(x)
