"""The arguments of the layers and the parameters they ask for: one spec for every module system.

Fans (Keras'): a depthwise kernel (K, C, M) has fan_in K*C and fan_out K*M; a pointwise kernel
(1, C*M, F) has fan_in C*M and fan_out F.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from flax_sepconv import activations, constraints, initializers, ops, regularizers
from flax_sepconv.constraints import Constraint
from flax_sepconv.initializers import Initializer
from flax_sepconv.ops.arguments import (
    DATA_FORMATS,
    DataFormat,
    check_implementation,
    choice,
    mask_tails,
    positive_int,
)
from flax_sepconv.ops.geometry import PaddingRule
from flax_sepconv.ops.lowerings import Implementation
from flax_sepconv.ops.paddings import padding_rule
from flax_sepconv.ops.sharding import AxisName, OutSharding, size_inside
from flax_sepconv.ops.state import delay_of
from flax_sepconv.regularizers import Regularizer

DEPTHWISE_KERNEL = "depthwise_kernel"
POINTWISE_KERNEL = "pointwise_kernel"
BIAS = "bias"

Activation = Callable[[jax.Array], jax.Array]
_DEFAULT: Any = None

# What a caller may give for an object of Keras: None, a name, a dict or the object itself.
Identifier = str | Mapping[str, Any] | Callable[..., Any] | None


class CallOptions(TypedDict, total=False):
    """The options of a layer's call, for type checkers."""

    segment_ids: ArrayLike | None
    axis_name: AxisName | None
    out_sharding: OutSharding | None
    reset: ArrayLike | None
    flush: ArrayLike | None
    initial_state: ops.StreamState | None


class Parameter(NamedTuple):
    """One weight of the layer."""

    name: str
    shape: tuple[int, ...]
    initializer: Initializer
    regularizer: Regularizer | None
    constraint: Constraint | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """The documented arguments of a layer, checked, with names resolved to callables.

    What both layers have; each adds what belongs to its own weights. The types are those of what
    is resolved; what may be given is told in the layers.

    Raises:
        ValueError, TypeError: names the argument, the rule and what came.
    """

    # Keras' class, by all names that it has had, and the versions that have it with "causal"; the
    # weights in their order, as their initializers call them; the arguments that are sizes; and the
    # operation, which takes x and the weights; and that on chunks.
    keras_names: ClassVar[tuple[str, ...]]
    causal_in: ClassVar[tuple[int, ...]] = ()
    weights: ClassVar[tuple[str, ...]]
    sizes: ClassVar[tuple[str, ...]] = (
        "kernel_size",
        "strides",
        "dilation_rate",
        "depth_multiplier",
    )
    operation: ClassVar[Callable[..., jax.Array | tuple[jax.Array, ops.StreamState]]]
    step: ClassVar[Callable[..., tuple[jax.Array, ops.StreamState]]]

    kernel_size: int
    strides: int = 1
    padding: PaddingRule = "valid"
    data_format: DataFormat = "channels_last"
    dilation_rate: int = 1
    depth_multiplier: int = 1
    activation: Activation = _DEFAULT
    use_bias: bool = True
    depthwise_initializer: Initializer = _DEFAULT
    bias_initializer: Initializer = _DEFAULT
    depthwise_regularizer: Regularizer | None = None
    bias_regularizer: Regularizer | None = None
    activity_regularizer: Regularizer | None = None
    depthwise_constraint: Constraint | None = None
    bias_constraint: Constraint | None = None
    trainable: bool = True
    implementation: Implementation | None = None

    def __post_init__(self) -> None:
        for name in self.sizes:
            self._set(name, positive_int(name, getattr(self, name)))
        self._set("padding", padding_rule(self.padding))
        self._set("data_format", choice("data_format", self.data_format, DATA_FORMATS))
        for name in ("use_bias", "trainable"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.strides != 1 and self.dilation_rate != 1:
            raise ValueError(
                "strides and dilation_rate must not both differ from 1, got "
                f"strides={self.strides} and dilation_rate={self.dilation_rate}"
            )
        check_implementation(self.implementation)
        given: Any = self.activation
        if given == "threshold":
            raise ValueError(
                "activation 'threshold' needs arguments, give a dict: {'class_name': 'threshold', "
                "'config': {'threshold': 0.0, 'default_value': 0.0}}"
            )
        self._resolve("activation", activations.get)
        for weight in self.weights:
            default = initializers.Zeros() if weight == BIAS else initializers.GlorotUniform()
            self._resolve(f"{weight}_initializer", initializers.get, default)
            self._resolve(f"{weight}_regularizer", regularizers.get)
            self._resolve(f"{weight}_constraint", constraints.get)
        self._resolve("activity_regularizer", regularizers.get)

    def parameters(self, channels: int) -> tuple[Parameter, ...]:
        """List the weights of the layer for C input channels."""
        return tuple(
            Parameter(
                weight if weight == BIAS else f"{weight}_kernel",
                self._shape(weight, channels),
                getattr(self, f"{weight}_initializer"),
                getattr(self, f"{weight}_regularizer"),
                getattr(self, f"{weight}_constraint"),
            )
            for weight in self.weights
            if weight != BIAS or self.use_bias
        )

    def features(self, channels: int) -> int:
        """Return the number of output channels for C input channels."""
        return channels * self.depth_multiplier

    def apply(
        self,
        x: jax.Array,
        weights: Mapping[str, jax.Array],
        precision: jax.lax.PrecisionLike,
        lengths: ArrayLike | None = None,
        segment_ids: ArrayLike | None = None,
        initial_state: ops.StreamState | None = None,
        return_state: bool = False,
        axis_name: AxisName | None = None,
        out_sharding: OutSharding | None = None,
        flush: ArrayLike | None = None,
    ) -> tuple[jax.Array, ops.StreamState | None]:
        """Run the operation and the activation; nothing stands behind the ends of sequences.

        Args:
            x: the input.
            weights: by name, in the order of `parameters`.
            precision, lengths, segment_ids, initial_state, return_state, axis_name, out_sharding:
                as for the operation.

        Returns:
            The output, and, where there is a state or one is asked for, the state behind x.
        """
        streams = initial_state is not None or return_state
        settings = self.settings(lengths, precision)
        sums_end = {} if flush is not None else self.sums_end()
        if flush is None:
            out = self.operation(
                x,
                *weights.values(),
                **settings,
                **sums_end,
                segment_ids=segment_ids,
                axis_name=axis_name,
                out_sharding=out_sharding,
                initial_state=initial_state,
                return_state=streams,
            )
        elif any(each is not None for each in (segment_ids, axis_name, out_sharding)):
            raise ValueError(
                "flush goes together with none of segment_ids, axis_name and out_sharding"
            )
        else:
            out = self.step(x, initial_state, *weights.values(), **settings, flush=flush)
        y, state = out if isinstance(out, tuple) else (out, None)
        if lengths is not None or segment_ids is not None or streams:
            self.check_activation(y.ndim)
        activated = y if sums_end else self.activation(y)
        if activated is not y:
            # An activation may make something of zeros (sigmoid a half), and of their derivative.
            activated = self.masked(activated, lengths, state, axis_name)
        return activated, state

    def settings(
        self, lengths: ArrayLike | None, precision: jax.lax.PrecisionLike
    ) -> dict[str, Any]:
        """Return what every operation is told, of whole arrays or of chunks."""
        return {
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
            "dilation_rate": self.dilation_rate,
            "lengths": lengths,
            "implementation": self.implementation,
            "precision": precision,
        }

    def masked(
        self,
        y: jax.Array,
        lengths: ArrayLike | None,
        state: ops.StreamState | None,
        axis_name: AxisName | None,
    ) -> jax.Array:
        """Set an output to zero behind the ends of sequences, where they have such.

        Args:
            y: the output.
            lengths: of the inputs, which the operation has seen.
            state: behind the inputs, or None.
            axis_name: the mesh axis that divides the steps, or None.
        """
        ends: ArrayLike | None = None if state is None else state.steps
        if ends is None and lengths is not None:
            integers: Any = lengths  # The operation has raised for anything else.
            ends = ops.output_length(
                integers, self.kernel_size, self.strides, self.padding, self.dilation_rate
            )
        return y if ends is None else mask_tails(y, ends, self.data_format, axis_name)

    def sums_end(self) -> dict[str, Any]:
        """Return how the operation itself is told the activation, where it knows it."""
        for function, name in KNOWN_TO_SUMS:
            if function is self.activation:
                return {"activation": name}
        return {}

    def initial_state(self, x_shape: tuple[int, ...], dtype: DTypeLike) -> ops.StreamState:
        """Return the state of streams that have not begun, for inputs of a shape and dtype."""
        channels = x_shape[-1 if self.data_format == "channels_last" else -2]
        return ops.initial_state(
            x_shape,
            (self.kernel_size, channels, self.depth_multiplier),
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
            dtype=dtype,
        )

    def check_decode(self, decode: Any) -> None:
        """Raise ValueError unless a layer with these arguments can take a sequence in chunks."""
        if not isinstance(decode, bool):
            raise ValueError(f"decode must be True or False, got {decode!r}")
        if decode:
            delay_of(self.padding, self.kernel_size, self.dilation_rate, self.strides)

    def check_activation(self, rank: int) -> None:
        """Raise ValueError where an activation of Keras would mix the steps of a sequence."""
        name = getattr(self.activation, "name", getattr(self.activation, "__name__", None))
        if name not in activations.ALONG_AN_AXIS:
            return
        given = dict(getattr(self.activation, "arguments", ())).get("axis", -1)
        channels = rank - (1 if self.data_format == "channels_last" else 2)
        if any(axis % rank != channels for axis in ((given,) if isinstance(given, int) else given)):
            raise ValueError(
                "lengths, segment_ids and streams need an activation of each step alone, got "
                f"{name} over axis {given} with data_format={self.data_format!r}"
            )

    @staticmethod
    def check_call(
        decode: bool,
        reset: Any,
        initial_state: Any,
        return_state: bool,
        flush: Any = None,
        segment_ids: Any = None,
    ) -> None:
        """Raise ValueError where a call asks for no state, or for two."""
        if decode and (initial_state is not None or return_state):
            raise ValueError(
                "initial_state and return_state are for decode=False: with decode=True the state "
                "is in the cache"
            )
        if decode and segment_ids is not None:
            raise ValueError(
                "segment_ids are for decode=False: the cache has one state a row, and not one a "
                "segment (initial_state has)"
            )
        if reset is not None and not decode:
            raise ValueError("reset is for decode=True: without a cache nothing can begin anew")
        if flush is not None and not decode:
            raise ValueError("flush is for decode=True: without a cache a call has the whole")

    def activity_loss(self, y: jax.Array, axis_name: AxisName | None = None) -> jax.Array | None:
        """Return the activity regularizer's value per example of the batch, None without one.

        Where steps are divided along a mesh axis, the values of all devices are added.
        """
        if self.activity_regularizer is None:
            return None
        examples = max(math.prod(y.shape[:-2]), 1)
        loss = scalar_loss("activity_regularizer", self.activity_regularizer(y)) / examples
        if axis_name is None or size_inside(axis_name) is None:
            return loss
        summed: jax.Array = jax.lax.psum(loss, axis_name)
        return summed

    def _shape(self, weight: str, channels: int) -> tuple[int, ...]:
        """Return the shape of a weight for C input channels."""
        if weight == BIAS:
            return (self.features(channels),)
        return (self.kernel_size, channels, self.depth_multiplier)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _resolve(self, name: str, get: Callable[[Any], Any], default: Any = None) -> None:
        try:
            found = get(getattr(self, name))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from error
        self._set(name, default if found is None else found)


# Activations that operations compute with their sums, and what they are called there.
KNOWN_TO_SUMS: tuple[tuple[Activation, str], ...] = (
    (activations.relu, "relu"),
    (jax.nn.relu, "relu"),
    (activations.relu6, "relu6"),
    (jax.nn.relu6, "relu6"),
    (activations.silu, "silu"),
    (jax.nn.silu, "silu"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DepthwiseArguments(Arguments):
    """The arguments of `DepthwiseConv1D`."""

    keras_names = ("DepthwiseConv1D",)
    weights = ("depthwise", BIAS)
    operation = staticmethod(ops.depthwise_conv1d)
    step = staticmethod(ops.depthwise_conv1d_step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeparableArguments(Arguments):
    """The arguments of `SeparableConv1D`."""

    keras_names = ("SeparableConv1D", "SeparableConvolution1D")
    causal_in = (2,)
    weights = ("depthwise", "pointwise", BIAS)
    sizes = ("filters", *Arguments.sizes)
    operation = staticmethod(ops.separable_conv1d)
    step = staticmethod(ops.separable_conv1d_step)

    filters: int
    pointwise_initializer: Initializer = _DEFAULT
    pointwise_regularizer: Regularizer | None = None
    pointwise_constraint: Constraint | None = None

    def features(self, channels: int) -> int:
        """Return F, for any number of input channels."""
        del channels
        return self.filters

    def _shape(self, weight: str, channels: int) -> tuple[int, ...]:
        if weight == "pointwise":
            return (1, channels * self.depth_multiplier, self.filters)
        return super()._shape(weight, channels)


def scalar_loss(name: str, value: Any) -> jax.Array:
    """Return what a regularizer returned as a scalar of at least float32."""
    loss = jnp.asarray(value)
    if loss.shape != ():
        raise ValueError(f"{name} must return a scalar, got shape {loss.shape}")
    return loss.astype(jnp.promote_types(loss.dtype, jnp.float32))
