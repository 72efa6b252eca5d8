"""ConvNeXt in one dimension: its block, and the stack of blocks in the vocoder Vocos.

Liu et al., "A ConvNet for the 2020s" (arXiv 2201.03545), figure 4: the block, whose taps run over
time here. Siuzdak, "Vocos: Closing the gap between time-domain and Fourier-based neural vocoders
for high-quality audio synthesis" (arXiv 2306.00814): eight such blocks of 512 channels over the
frames of a mel spectrogram; with the layer that makes Fourier coefficients of them, 13.5 million
parameters.
"""

import flax.linen as nn
import jax

import flax_sepconv as fsc
from examples.sequences import zero_padding


class Block(nn.Module):
    """Depthwise convolution, layer norm, more channels and back, a scale for each channel, a sum.

    Parameters, with C channels: K*C + C, 2*C (layer norm), C*H + H, H*C + C, and C for the scale.

    Args:
        hidden: H, channels between the two pointwise layers; None: 4*C, as in ConvNeXt.
        kernel_size: K, taps.
        initial_scale: of each channel of what is added.
    """

    hidden: int | None = None
    kernel_size: int = 7
    initial_scale: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """Apply the block: (B, L, C) -> (B, L, C).

        Args:
            x: floating point.
            lengths: int (B,), the real steps of each sequence, or None: all. What stands behind
                them changes no real step.
        """
        C = x.shape[-1]
        x = zero_padding(x, lengths)
        y = fsc.DepthwiseConv1D(self.kernel_size, padding="same", name="depthwise")(x, lengths)
        y = nn.LayerNorm(name="norm")(y)
        y = nn.gelu(nn.Dense(self.hidden or 4 * C, name="expand")(y), approximate=False)
        y = nn.Dense(C, name="project")(y)
        scale = self.param("scale", nn.initializers.constant(self.initial_scale), (C,))
        return x + scale * y


class Backbone(nn.Module):
    """The stack of Vocos: a convolution, layer norm, blocks, layer norm.

    Args:
        width: C, channels of the blocks.
        hidden: channels inside of the blocks.
        layers: blocks.
        kernel_size: of the convolution and the blocks.
    """

    width: int = 512
    hidden: int = 1536
    layers: int = 8
    kernel_size: int = 7

    @nn.compact
    def __call__(self, x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """Return features: (B, L, mel channels) -> (B, L, C); arguments as the block's."""
        x = nn.Conv(self.width, self.kernel_size, name="embed")(zero_padding(x, lengths))
        x = nn.LayerNorm(name="norm")(x)
        for b in range(self.layers):
            block = Block(self.hidden, self.kernel_size, 1 / self.layers, name=f"block{b}")
            x = block(x, lengths)
        return nn.LayerNorm(name="last_norm")(x)
