"""Conv-TasNet: voices in one recording, apart, by masks over learned frames of the waveform.

Luo and Mesgarani, "Conv-TasNet: Surpassing Ideal Time-Frequency Magnitude Masking for Speech
Separation" (arXiv 1809.07454), figure 1 (the network and its block) and table I, whose letters are
given below. The network that looks both ways, of the sizes here, has 5.1 million parameters.

With `causal` the convolutions look back only, and the normalisation is the paper's cumulative one;
then the separator takes its frames in chunks too. The last block's residual layer adds to nothing:
it is counted, and its gradient is zero.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

import flax_sepconv as fsc
from examples.sequences import real_steps, zero_padding


class Norm(nn.Module):
    """Normalise over channels and time, with a scale and a bias for each channel: (B, T, C).

    Mean and variance are those of all real frames ("global"), or with `causal` at each frame those
    of the frames up to it ("cumulative").

    Args:
        causal: whether it looks back only.
        decode: whether sequences come in chunks, whose sums the collection "cache" keeps.
        epsilon: added to the variance.
    """

    causal: bool = False
    decode: bool = False
    epsilon: float = 1e-8

    @nn.compact
    def __call__(self, x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """Apply it; `lengths` (B,), or None."""
        C = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (C,))
        bias = self.param("bias", nn.initializers.zeros, (C,))
        if self.causal:
            mean, variance = self._cumulative(x)
        else:
            axes, mask = (1, 2), real_steps(x, lengths)
            if mask is not None:
                mask = jnp.broadcast_to(mask, x.shape)
            mean = x.mean(axes, keepdims=True, where=mask)
            variance = jnp.square(x - mean).mean(axes, keepdims=True, where=mask)
        return (x - mean) * jax.lax.rsqrt(variance + self.epsilon) * scale + bias

    def _cumulative(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return mean and variance up to each frame, (B, T, 1)."""
        B, T, C = x.shape
        sums = jnp.cumsum(jnp.stack([x.sum(-1), jnp.square(x).sum(-1)]), axis=2)  # (2, B, T)
        frames = jnp.arange(1, T + 1)
        if self.decode:
            before = self.variable("cache", "sums", jnp.zeros, (2, B), x.dtype)
            count = self.variable("cache", "frames", jnp.zeros, (), jnp.int32)
            sums, frames = sums + before.value[..., None], frames + count.value
            if not self.is_initializing():
                before.value, count.value = sums[..., -1], frames[-1]
        mean, square = (sums / (frames * C))[..., None]
        return mean, jnp.maximum(square - jnp.square(mean), 0)


class Block(nn.Module):
    """One dilated convolution of the separator; table I's letters are in brackets.

    Parameters, with B channels in: B*H + H, 1 (PReLU), 2*H (norm), P*H + H, 1, 2*H, H*B + B for the
    residual and H*Sc + Sc for the skip connection.

    Args:
        hidden: channels of the convolution (H).
        skip: channels of the skip connection (Sc).
        kernel_size: taps (P).
        dilation_rate: frames between taps.
        causal: whether it looks back only.
        decode: whether sequences come in chunks.
    """

    hidden: int = 512
    skip: int = 128
    kernel_size: int = 3
    dilation_rate: int = 1
    causal: bool = False
    decode: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, lengths: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Return the input of the next block and the skip connection: (B, T, B'), (B, T, Sc).

        Args:
            x: (B, T, B'), floating point.
            lengths: int (B,), the real frames of each sequence, or None: all. What stands behind
                them changes no real frame.
        """

        def activate(y: jax.Array, name: str) -> jax.Array:
            y = nn.PReLU(negative_slope_init=0.25, name=f"{name}_prelu")(y)
            return Norm(self.causal, self.decode, name=f"{name}_norm")(y, lengths)

        x = zero_padding(x, lengths)
        y = activate(nn.Dense(self.hidden, name="expand")(x), "expand")
        depthwise = fsc.DepthwiseConv1D(
            self.kernel_size,
            padding="causal" if self.causal else "same",
            dilation_rate=self.dilation_rate,
            decode=self.decode,
            name="depthwise",
        )
        y = activate(depthwise(y, lengths), "depthwise")
        return x + nn.Dense(x.shape[-1], name="residual")(y), nn.Dense(self.skip, name="skip")(y)


class Separator(nn.Module):
    """Masks for frames: R times X blocks whose dilation doubles; table I's letters are in brackets.

    Args:
        sources: voices (C).
        bottleneck: channels between blocks (B).
        hidden: channels inside of blocks (H).
        skip: channels of skip connections (Sc).
        kernel_size: taps (P).
        blocks: X, with dilation rates 1, 2, 4, ...
        repeats: R.
        causal: whether it looks back only.
        decode: whether frames come in chunks, of any size, with the collection "cache" between
            them; it must be causal.
    """

    sources: int = 2
    bottleneck: int = 128
    hidden: int = 512
    skip: int = 128
    kernel_size: int = 3
    blocks: int = 8
    repeats: int = 3
    causal: bool = False
    decode: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """Return masks between 0 and 1: (B, T, N) -> (B, T, sources, N).

        Args:
            x: floating point, frames of N numbers.
            lengths: int (B,), the real frames of each sequence, or None: all. What stands behind
                them changes no real frame. Not with `decode`.
        """
        if self.decode and (lengths is not None or not self.causal):
            raise ValueError("decode: the separator must be causal, and takes no lengths")
        N = x.shape[-1]
        y = Norm(self.causal, self.decode, name="norm")(zero_padding(x, lengths), lengths)
        y = nn.Dense(self.bottleneck, name="bottleneck")(y)
        total = jnp.zeros((), x.dtype)
        for r in range(self.repeats):
            for b in range(self.blocks):
                block = Block(
                    self.hidden,
                    self.skip,
                    self.kernel_size,
                    2**b,
                    self.causal,
                    self.decode,
                    name=f"block{r}_{b}",
                )
                y, skip = block(y, lengths)
                total += skip
        total = nn.PReLU(negative_slope_init=0.25, name="masks_prelu")(total)
        masks = nn.Dense(self.sources * N, name="masks")(total)
        return nn.sigmoid(masks).reshape(*x.shape[:2], self.sources, N)


class ConvTasNet(nn.Module):
    """The whole network: frames of the waveform, masks over them, waveforms.

    Args:
        separator: of the frames.
        filters: numbers of a frame (N).
        window: samples of a frame (L), even; frames overlap by half.
    """

    separator: Separator = Separator()
    filters: int = 512
    window: int = 16

    @nn.compact
    def __call__(self, x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """Return the voices: (B, samples) -> (B, sources, samples).

        Args:
            x: floating point.
            lengths: int (B,), the real samples of each recording, or None: all. What stands behind
                them changes no real sample.
        """
        B, samples = x.shape
        hop = self.window // 2
        x = zero_padding(x[..., None], lengths)[..., 0]
        parts = jnp.pad(x, ((0, 0), (hop, hop + -samples % hop))).reshape(B, -1, hop)
        frames = jnp.concatenate([parts[:, :-1], parts[:, 1:]], axis=-1)  # (B, T, window)
        if lengths is not None:
            lengths = -(-lengths // hop) + 1
        frames = nn.Dense(self.filters, use_bias=False, name="encoder")(frames)
        masked = self.separator(frames, lengths) * frames[:, :, None]
        waves = nn.Dense(self.window, use_bias=False, name="decoder")(masked)
        waves = waves[:, 1:, :, :hop] + waves[:, :-1, :, hop:]  # add what overlaps
        return waves.swapaxes(1, 2).reshape(B, -1, waves.shape[1] * hop)[..., :samples]
