"""Conformer: its convolution module, and the block around it.

Gulati et al., "Conformer: Convolution-augmented Transformer for Speech Recognition" (arXiv
2005.08100): figure 2 (the convolution module), figures 3 and 4 (the other modules), equation 1
(the block), table 1 (the sizes: Conformer (S) has 16 blocks of 144 channels with 4 heads, and 32
taps).

Two things differ from the paper. The attention here knows no positions, where the paper's has
relative sinusoidal encodings. And with `causal` the convolution looks back only, as in streaming
recognisers; the paper's looks both ways.
"""

import flax.linen as nn
import jax

import flax_sepconv as fsc
from examples.sequences import batch_norm, real_steps, zero_padding


class ConvolutionModule(nn.Module):
    """Pointwise convolution, GLU, depthwise convolution, batch normalisation, swish, pointwise.

    Parameters, with C channels: 2*C (layer norm), 2*C*C + 2*C, K*C + C, 2*C (batch norm), C*C + C.

    Args:
        kernel_size: K, taps of the depthwise convolution.
        causal: whether it looks back only.
        dropout: share of the output's values that training drops.
        decode: whether sequences come in chunks, of any size, with the collection "cache" between
            them; it must be causal.
    """

    kernel_size: int = 32
    causal: bool = False
    dropout: float = 0.0
    decode: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, lengths: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Return what the block adds to x: (B, L, C) -> (B, L, C).

        Args:
            x: floating point.
            lengths: int (B,), the real steps of each sequence, or None: all. What stands behind
                them changes no real step.
            train: whether to normalise by the batch, and to drop out.
        """
        C = x.shape[-1]
        y = nn.LayerNorm(epsilon=1e-5, name="norm")(zero_padding(x, lengths))
        y = nn.glu(nn.Dense(2 * C, name="expand")(y))
        depthwise = fsc.DepthwiseConv1D(
            self.kernel_size,
            padding="causal" if self.causal else "same",
            decode=self.decode,
            name="depthwise",
        )
        y = batch_norm(
            depthwise(y, lengths), lengths, train=train, name="depthwise_norm", epsilon=1e-5
        )
        y = nn.Dense(C, name="project")(nn.swish(y))
        return nn.Dropout(self.dropout, deterministic=not train)(y)


class FeedForward(nn.Module):
    """Layer norm, four times the channels, swish, and back: (B, L, C) -> (B, L, C)."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Apply it to every step."""
        C = x.shape[-1]
        drop = nn.Dropout(self.dropout, deterministic=not train)
        y = nn.LayerNorm(epsilon=1e-5, name="norm")(x)
        y = drop(nn.swish(nn.Dense(4 * C, name="expand")(y)))
        return drop(nn.Dense(C, name="project")(y))


class SelfAttention(nn.Module):
    """Layer norm, and attention among the real steps: (B, L, C) -> (B, L, C)."""

    heads: int = 4
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: jax.Array, lengths: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Apply it; `lengths` (B,), or None."""
        C = x.shape[-1]
        y = nn.LayerNorm(epsilon=1e-5, name="norm")(x)
        parts = (*x.shape[:2], self.heads, C // self.heads)
        q, k, v = (nn.Dense(C, name=n)(y).reshape(parts) for n in ("query", "key", "value"))
        mask = real_steps(x, lengths)
        if mask is not None:
            mask = mask[:, None, None, :, 0]  # (B, heads, queries, keys)
        y = nn.dot_product_attention(q, k, v, mask=mask).reshape(x.shape)
        return nn.Dropout(self.dropout, deterministic=not train)(nn.Dense(C, name="out")(y))


class Block(nn.Module):
    """Half a feed-forward module, attention, convolution, another half, layer norm.

    Args:
        heads: of the attention; they divide the channels.
        kernel_size: of the convolution module.
        dropout: share of the values that training drops in each module.
    """

    heads: int = 4
    kernel_size: int = 32
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: jax.Array, lengths: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Apply the block: (B, L, C) -> (B, L, C).

        Args:
            x: floating point.
            lengths: int (B,), the real steps of each sequence, or None: all. What stands behind
                them changes no real step.
            train: whether to normalise by the batch, and to drop out.
        """
        drop = self.dropout
        x = zero_padding(x, lengths)
        x += 0.5 * FeedForward(drop, name="feed0")(x, train=train)
        x += SelfAttention(self.heads, drop, name="attention")(x, lengths, train=train)
        module = ConvolutionModule(self.kernel_size, dropout=drop, name="convolution")
        x += module(x, lengths, train=train)
        x += 0.5 * FeedForward(drop, name="feed1")(x, train=train)
        return nn.LayerNorm(epsilon=1e-5, name="norm")(x)


class Conformer(nn.Module):
    """Blocks between two dense layers, without the paper's subsampling in front.

    Args:
        classes: of the logits.
        width: C, channels of the blocks.
        layers: blocks.
        heads: of the attention.
        kernel_size: of the convolution modules.
        dropout: share of the values that training drops.
    """

    classes: int
    width: int = 144
    layers: int = 16
    heads: int = 4
    kernel_size: int = 32
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: jax.Array, lengths: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Return logits: (B, L, features) -> (B, L, classes); arguments as the block's."""
        x = nn.Dense(self.width, name="input")(zero_padding(x, lengths))
        for b in range(self.layers):
            block = Block(self.heads, self.kernel_size, self.dropout, name=f"block{b}")
            x = block(x, lengths, train=train)
        return nn.Dense(self.classes, name="head")(x)
