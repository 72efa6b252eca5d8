"""What the network remembers of a series that comes step by step.

A pooling window in progress has a maximum that its next step may change. So a step comes with
`settled`: whether it stays as it is. One that is not settled is answered as if the series ended
with it, and forgotten: the stages behind it remember settled steps alone.

All memories are in the collection "cache"; zeros are the memory of a series that has not begun.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def remember(variable: nn.Variable, new: Any, settled: jax.Array) -> None:
    """Put what is known after a step in the place of what was known before it, if it is settled."""
    variable.value = jax.tree.map(
        lambda after, before: jnp.where(settled, after, before), new, variable.value
    )


class RunningPool(nn.Module):
    """The maximum of each window of steps, and of the window in progress."""

    window: int

    @nn.compact
    def __call__(self, x: jax.Array, settled: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the maximum (B, 1, C) of the window that x (B, 1, C) is in, and if it is full."""
        peak = self.variable("cache", "peak", jnp.zeros_like, x)
        count = self.variable("cache", "count", jnp.zeros, (), jnp.int32)
        highest = jnp.where(count.value == 0, x, jnp.maximum(peak.value, x))
        full = settled & (count.value == self.window - 1)
        if not self.is_initializing():
            remember(peak, highest, settled)
            remember(count, (count.value + 1) % self.window, settled)
        return highest, full


class RunningDifference(nn.Module):
    """What a step is more than the one before; 0 at the first."""

    @nn.compact
    def __call__(self, x: jax.Array, settled: jax.Array) -> jax.Array:
        """Return the difference (B, 1, C) of the step x (B, 1, C)."""
        previous = self.variable("cache", "previous", jnp.zeros_like, x)
        has_begun = self.variable("cache", "has_begun", jnp.zeros, (), bool)
        difference = jnp.where(has_begun.value, x - previous.value, 0)
        if not self.is_initializing():
            remember(previous, x, settled)
            remember(has_begun, jnp.array(True), settled)
        return difference


class RunningSummary(nn.Module):
    """Mean, and if asked for maximum, over all steps so far, of values that are not negative."""

    has_peak: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, settled: jax.Array) -> jax.Array:
        """Return the means (B, C), maybe with the maxima (B, 2 * C), after the step x (B, 1, C)."""
        x = x[:, 0]
        total = self.variable("cache", "total", jnp.zeros_like, x)
        # What rounding took from the total (Kahan's summation): a stream may have no end.
        excess = self.variable("cache", "excess", jnp.zeros_like, x)
        count = self.variable("cache", "count", jnp.zeros, (), jnp.int32)
        part = x - excess.value
        new_total = total.value + part
        new_count = count.value + 1
        if not self.is_initializing():
            remember(excess, (new_total - total.value) - part, settled)
            remember(total, new_total, settled)
            remember(count, new_count, settled)
        mean = new_total / new_count
        if not self.has_peak:
            return mean
        peak = self.variable("cache", "peak", jnp.zeros_like, x)
        highest = jnp.maximum(peak.value, x)
        if not self.is_initializing():
            remember(peak, highest, settled)
        return jnp.concatenate([mean, highest], axis=-1)
