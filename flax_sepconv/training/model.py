"""A small residual network of separable convolutions for series of any length."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import flax_sepconv as fsc
from flax_sepconv.ops.lowerings import Implementation
from flax_sepconv.training.config import ModelConfig
from flax_sepconv.training.filters import steps_and_peaks
from flax_sepconv.training.running import (
    RunningDifference,
    RunningPool,
    RunningSummary,
    remember,
)


class _Norm(nn.Module):
    """Batch normalisation whose statistics see the series, not what pads them."""

    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype)
        return norm(x, mask=mask)


class SeparableResNet(nn.Module):
    """Classify series by residual blocks of separable convolutions and masked pooling.

    Both kernels of each convolution carry a max-norm constraint: the depthwise one over the taps
    of a channel (`axis=0`), the pointwise one over all inputs of a filter (`axis=[0, 1]`).

    With `decode`, and padding "causal", each call takes the next step of every series; the logits
    are those of the series that end there. The collection "cache" holds what is remembered.
    """

    classes: int
    config: ModelConfig
    implementation: Implementation | None = None
    decode: bool = False

    def _conv(
        self,
        x: jax.Array,
        ends: jax.Array,
        kernel_size: int,
        *,
        depth_multiplier: int = 1,
        dilation_rate: int = 1,
    ) -> jax.Array:
        config = self.config
        regularizer = fsc.regularizers.L2(config.l2) if config.l2 else None
        layer = fsc.SeparableConv1D(
            config.width,
            kernel_size,
            padding=config.padding,
            dilation_rate=dilation_rate,
            depth_multiplier=depth_multiplier,
            use_bias=False,  # a normalisation or the residual path follows
            depthwise_initializer="he_uniform" if depth_multiplier == 1 else None,
            depthwise_regularizer=regularizer,
            pointwise_regularizer=regularizer,
            depthwise_constraint=fsc.constraints.MaxNorm(config.depthwise_max_norm, axis=0),
            pointwise_constraint=fsc.constraints.MaxNorm(config.pointwise_max_norm, axis=[0, 1]),
            dtype=config.dtype,
            implementation=self.implementation,
        )
        if not self.decode:
            return layer(x, ends)
        # Not the layer's own `decode`: a step that is not settled must leave its state alone.
        kernel_shape = (kernel_size, x.shape[-1], depth_multiplier)
        return self._next(layer, f"{layer.name}_state", x, ends, kernel_shape, dilation_rate)

    def _next(
        self,
        convolve: Callable[..., Any],
        name: str,
        x: jax.Array,
        settled: jax.Array,
        kernel_shape: tuple[int, int, int],
        dilation_rate: int = 1,
    ) -> jax.Array:
        """Convolve the step x (B, 1, C) and those before it, which the cache has by this name."""
        fresh = functools.partial(
            fsc.ops.initial_state,
            x.shape,
            kernel_shape,
            dilation_rate=dilation_rate,
            dtype=self.config.dtype,
        )
        state = self.variable("cache", name, fresh)
        y: jax.Array
        y, after = convolve(x, initial_state=state.value, return_state=True)
        if not self.is_initializing():
            remember(state, after, settled)
        return y

    def _with_differences(self, x: jax.Array, ends: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Return (B, L, 2 * C): x (B, L, C) and what each step is more than the one before it."""
        x = masked(x, mask)
        difference = RunningDifference()(x, ends) if self.decode else x - _before(x)
        return jnp.concatenate([x, self._details(difference)], axis=-1)

    def _details(self, x: jax.Array) -> jax.Array:
        """Return details on a scale on which small ones count beside large ones, if asked for."""
        if not self.config.detail_gain:
            return x
        x = self.config.detail_gain * x
        if self.implementation == "grouped_conv":  # for converters: not all have an arcsinh
            return jnp.sign(x) * jnp.log(jnp.abs(x) + jnp.sqrt(x * x + 1))
        return jnp.arcsinh(x)

    def _stem(self, x: jax.Array, ends: jax.Array) -> jax.Array:
        """Sum parallel convolutions: one separable convolution with kernels of several lengths."""
        config = self.config
        longest = config.stem_kernel_size or config.kernel_size
        outputs = [
            self._conv(x, ends, (longest >> i) | 1, depth_multiplier=config.stem_multiplier)
            for i in range(config.stem_branches)
        ]
        return functools.reduce(jnp.add, outputs)

    def _steps_and_peaks(
        self, x: jax.Array, ends: jax.Array, mask: jax.Array | None, train: bool
    ) -> jax.Array:
        """Return (B, L, width): what fixed filters answer, rising and falling apart.

        The weights begin with zeros, as if there were no filters.
        """
        config, C = self.config, x.shape[-1]
        kernel = np.tile(steps_and_peaks(config.fixed_filters, config.padding), (1, C, 1))
        convolve = functools.partial(
            fsc.ops.depthwise_conv1d,
            depthwise_kernel=jnp.asarray(kernel, config.dtype),
            padding=config.padding,
            implementation=self.implementation,
        )
        x = masked(x, mask).astype(config.dtype)
        if self.decode:
            y = self._next(convolve, "steps_and_peaks_state", x, ends, kernel.shape)
        else:
            y = convolve(x)
        y = _Norm(config.dtype)(self._details(y), mask, train=train)
        y = jnp.concatenate([nn.relu(y), nn.relu(-y)], axis=-1)
        return nn.Dense(
            config.width,
            use_bias=False,
            kernel_init=nn.initializers.zeros,
            dtype=config.dtype,
            name="steps_and_peaks",
        )(y)

    def _block(
        self, x: jax.Array, ends: jax.Array, mask: jax.Array | None, train: bool, rate: int
    ) -> jax.Array:
        config = self.config
        y = nn.relu(_Norm(config.dtype)(x, mask, train=train))
        y = self._conv(y, ends, config.kernel_size, dilation_rate=rate)
        y = nn.relu(_Norm(config.dtype)(y, mask, train=train))
        y = nn.Dropout(config.dropout, deterministic=not train)(y)
        return x + self._conv(y, ends, config.kernel_size, dilation_rate=rate)

    @nn.compact
    def __call__(
        self, inputs: jax.Array, lengths: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Return logits (B, classes).

        Args:
          inputs: (B, L, C); with `decode` (B, 1, C), the next step.
          lengths: (B,), how many steps of each series count; with `decode` None.
          train: whether to drop out, and to normalise by the batch.
        """
        config = self.config
        if self.decode != (lengths is None) or (self.decode and inputs.shape[1] != 1):
            raise ValueError("series need their lengths; with decode, one step and no lengths")
        # Of whole series their ends; of a step whether it is settled.
        ends = jnp.array(True) if lengths is None else lengths
        mask = None if self.decode else mask_of(inputs, ends)
        block_of = SeparableResNet._block
        if config.remat and train:
            block_of = nn.remat(block_of, static_argnums=(4, 5))
        x = inputs
        if config.differences:
            x = self._with_differences(x, ends, mask)
            x = _Norm(config.dtype)(x, mask, train=train)
        x = self._stem(x, ends)
        if config.fixed_filters:
            x = x + self._steps_and_peaks(inputs, ends, mask, train)
        for block in range(config.blocks):
            if block and config.pool > 1:
                if self.decode:
                    x, ends = RunningPool(config.pool)(x, ends)
                else:
                    x, ends = _max_pool(x, ends, config.pool)
                    mask = mask_of(x, ends)
            x = block_of(self, x, ends, mask, train, config.dilation**block)
        x = nn.relu(_Norm(config.dtype)(x, mask, train=train)).astype(jnp.float32)
        has_peak = config.summary == "mean_max"
        features = (
            RunningSummary(has_peak)(x, ends) if mask is None else _summary(x, mask, has_peak)
        )
        features = nn.Dropout(config.dropout, deterministic=not train)(features)
        return nn.Dense(self.classes, name="head")(features)


def masked(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Return x, and zeros of its own type, which converters need, where a mask is not."""
    return x if mask is None else jnp.where(mask, x, jnp.zeros((), x.dtype))


def _before(x: jax.Array) -> jax.Array:
    """Return the step before each of (B, L, C); before the first one stands itself."""
    first, but_last = (lax.slice_in_dim(x, 0, steps, axis=1) for steps in (1, x.shape[1] - 1))
    return lax.concatenate([first, but_last], 1)


def mask_of(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Return which steps of (B, L, C) are before the ends of their series: (B, L, 1)."""
    return jnp.expand_dims(lax.iota(jnp.int32, x.shape[1]), (0, 2)) < lengths[:, None, None]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _largest(x: jax.Array, axis: int) -> jax.Array:
    """Return the maximum along an axis, with a gradient that no rounding takes away.

    That of `max` goes to what equals the maximum. XLA computes values anew for that comparison,
    on CPU with other rounding where it fuses them with other operations, and finds none.
    """
    return x.max(axis)


@_largest.defjvp
def _largest_jvp(axis: int, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    place = primals[0].argmax(axis, keepdims=True)
    steps = jnp.arange(primals[0].shape[axis]).reshape(-1, *(1,) * (primals[0].ndim - axis - 1))
    value, tangent = (jnp.where(steps == place, x, 0).sum(axis) for x in (*primals, *tangents))
    return value, tangent


def _max_pool(x: jax.Array, lengths: jax.Array, window: int) -> tuple[jax.Array, jax.Array]:
    """Take the maximum of each window of (B, L, C), counted from the start; count the windows."""
    B, L, C = x.shape
    steps = -(-L // window)  # spelled out, so that exports with an open batch and length know them
    if steps * window != L:
        x = jnp.pad(x, ((0, 0), (0, steps * window - L), (0, 0)))
    x = jnp.where(mask_of(x, lengths), x, -jnp.inf)
    peak = _largest(x.reshape(B, steps, window, C), 2)
    windows = lax.div(lengths + (window - 1), window)
    return masked(peak, mask_of(peak, windows)), windows


def _summary(x: jax.Array, mask: jax.Array, has_peak: bool) -> jax.Array:
    """Return the means over the steps of (B, L, C), which is not negative, and maybe the maxima."""
    x = masked(x, mask)
    mean = x.sum(1) / jnp.maximum(mask.sum(1), 1)
    return jnp.concatenate([mean, _largest(x, 1)], axis=-1) if has_peak else mean
