"""LITE: three parallel convolutions beside fixed filters, then two separable convolutions.

Ismail-Fawaz et al., "LITE: Light Inception with boosTing tEchniques for Time Series Classification"
(DSAA 2023, arXiv 2409.02869), figure 1: one network of the ensemble LITETime, for series of one
channel; without its last layer it has 9,814 parameters.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import flax_sepconv as fsc
from examples.sequences import batch_norm, mean_over_time, zero_padding


def fixed_filters() -> np.ndarray:
    """Return the filters that are not trained as one kernel (96, 1, 17).

    They answer to rises and falls (2 to 64 taps) and to peaks (6 to 96 taps). Zeros around each
    make them one convolution, which is faster than 17 and gives the same.
    """
    rises = [np.where(np.arange(K) % 2, 1.0, -1.0) for K in (2, 4, 8, 16, 32, 64)]
    slopes = [(np.arange(1, K + 1) / K) ** 2 for K in (1, 2, 4, 8, 16)]
    bumps = [np.concatenate([slope, slope[::-1]]) for slope in slopes]
    peaks = [np.concatenate([-bump, 2 * bump, -bump]) for bump in bumps]
    filters = [*rises, *(-rise for rise in rises), *peaks]
    taps = max(map(len, filters))
    bank = np.zeros((taps, 1, len(filters)), np.float32)
    for index, values in enumerate(filters):
        start = (taps - 1) // 2 - (len(values) - 1) // 2  # "same" starts (K - 1) // 2 to the left
        bank[start : start + len(values), 0, index] = values
    return bank


class Lite(nn.Module):
    """One network of the ensemble.

    Args:
        classes: of the logits.
        filters: F, of each convolution that is trained.
        kernel_size: K, of the first of the parallel convolutions; the others have a half and a
            quarter, and so have the separable ones, at dilation rates 2 and 4.
    """

    classes: int
    filters: int = 32
    kernel_size: int = 40

    @nn.compact
    def __call__(
        self, x: jax.Array, lengths: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Return logits: (B, L, 1) -> (B, classes).

        Args:
            x: floating point, of one channel.
            lengths: int (B,), the real steps of each series, or None: all. What stands behind them
                does not change the logits.
            train: whether to normalise by the batch or by the running statistics.
        """
        F, K = self.filters, self.kernel_size

        def normalize(x: jax.Array, name: str) -> jax.Array:
            return nn.relu(batch_norm(x, lengths, train=train, name=name, momentum=0.99))

        x, bank = zero_padding(x, lengths), jnp.asarray(fixed_filters(), x.dtype)
        layout = ("NWC", "WIO", "NWC")
        fixed = lax.conv_general_dilated(x, bank, (1,), "SAME", dimension_numbers=layout)
        parallel = [
            nn.Conv(F, K >> i, use_bias=False, name=f"parallel{i}")(x)  # "SAME"
            for i in range(3)
        ]
        x = normalize(jnp.concatenate([*parallel, nn.relu(fixed)], axis=-1), "parallel_norm")
        for i, (taps, dilation_rate) in enumerate([(K // 2, 2), (K // 4, 4)]):
            layer = fsc.SeparableConv1D(
                F,
                taps,
                padding="same",
                dilation_rate=dilation_rate,
                use_bias=False,
                name=f"separable{i}",
            )
            x = normalize(layer(x, lengths), f"separable{i}_norm")
        return nn.Dense(self.classes, name="head")(mean_over_time(x, lengths))
