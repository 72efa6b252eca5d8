"""A small residual network of separable convolutions for series of any length."""

import flax.linen as nn
import jax
import jax.numpy as jnp

import flax_sepconv as fsc
from flax_sepconv.training.config import ModelConfig


class _Norm(nn.Module):
    """Batch normalisation whose statistics see the series, not what pads them."""

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, *, train: bool) -> jax.Array:
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9)
        return norm(x, mask=mask)


class SeparableResNet(nn.Module):
    """Classify series by residual blocks of separable convolutions and masked pooling.

    Both kernels of each convolution carry a max-norm constraint: the depthwise one over the taps
    of a channel (`axis=0`), the pointwise one over all inputs of a filter (`axis=[0, 1]`).
    """

    classes: int
    config: ModelConfig
    implementation: str | None = None

    def _conv(self, x: jax.Array, mask: jax.Array, depth_multiplier: int = 1) -> jax.Array:
        config = self.config
        regularizer = fsc.regularizers.L2(config.l2) if config.l2 else None
        return fsc.SeparableConv1D(
            config.width,
            config.kernel_size,
            padding="same",
            depth_multiplier=depth_multiplier,
            use_bias=False,  # a normalisation or the residual path follows
            depthwise_initializer="he_uniform" if depth_multiplier == 1 else None,
            depthwise_regularizer=regularizer,
            pointwise_regularizer=regularizer,
            depthwise_constraint=fsc.constraints.MaxNorm(config.depthwise_max_norm, axis=0),
            pointwise_constraint=fsc.constraints.MaxNorm(config.pointwise_max_norm, axis=[0, 1]),
            implementation=self.implementation,
        )(jnp.where(mask, x, 0))

    @nn.compact
    def __call__(self, inputs: jax.Array, lengths: jax.Array, *, train: bool = False) -> jax.Array:
        """Return logits (B, classes) for `inputs` (B, L, C) of which `lengths` (B,) steps count."""
        config = self.config
        mask = (jnp.arange(inputs.shape[1]) < lengths[:, None])[..., None]
        x = self._conv(inputs, mask, config.stem_multiplier)
        for block in range(config.blocks):
            if block and config.pool > 1:
                x, mask = _max_pool(x, mask, config.pool)
            y = nn.relu(_Norm()(x, mask, train=train))
            y = self._conv(y, mask)
            y = nn.relu(_Norm()(y, mask, train=train))
            y = nn.Dropout(config.dropout, deterministic=not train)(y)
            x = x + self._conv(y, mask)
        x = nn.relu(_Norm()(x, mask, train=train))
        count = jnp.maximum(mask.sum(1), 1)
        mean = jnp.where(mask, x, 0).sum(1) / count
        peak = jnp.where(mask, x, 0).max(1)  # x >= 0 after the relu
        features = jnp.concatenate([mean, peak], axis=-1)
        features = nn.Dropout(config.dropout, deterministic=not train)(features)
        return nn.Dense(self.classes, name="head")(features)


def _max_pool(x: jax.Array, mask: jax.Array, window: int) -> tuple[jax.Array, jax.Array]:
    """Take the maximum of each window of (B, L, C), counted from the start; drop empty windows."""
    shape = ((0, 0), (0, -x.shape[1] % window), (0, 0))
    x, mask = (jnp.pad(v, shape) for v in (x, mask))
    split = lambda v: v.reshape(v.shape[0], -1, window, v.shape[-1])  # noqa: E731
    mask_out = split(mask).any(2)
    peak = jnp.where(split(mask), split(x), -jnp.inf).max(2)
    return jnp.where(mask_out, peak, 0), mask_out
