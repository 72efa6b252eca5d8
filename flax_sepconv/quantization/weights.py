"""The weights of a layer in whole steps of their scales: rounded anew in each call, or kept so."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flax_sepconv.ops.quantized.scales import GREATEST, inverse, product, rounded, steps_of
from flax_sepconv.quantization.config import Int8
from flax_sepconv.quantization.observing import FIRST_STEP, HIDDEN, Memory, X, observed_names
from flax_sepconv.quantization.rounding import integers, trained_scale, weight_scale
from flax_sepconv.spec import BIAS, DEPTHWISE_KERNEL, POINTWISE_KERNEL

SCALES = {DEPTHWISE_KERNEL: "depthwise_scale", POINTWISE_KERNEL: "pointwise_scale"}
# What belongs to integers, and the step sizes that are parameters where they are learned.
STEPS = tuple(f"{name}_scale" for name in ("depthwise", "pointwise", "x", "hidden", "output"))
# A bias of 8-bit products leaves room for their sum in 32 bits.
GREATEST_BIAS = 2.0**30
_LIMITS = (-GREATEST, GREATEST)


def is_converted(weights: Mapping[str, Any]) -> bool:
    """Tell whether the weights of a layer are integers."""
    return bool(weights[DEPTHWISE_KERNEL].dtype == jnp.int8)


def refuse_converted(layer: str, weights: Mapping[str, Any]) -> None:
    """Raise ValueError where a layer without quantization is given integers."""
    if is_converted(weights):
        raise ValueError(
            f"{layer} has weights of int8 and quantization=None: give it the Int8 with which they "
            "were made, or use the model that flax_sepconv.quantization.quantize returned"
        )


def check_finite(name: str, weight: Any) -> None:
    """Raise ValueError where a weight has NaN or infinity in it, which no integer stands for."""
    array = np.asarray(weight)
    if not np.isfinite(array).all():
        wrong = array[~np.isfinite(array)].flat[0]
        raise ValueError(f"{name} must be finite to be converted, got {wrong}")


@dataclasses.dataclass(frozen=True)
class Whole:
    """Weights in whole steps, which are float32.

    Attributes:
        kernels: by name.
        scales: by the name of the kernel: (C, M), or (F,), or ().
        bias: real numbers, or None.
        steps_of_bias: or steps of it.
        is_kept: whether they are kept as integers.
    """

    kernels: dict[str, jax.Array]
    scales: dict[str, jax.Array]
    bias: jax.Array | None
    steps_of_bias: jax.Array | None = None
    is_kept: bool = False

    @classmethod
    def rounded(
        cls,
        weights: Mapping[str, jax.Array],
        config: Int8,
        memory: Memory,
        warming: jax.Array | None = None,
    ) -> "Whole":
        """Round real weights, for gradients to pass; while `warming` they stay as they are."""
        kernels, scales = {}, {}
        for name, scale_name in SCALES.items():
            if name not in weights:
                continue
            kernel, bounds = weights[name].astype(jnp.float32), None
            if not config.learned or memory.calibrates:
                scale = lax.stop_gradient(weight_scale(name, kernel, config))
            if config.learned:
                if memory.calibrates:
                    memory.learned[scale_name] = scale
                step = memory.learned[scale_name]
                scale, bounds = trained_scale(step, kernel.size // step.size), _LIMITS
            kernels[name] = integers(kernel, scale, bounds, warming)
            scales[name] = scale
        bias = weights.get(BIAS)
        return cls(kernels, scales, None if bias is None else bias.astype(jnp.float32))

    @classmethod
    def kept(cls, weights: Mapping[str, jax.Array], config: Int8, memory: Memory) -> "Whole":
        """Return integers that `converted` made.

        Raises:
            ValueError: what belongs to them is not there, or they were made for other activations.
        """
        names = [name for name in SCALES if name in weights]
        observed = observed_names(config, POINTWISE_KERNEL in weights)
        wanted = [SCALES[name] for name in names]
        wanted += [f"{name}_{what}" for name in observed for what in ("scale", "zero_point")]
        missing = [name for name in wanted if name not in memory.kept]
        if missing:
            raise ValueError(
                f"{memory.layer} has weights of int8, and not {', '.join(missing)}: give it all "
                f"that flax_sepconv.quantization.convert returned, and the Int8 from before, not "
                f"{config}"
            )
        kernels = {name: weights[name].astype(jnp.float32) for name in names}
        scales = {name: memory.kept[SCALES[name]] for name in names}
        bias = weights.get(BIAS)
        if bias is None:
            return cls(kernels, scales, None, is_kept=True)
        is_steps = config.activations == "static"
        if jnp.issubdtype(bias.dtype, jnp.integer) != is_steps:
            raise ValueError(
                f"{memory.layer} has weights of int8 that were converted with other activations "
                f"than {config.activations!r}: its bias is of {bias.dtype}"
            )
        bias = bias.astype(jnp.float32)
        real, steps = (None, bias) if is_steps else (bias, None)
        return cls(kernels, scales, real, steps, is_kept=True)

    def real(self, weights: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Return what the weights stand for, in the order of those given."""
        return {
            name: self.kernels[name] * self.scales[name] if name in SCALES else weights[name]
            for name in weights
        }


def converted(
    weights: Mapping[str, jax.Array], config: Int8, memory: Memory
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Make integers of the weights of a layer.

    Returns:
        The weights: kernels of int8, and a bias of int32 where the scale of its steps is known,
        that is with static activations; and what the layer keeps with them.

    Raises:
        ValueError: a range was never observed.
    """
    whole = Whole.rounded(weights, config, memory)
    made = {name: kernel.astype(jnp.int8) for name, kernel in whole.kernels.items()}
    kept = {SCALES[name]: scale for name, scale in whole.scales.items()}
    for name in observed_names(config, POINTWISE_KERNEL in weights):
        steps = memory.steps(name, config)
        kept[f"{name}_scale"] = steps.scale
        kept[f"{name}_zero_point"] = steps.zero_point.astype(jnp.int32)
    if whole.bias is not None:
        made[BIAS] = weights[BIAS]
        if config.activations == "static":
            last, before = list(whole.scales)[-1], HIDDEN if POINTWISE_KERNEL in weights else X
            own, before_scale = whole.scales[last], kept[f"{before}_scale"]
            # Beside a bias of more steps than there are, weights so small count for nothing.
            most = jnp.abs(whole.bias) * inverse(before_scale) * (1 / GREATEST_BIAS)
            own = jnp.maximum(own, most.reshape(own.shape) if own.ndim else most.max())
            made[last] = integers(weights[last].astype(jnp.float32), own, _LIMITS).astype(jnp.int8)
            kept[SCALES[last]] = own
            scale = product(before_scale, own.reshape(-1))
            bias = jnp.clip(rounded(steps_of(whole.bias, scale)), -GREATEST_BIAS, GREATEST_BIAS)
            made[BIAS] = bias.astype(jnp.int32)
    return {name: made[name] for name in weights}, kept


def learned_names(weights: Mapping[str, Any], config: Int8) -> tuple[str, ...]:
    """Return the names of the step sizes that are parameters of a layer."""
    if not config.learned:
        return ()
    kernels = (scale for name, scale in SCALES.items() if name in weights)
    observed = observed_names(config, POINTWISE_KERNEL in weights)
    return (*kernels, *(f"{name}_scale" for name in observed))


def learned_steps(weights: Mapping[str, jax.Array], config: Int8) -> dict[str, jax.Array]:
    """Return the step sizes that are parameters of a layer, by name, as they are at first."""
    if not config.learned:
        return {}
    steps = {
        SCALES[name]: weight_scale(name, weights[name].astype(jnp.float32), config)
        for name in SCALES
        if name in weights
    }
    for name in observed_names(config, POINTWISE_KERNEL in weights):
        steps[f"{name}_scale"] = jnp.full((), FIRST_STEP, jnp.float32)
    return steps
