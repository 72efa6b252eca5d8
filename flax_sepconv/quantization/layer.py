"""What a layer computes where it is quantized, in linen and in nnx, in place of `Arguments.apply`.

    x_int = round(x / x_scale)
    s1 = depthwise(x_int, k_int)
    h_int = round(s1 * (x_scale * depthwise_scale / hidden_scale))
    s2 = h_int @ w_int + bias_int
    y = activation(s2 * (hidden_scale * pointwise_scale))

These are the numbers of `ops.quantized_separable_conv1d`, whole numbers that are float32 here, for
gradients to pass (everything is computed in float32, whatever the dtype). They are counted from the
zero points, so that the real number zero, and the padding, is 0.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from flax_sepconv import ops
from flax_sepconv.ops import lengths as lengths_lib
from flax_sepconv.ops.arguments import mask_tails
from flax_sepconv.ops.quantized.arguments import ENDINGS
from flax_sepconv.ops.quantized.computing import shifted
from flax_sepconv.ops.quantized.scales import (
    dynamic_scale,
    first_multiplier,
    product,
    quantized,
    second_multiplier,
)
from flax_sepconv.ops.sharding import AxisName, OutSharding, axes_of
from flax_sepconv.quantization.config import Int8
from flax_sepconv.quantization.observing import HIDDEN, OUTPUT, Memory, X
from flax_sepconv.quantization.rounding import Steps, integers
from flax_sepconv.quantization.weights import SCALES, Whole, is_converted
from flax_sepconv.spec import BIAS, DEPTHWISE_KERNEL, POINTWISE_KERNEL, Arguments


@dataclasses.dataclass(frozen=True)
class Call:
    """What a call is given beside its input, as for `Arguments.apply`."""

    precision: lax.PrecisionLike
    lengths: ArrayLike | None
    segment_ids: ArrayLike | None
    initial_state: ops.StreamState | None
    axis_name: AxisName | None
    flush: ArrayLike | None


@dataclasses.dataclass
class Quantized:
    """The arguments of a layer, how it is quantized, and what it keeps between calls."""

    arguments: Arguments
    config: Int8
    memory: Memory

    def apply(
        self,
        x: jax.Array,
        weights: Mapping[str, jax.Array],
        precision: lax.PrecisionLike,
        lengths: ArrayLike | None = None,
        segment_ids: ArrayLike | None = None,
        initial_state: ops.StreamState | None = None,
        return_state: bool = False,
        axis_name: AxisName | None = None,
        out_sharding: OutSharding | None = None,
        flush: ArrayLike | None = None,
    ) -> tuple[jax.Array, ops.StreamState | None]:
        """Run the operation and the activation, and let the memory know what it saw.

        Args:
            x: the input, of the dtype that the result is to have.
            weights: by name, as they are stored.
            precision, lengths, segment_ids, initial_state, return_state, axis_name, out_sharding,
                flush: as for `Arguments.apply`.

        Returns:
            As `Arguments.apply`. `history` of the state holds the input as it came: rounded again
            it is the same, and so chunks give what the whole gives.
        """
        arguments, config, memory = self.arguments, self.config, self.memory
        is_whole = is_converted(weights)
        warming = None if is_whole else memory.warming(config)
        whole = (
            Whole.kept(weights, config, memory)
            if is_whole
            else Whole.rounded(weights, config, memory, warming)
        )
        call = Call(precision, lengths, segment_ids, initial_state, axis_name, flush)
        streams = initial_state is not None or return_state
        state = None
        if config.activations is None:
            real = {name: w.astype(x.dtype) for name, w in whole.real(weights).items()}
            y, state = arguments.apply(
                x,
                real,
                precision,
                lengths,
                segment_ids,
                initial_state,
                return_state,
                axis_name,
                out_sharding,
                flush,
            )
        else:
            self._check(call, streams, out_sharding)
            if streams:  # Nothing but the state counts: compiled, nothing else is computed.
                one = jnp.zeros((arguments.kernel_size, *_channels(x, self._is_last), 1), x.dtype)
                _, state = self._depthwise(x, one, call, initial_state)
            if is_whole and self._fits_integers(x, call):
                y = self._by_integers(x, weights, call)
            else:
                y = self._by_steps(x, whole, call, warming)
            if lengths is not None or segment_ids is not None or streams:
                arguments.check_activation(y.ndim)
            y = arguments.masked(arguments.activation(y), lengths, state, axis_name)
        if config.output:
            steps = self._steps(OUTPUT, y.astype(jnp.float32), axis_name)
            y = integers(y, steps.scale, steps.bounds, warming) * steps.scale
        memory.called()
        return y.astype(x.dtype), state

    def _check(self, call: Call, streams: bool, out_sharding: Any) -> None:
        """Raise ValueError where a call does not go together with rounded activations."""
        kind = f"quantization with activations={self.config.activations!r}"
        if out_sharding is not None:
            raise ValueError(
                f"out_sharding does not go together with {kind}: constrain the output instead, by "
                "jax.lax.with_sharding_constraint or jax.sharding.reshard"
            )
        if call.flush is not None and (call.segment_ids is not None or call.axis_name is not None):
            raise ValueError("flush goes together with none of segment_ids and axis_name")
        if streams and call.segment_ids is not None:
            raise ValueError(f"segment_ids with states do not go together with {kind}")
        if self.config.is_dynamic and (streams or call.axis_name is not None):
            what, part = ("streams", "chunk") if streams else ("axis_name", "device")
            raise ValueError(
                f"{what} and {kind} do not go together: each {part} would have a scale of its own"
            )

    @property
    def _is_last(self) -> bool:
        return self.arguments.data_format == "channels_last"

    def _along(self, channels: jax.Array) -> jax.Array:
        """Lay out what there is one of for each channel, or for all, as arrays of steps are."""
        if not channels.ndim:
            return channels
        return channels.reshape((-1,) if self._is_last else (-1, 1))

    def _depthwise(
        self,
        x: jax.Array,
        kernel: jax.Array,
        call: Call,
        initial_state: ops.StreamState | None,
    ) -> tuple[jax.Array, ops.StreamState]:
        """Filter every channel of a chunk."""
        settings = self.arguments.settings(call.lengths, call.precision)
        if call.flush is not None:
            return ops.depthwise_conv1d_step(x, initial_state, kernel, **settings, flush=call.flush)
        return ops.depthwise_conv1d(
            x, kernel, **settings, initial_state=initial_state, return_state=True
        )

    def _steps(self, name: str, real: jax.Array, axis_name: AxisName | None) -> Steps:
        """Return the steps of an activation: of this call, or of what was observed."""
        if name != OUTPUT and self.config.is_dynamic:
            is_of_each = self.config.activations == "dynamic_per_example"
            axes = (-2, -1) if is_of_each else tuple(range(real.ndim))
            scale = dynamic_scale(lax.stop_gradient(real), axes)
            return Steps(scale[..., None, None] if is_of_each else scale, None)
        if self.memory.observes:
            self.memory.observe(name, real, self.config, axis_name)
        return self.memory.steps(name, self.config, real.shape[-2] * real.shape[-1])

    def _by_steps(
        self, x: jax.Array, whole: Whole, call: Call, warming: jax.Array | None
    ) -> jax.Array:
        """Compute with whole numbers that are float32, up to the activation."""
        real, state = x.astype(jnp.float32), call.initial_state
        if call.lengths is not None:
            ends: Any = call.lengths
            if call.axis_name is None:
                ends = lengths_lib.resolve(ends, x.shape[:-2], x.shape[-2 if self._is_last else -1])
            real = mask_tails(real, ends, self.arguments.data_format, call.axis_name)
        if whole.is_kept:
            real = jnp.where(jnp.isnan(real), 0, real)
        steps = self._steps(X, real, call.axis_name)
        x_int = integers(real, steps.scale, steps.bounds, warming)
        kernel = whole.kernels[DEPTHWISE_KERNEL]
        if state is not None:
            history = state.history.astype(jnp.float32)
            history = integers(history, steps.scale, steps.bounds, warming)
            state = state.replaced(state.arrays | {"history": history})
        if state is not None or call.flush is not None:
            sums, _ = self._depthwise(x_int, kernel, call, state)
        else:
            sums = ops.depthwise_conv1d(
                x_int,
                kernel,
                **self.arguments.settings(call.lengths, call.precision),
                segment_ids=call.segment_ids,
                axis_name=call.axis_name,
            )
        before, weight_scale = steps.scale, self._along(whole.scales[DEPTHWISE_KERNEL])
        if POINTWISE_KERNEL in whole.kernels:
            hidden = self._steps(HIDDEN, sums * product(steps.scale, weight_scale), call.axis_name)
            multiplier = first_multiplier(steps.scale, weight_scale, hidden.scale)
            h_int = integers(sums * multiplier, None, hidden.bounds, warming)
            mix = "...j,jf->...f" if self._is_last else "...jl,jf->...fl"
            w_int = whole.kernels[POINTWISE_KERNEL][0]
            sums = jnp.einsum(mix, h_int, w_int, precision=call.precision)
            before, weight_scale = hidden.scale, self._along(whole.scales[POINTWISE_KERNEL])
        if whole.steps_of_bias is not None:
            sums = sums + self._along(whole.steps_of_bias)
        elif whole.bias is not None and not self.config.is_dynamic:
            bias = self._along(whole.bias)
            sums = sums + integers(bias, product(before, weight_scale), None, warming)
        y = sums * second_multiplier(before, weight_scale)
        return self._with_real(y, whole.bias) if self.config.is_dynamic else y

    def _fits_integers(self, x: jax.Array, call: Call) -> bool:
        """Tell whether the operation on integers takes a call; if not, steps give its numbers."""
        is_divided = call.axis_name is not None or axes_of(x, x.ndim - (2 if self._is_last else 1))
        return call.segment_ids is None and call.flush is None and not is_divided

    def _by_integers(self, x: jax.Array, weights: Mapping[str, jax.Array], call: Call) -> jax.Array:
        """Compute by the operation on integers, up to the activation, or with it."""
        kept, state = self.memory.kept, call.initial_state
        settings = self.arguments.settings(call.lengths, None)
        del settings["precision"]
        scales: dict[str, Any] = {
            SCALES[name]: kept[SCALES[name]] for name in SCALES if name in weights
        }
        for name in (X, HIDDEN) if POINTWISE_KERNEL in weights else (X,):
            scales[f"{name}_scale"] = self.config.activations
            if not self.config.is_dynamic:
                scales[f"{name}_scale"] = kept[f"{name}_scale"]
                scales[f"{name}_zero_point"] = kept[f"{name}_zero_point"]
        if state is not None:
            zero = kept["x_zero_point"]
            history = shifted(quantized(state.history, kept["x_scale"], zero), zero)
            state = state.replaced(state.arrays | {"history": history})
        bias = weights.get(BIAS)
        if bias is None or not self.config.is_dynamic:
            end = self.arguments.sums_end()
            if end.get("activation") in ENDINGS:
                settings |= end
        operation: Any = ops.quantized_depthwise_conv1d
        kernels = [weights[DEPTHWISE_KERNEL]]
        if POINTWISE_KERNEL in weights:
            operation = ops.quantized_separable_conv1d
            kernels.append(weights[POINTWISE_KERNEL])
        y: jax.Array = operation(
            x,
            *kernels,
            None if self.config.is_dynamic else bias,
            **scales,
            **settings,
            initial_state=state,
            preferred_element_type=jnp.float32,
        )
        return self._with_real(y, bias) if self.config.is_dynamic else y

    def _with_real(self, y: jax.Array, bias: jax.Array | None) -> jax.Array:
        """Add a bias of real numbers: its steps are not known before the call."""
        return y if bias is None else y + self._along(bias.astype(jnp.float32))


def _channels(x: jax.Array, is_last: bool) -> tuple[int]:
    return (x.shape[-1 if is_last else -2],)
