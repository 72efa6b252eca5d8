"""Mamba: the short convolution in front of its selective state space.

Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (arXiv 2312.00752),
section 3.4 and figure 3: a causal depthwise convolution of 4 taps and SiLU, over twice the channels
of the model. Language models that came after it (Mamba-2, gated delta networks) have the same one.
The rest of the block, the projections and the state space, is not here.
"""

import flax.linen as nn
import jax

import flax_sepconv as fsc


class ShortConvolution(nn.Module):
    """Causal depthwise convolution and SiLU: (B, L, C) -> (B, L, C).

    Parameters: K*C + C.

    Args:
        kernel_size: K, taps.
        decode: whether sequences come in chunks, of any size: a prompt, then token by token. The
            last K - 1 steps are carried from call to call in the collection "cache".
    """

    kernel_size: int = 4
    decode: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        lengths: jax.Array | None = None,
        *,
        segment_ids: jax.Array | None = None,
        reset: jax.Array | None = None,
    ) -> jax.Array:
        """Apply it.

        Args:
            x: floating point.
            lengths: int (B,), the real steps of each sequence (of each chunk, with `decode`), or
                None: all. What stands behind them changes no real step.
            segment_ids: int (B, L), or None: of documents packed into rows; no tap reaches from one
                into the next.
            reset: bool (B,), with `decode`: which sequences begin anew with this chunk.
        """
        layer = fsc.DepthwiseConv1D(
            self.kernel_size,
            padding="causal",
            activation="silu",
            decode=self.decode,
            name="depthwise",
        )
        return layer(x, lengths, segment_ids=segment_ids, reset=reset)
