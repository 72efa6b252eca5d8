"""What networks do with padded batches: B sequences in L steps, of which the first ones are real.

Shapes: x (B, L, C); lengths int (B,), how many steps of each sequence are real, or None: all.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


def real_steps(x: jax.Array, lengths: jax.Array | None) -> jax.Array | None:
    """Return which steps are real, bool (B, L, 1), or None: all of them.

    >>> real_steps(jnp.ones((2, 3, 5)), jnp.array([1, 3]))[..., 0].tolist()
    [[True, False, False], [True, True, True]]
    """
    if lengths is None:
        return None
    return (jnp.arange(x.shape[1]) < lengths[:, None])[..., None]


def zero_padding(x: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """Replace what is not real by zeros, NaN too.

    >>> zero_padding(jnp.ones((2, 3, 5)), jnp.array([1, 3]))[..., 0].tolist()
    [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """
    mask = real_steps(x, lengths)
    return x if mask is None else jnp.where(mask, x, 0)


def mean_over_time(x: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """Return the mean of the real steps, (B, C); zeros where there are none.

    >>> mean_over_time(jnp.array([[[1.0], [3.0], [9.0]]]), jnp.array([2])).tolist()
    [[2.0]]
    """
    if lengths is None:
        return x.mean(axis=1)
    return zero_padding(x, lengths).sum(axis=1) / jnp.maximum(lengths, 1)[:, None].astype(x.dtype)


def batch_norm(
    x: jax.Array,
    lengths: jax.Array | None,
    *,
    train: bool,
    name: str,
    momentum: float = 0.9,
    epsilon: float = 1e-3,
) -> jax.Array:
    """Normalise channels by the batch's real steps, or by the running statistics.

    To be called in an `nn.compact` method, of which it becomes the submodule `name`.

    Args:
        x: (B, L, C).
        lengths: (B,), or None.
        train: whether by the batch, or by the running statistics in "batch_stats".
        name: of the submodule.
        momentum: of the running statistics.
        epsilon: added to the variance.
    """
    norm = nn.BatchNorm(momentum=momentum, epsilon=epsilon, name=name)
    return norm(x, use_running_average=not train, mask=real_steps(x, lengths))
