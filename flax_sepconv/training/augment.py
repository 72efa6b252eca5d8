"""Random changes of a batch of padded series, inside the jitted step."""

import jax
import jax.numpy as jnp

from flax_sepconv.training.config import AugmentConfig


def _resample(
    key: jax.Array, series: jax.Array, length: jax.Array, crop: float, stretch: float
) -> tuple[jax.Array, jax.Array]:
    """Cut one series (L, C) at both ends and resample what is left, linearly."""
    L = series.shape[0]
    cut_key, start_key, stretch_key = jax.random.split(key, 3)
    last = jnp.maximum(length - 1, 0).astype(jnp.float32)
    span = last * (1 - crop * jax.random.uniform(cut_key))
    start = (last - span) * jax.random.uniform(start_key)
    factor = jnp.exp(stretch * jax.random.uniform(stretch_key, minval=-1.0))
    new_length = jnp.clip(jnp.round((span + 1) * factor).astype(jnp.int32), 1, L)
    place = start + jnp.arange(L) * span / jnp.maximum(new_length - 1, 1)
    place = jnp.clip(place, 0, last)
    low = jnp.floor(place).astype(jnp.int32)
    high = jnp.minimum(low + 1, length - 1)
    part = (place - low)[:, None]
    return (1 - part) * series[low] + part * series[high], new_length


def augment(
    key: jax.Array, inputs: jax.Array, lengths: jax.Array, config: AugmentConfig
) -> tuple[jax.Array, jax.Array]:
    """Return changed series (B, L, C) and their lengths (B,); what lies behind an end is arbitrary.

    Nothing behind a series' end is read into what comes out before its end.
    """
    B, _, C = inputs.shape
    resample_key, scale_key, shift_key, noise_key = jax.random.split(key, 4)
    if config.crop or config.stretch:
        one = lambda k, x, n: _resample(k, x, n, config.crop, config.stretch)  # noqa: E731
        inputs, lengths = jax.vmap(one)(jax.random.split(resample_key, B), inputs, lengths)
    if config.scale:
        inputs *= jnp.exp(config.scale * jax.random.normal(scale_key, (B, 1, C)))
    if config.shift:
        inputs += config.shift * jax.random.normal(shift_key, (B, 1, C))
    if config.noise:
        inputs += config.noise * jax.random.normal(noise_key, inputs.shape)
    return inputs, lengths
