"""Ranges of activations: what is kept of them between calls, and how a call changes it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from flax_sepconv.ops.sharding import AxisName, size_inside
from flax_sepconv.quantization.config import Int8
from flax_sepconv.quantization.rounding import Steps, steps_of_range, trained_scale

X, HIDDEN, OUTPUT = "x", "hidden", "output"
CALLS = "calls"
# The step size of an activation that is to be learned, before `calibrate` sets it from data.
FIRST_STEP = 1 / 32


def observed_names(config: Int8, has_pointwise: bool) -> tuple[str, ...]:
    """Return the activations of a layer whose ranges are observed."""
    inner = (X, HIDDEN) if has_pointwise else (X,)
    return (inner if config.activations == "static" else ()) + ((OUTPUT,) if config.output else ())


def initial_ranges(config: Int8, has_pointwise: bool) -> dict[str, jax.Array]:
    """Return what a layer keeps before its first call: ranges of nothing, and that count."""
    names = observed_names(config, has_pointwise)
    kept = {}
    for name in names:
        kept[f"{name}_low"] = jnp.full((), jnp.inf, jnp.float32)
        kept[f"{name}_high"] = jnp.full((), -jnp.inf, jnp.float32)
    return kept | ({CALLS: jnp.zeros((), jnp.int32)} if names or config.warmup else {})


@dataclasses.dataclass
class Memory:
    """What a layer keeps between its calls.

    Attributes:
        layer: its name, for errors.
        kept: by name: "x_low", "x_high", ... and "calls"; of a converted layer the scales and the
            zero points, "x_scale", "x_zero_point", ...
        learned: step sizes that are parameters, by name: "x_scale", ...
        observes: whether this call changes the ranges.
        calibrates: whether it rounds nothing, and sets the step sizes to those of the ranges.
    """

    layer: str
    kept: dict[str, jax.Array]
    learned: dict[str, jax.Array]
    observes: bool
    calibrates: bool = False

    def warming(self, config: Int8) -> jax.Array | None:
        """Return whether this call is one of the first, which round nothing; None: no."""
        if self.calibrates:
            return jnp.asarray(True)
        return self.kept[CALLS] < config.warmup if config.warmup else None

    def observe(self, name: str, x: jax.Array, config: Int8, axis_name: AxisName | None) -> None:
        """Let the range of an activation know the values of this call."""
        x = lax.stop_gradient(x)
        low, high = jnp.min(x, initial=0), jnp.max(x, initial=0)
        if axis_name is not None and size_inside(axis_name) is not None:
            low, high = lax.pmin(low, axis_name), lax.pmax(high, axis_name)
        for end, value, join in (("low", low, jnp.minimum), ("high", high, jnp.maximum)):
            before = self.kept[f"{name}_{end}"]
            after = join(before, value)
            if config.observer == "moving_average":
                calls = self.kept[CALLS]
                rate = jnp.maximum(1 - config.momentum, 1 / (calls + 1.0))
                before = jnp.where(calls == 0, value, before)  # which is infinite at first
                after = before + (value - before) * rate
            self.kept[f"{name}_{end}"] = after

    def called(self) -> None:
        """Count a call that observed."""
        if self.observes and CALLS in self.kept:
            self.kept[CALLS] = self.kept[CALLS] + 1

    def steps(self, name: str, config: Int8, count: int = 1) -> Steps:
        """Return the steps of an activation's range, or of a converted layer.

        Args:
            name: of the activation.
            config: says how its range becomes steps.
            count: how many values of an example there are, for the gradient of a trained step.

        Raises:
            ValueError: no call has observed it, as far as is known.
        """
        if f"{name}_scale" in self.kept:
            zero = self.kept[f"{name}_zero_point"].astype(jnp.float32)
            return Steps(self.kept[f"{name}_scale"], zero)
        low, high = self.kept[f"{name}_low"], self.kept[f"{name}_high"]
        warming = self.warming(config)
        is_empty = low > high
        is_wrong = is_empty if warming is None else is_empty & ~warming
        if not isinstance(is_wrong, jax.core.Tracer) and bool(is_wrong):
            raise ValueError(unobserved(self.layer, f"the range of {name!r}"))
        steps = steps_of_range(low, high, config.symmetric)
        if warming is not None:
            # Nothing is rounded yet, and any scale does.
            waits = is_empty & warming
            steps = Steps(*(jnp.where(waits, d, s) for d, s in zip((1, 0), steps, strict=True)))
        if not config.learned:
            return steps
        if self.calibrates:
            self.learned[f"{name}_scale"] = steps.scale
        return steps._replace(scale=trained_scale(self.learned[f"{name}_scale"], count))


def unobserved(layer: str, what: str) -> str:
    """Return the error where a layer is to use what no call has observed."""
    return (
        f"{layer} has not observed {what}: calibrate the model "
        "(flax_sepconv.quantization.calibrate), or call it with mutable=['quantization'] (nnx: "
        "after model.train()) and keep the updates"
    )


def check_kept(layer: str, kept: dict[str, Any], config: Int8, has_pointwise: bool) -> None:
    """Raise ValueError where a collection lacks what a layer keeps."""
    wanted = initial_ranges(config, has_pointwise)
    missing = [name for name in wanted if name not in kept]
    if missing:
        raise ValueError(unobserved(layer, f"{', '.join(map(repr, missing))} (there is no such)"))
