"""What the nnx layers have in common: their variables, their call and their configs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, Unpack, overload

import jax
import jax.numpy as jnp
from flax import nnx
from flax.linen.dtypes import promote_dtype
from flax.nnx.bridge.wrappers import current_linen_module
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from flax_sepconv import ops
from flax_sepconv.keras import config as keras_config
from flax_sepconv.ops.arguments import channels_of, positive_int
from flax_sepconv.ops.names import ClassSignature, names_arguments
from flax_sepconv.ops.sharding import AxisName, OutSharding
from flax_sepconv.quantization.config import Int8, check
from flax_sepconv.quantization.nnx_memory import add_quantization, quantized_of, remember
from flax_sepconv.spec import Arguments, CallOptions, scalar_loss

# The arrays of a `StreamState`: each a `nnx.Cache` of the layer.
_STATE = ("history", "phase", "steps")


class NonTrainable(nnx.Variable[Any]):
    """A weight of a layer with `trainable=False`: no `nnx.Param`, so no optimizer sees it."""


class ActivityLoss(nnx.Variable[Any]):
    """What a layer's activity regularizer gave since `regularization_loss` was last called."""


try:  # For `nnx.bridge` it is linen's collection "losses".
    nnx.register_variable_name("losses", ActivityLoss)
except ValueError:  # Another library's type is that already, and as good.
    ActivityLoss = nnx.variable_type_from_name("losses")  # type: ignore


class NnxLayer(nnx.Module):
    """A layer whose arguments are those of a spec, and those that only Flax has.

    Attributes:
        spec: of its arguments.
    """

    spec: ClassVar[type[Arguments]]
    __signature__ = ClassSignature()

    def __init__(
        self,
        in_features: int,
        arguments: Mapping[str, Any],
        *,
        dtype: DTypeLike | None,
        param_dtype: DTypeLike,
        precision: lax.PrecisionLike,
        decode: bool,
        quantization: Int8 | None,
        rngs: nnx.Rngs,
    ) -> None:
        """Make a layer.

        Args:
            in_features: C.
            arguments: the others by name, as they were given.
            dtype, param_dtype, precision, decode, quantization, rngs: as for `SeparableConv1D`.
        """
        names = (field.name for field in dataclasses.fields(self.spec))
        self.arguments = self.spec(**{name: arguments[name] for name in names})
        self.arguments.check_decode(decode)
        check(quantization, self.arguments.implementation)
        self.decode = decode
        self.quantization = quantization
        self.in_features = positive_int("in_features", in_features)
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        variable = nnx.Param if self.arguments.trainable else NonTrainable
        parameters = self.arguments.parameters(self.in_features)
        for name, shape, initializer, regularizer, constraint in parameters:
            weight = initializer(rngs.params(), shape, param_dtype)
            metadata: dict[str, Any] = {
                "regularizer": regularizer,
                "constraint": constraint,
                "rank": len(shape),
            }
            setattr(self, name, variable(weight, **metadata))
        if quantization is not None:
            add_quantization(self, quantization)
        if self.arguments.activity_regularizer is not None:
            self.activity_loss = ActivityLoss(jnp.zeros(()))
        self.history: nnx.Cache[Any] | None = nnx.data(None)
        self.phase: nnx.Cache[Any] | None = nnx.data(None)
        self.steps: nnx.Cache[Any] | None = nnx.data(None)

    @classmethod
    def from_keras_config(
        cls,
        config: Mapping[str, Any],
        in_features: int,
        *,
        rngs: nnx.Rngs,
        version: int | None = None,
    ) -> Self:
        """Make the layer that a dict of Keras 2 or Keras 3 describes, with new weights.

        Example:
            >>> import flax_sepconv as fsc
            >>> config = {"filters": 5, "kernel_size": [3]}
            >>> layer = fsc.nnx.SeparableConv1D.from_keras_config(config, 4, rngs=nnx.Rngs(0))
            >>> layer.depthwise_kernel.shape
            (3, 4, 1)
        """
        arguments = keras_config.arguments_of(config, version, cls.spec)
        arguments.pop("name", None)
        return cls(in_features, **arguments, rngs=rngs)

    def to_keras_config(self, version: int = 3) -> dict[str, Any]:
        """Return the dict from which Keras' layer of this name is made, by its `from_config`."""
        keras_config.refuse_quantization(self.quantization)
        return keras_config.config_of(self.arguments, None, self.dtype, self.param_dtype, version)

    def init_cache(self, input_shape: Sequence[int], dtype: DTypeLike | None = None) -> None:
        """Let the sequences begin of a batch that `decode` will take in chunks.

        Args:
            input_shape: (..., T, C), or (..., C, T), of a chunk; T may be any.
            dtype: of the inputs; None: that of the weights.

        Example:
            >>> import flax_sepconv as fsc
            >>> options = {"padding": "causal", "decode": True, "rngs": nnx.Rngs(0)}
            >>> layer = fsc.nnx.SeparableConv1D(3, 5, 4, **options)
            >>> layer.init_cache((2, 1, 3))
            >>> layer(jnp.ones((2, 7, 3))).shape, layer.history.shape
            ((2, 7, 5), (2, 3, 3))
        """
        shape, last = tuple(input_shape), self.arguments.data_format == "channels_last"
        if len(shape) < 2 or shape[-1 if last else -2] != self.in_features:
            raise ValueError(
                f"input_shape must have rank 2 or more and in_features={self.in_features} "
                f"channels, got {shape} with data_format={self.arguments.data_format!r}"
            )
        promoted = jnp.promote_types(dtype or self.param_dtype, self.param_dtype)
        state = self.arguments.initial_state(shape, self.dtype or promoted)
        for name, array in state.arrays.items():
            setattr(self, name, nnx.Cache(array))

    def set_view(
        self,
        decode: bool | None = None,
        batch_size: Any = None,
        use_running_average: bool | None = None,
    ) -> None:
        """Class method used by `nnx.view`.

        Args:
            decode: whether the layer is given its sequences in chunks.
            batch_size: an int, or the shape of the batch, for a new cache.
            use_running_average: with a `quantization`, whether calls observe no ranges.
        """
        if use_running_average is not None and self.quantization is not None:
            self.use_running_average = use_running_average
        if decode is not None:
            self.arguments.check_decode(decode)
            self.decode = decode
        if batch_size is not None:
            batch = (batch_size,) if isinstance(batch_size, int) else tuple(batch_size)
            last = self.arguments.data_format == "channels_last"
            self.init_cache((*batch, *((1, self.in_features) if last else (self.in_features, 1))))

    @overload
    def __call__(
        self,
        inputs: ArrayLike,
        lengths: ArrayLike | None = None,
        *,
        return_state: Literal[False] = False,
        **options: Unpack[CallOptions],
    ) -> jax.Array: ...

    @overload
    def __call__(
        self,
        inputs: ArrayLike,
        lengths: ArrayLike | None = None,
        *,
        return_state: Literal[True],
        **options: Unpack[CallOptions],
    ) -> tuple[jax.Array, ops.StreamState]: ...

    @overload
    def __call__(
        self,
        inputs: ArrayLike,
        lengths: ArrayLike | None = None,
        *,
        return_state: bool,
        **options: Unpack[CallOptions],
    ) -> jax.Array | tuple[jax.Array, ops.StreamState]: ...

    @names_arguments
    def __call__(
        self,
        inputs: ArrayLike,
        lengths: ArrayLike | None = None,
        *,
        segment_ids: ArrayLike | None = None,
        axis_name: AxisName | None = None,
        out_sharding: OutSharding | None = None,
        reset: ArrayLike | None = None,
        flush: ArrayLike | None = None,
        initial_state: ops.StreamState | None = None,
        return_state: bool = False,
    ) -> jax.Array | tuple[jax.Array, ops.StreamState]:
        """Apply the layer: (..., L, C) -> (..., output length, F), or channels first.

        Without a pointwise stage F is C*M.

        Args:
            inputs: floating point.
            lengths: integers (...), one for each sequence of the batch, or None: all are whole.
                The first `ops.output_length(length, ...)` steps are what the layer gives for the
                sequence alone, and zeros follow.
            segment_ids: integers (..., L), or None: with padding "same" or "causal" and strides 1,
                no tap reaches across a step at which they change. Without `decode`, the segments
                may have states (`ops.separable_conv1d`).
            axis_name: inside a `jax.shard_map`, the mesh axis that divides the steps of `inputs`,
                or None (`ops.separable_conv1d`). Their activity losses are added.
            out_sharding: how the output is to be divided, or None: as the inputs and weights are.
            reset: with `decode`, bool (...), which sequences begin anew with this chunk.
            flush: with `decode`, bool (...), which sequences end with this chunk, or True: all.
                They get the zeros of the padding behind it, and begin anew with the next chunk.
            initial_state: of a layer without `decode`, what came before the inputs, as an
                earlier call returned it; None is the beginning.
            return_state: whether the state behind the inputs is returned too, in a pair.
        """
        channels = channels_of("inputs", inputs, self.arguments.data_format)
        if channels != self.in_features:
            raise ValueError(
                f"inputs must have in_features={self.in_features} channels, got {channels}"
            )
        names = [parameter.name for parameter in self.arguments.parameters(channels)]
        weights = [getattr(self, name)[...] for name in names]
        quantized = quantized_of(self, dict(zip(names, weights, strict=True)))
        if quantized is None:
            x, *promoted = promote_dtype(inputs, *weights, dtype=self.dtype)
        else:  # Integers are made of weights as they are kept.
            x, _ = promote_dtype(inputs, jnp.zeros((), self.param_dtype), dtype=self.dtype)
            promoted = weights
        self.arguments.check_call(
            self.decode, reset, initial_state, return_state, flush, segment_ids
        )
        if self.decode:
            if self.history is None:
                raise ValueError("decode=True needs a cache: call init_cache first")
            cached = {n: getattr(self, n)[...] for n in _STATE if getattr(self, n) is not None}
            initial_state = self.arguments.initial_state(x.shape, x.dtype).replaced(cached)
            if reset is not None:
                initial_state = initial_state.reset(reset)
        y, state = (quantized or self.arguments).apply(
            x,
            dict(zip(names, promoted, strict=True)),
            self.precision,
            lengths,
            segment_ids,
            initial_state,
            return_state or self.decode,
            axis_name,
            out_sharding,
            flush,
        )
        if quantized is not None:
            remember(self, quantized.memory)
        if self.decode and state is not None:
            for name, array in state.arrays.items():
                getattr(self, name)[...] = array
        activity = self.arguments.activity_loss(y, axis_name)
        if activity is not None:
            self.activity_loss[...] += activity
        bridge = current_linen_module()
        if isinstance(bridge, nnx.bridge.ToLinen) and bridge.is_mutable_collection("losses"):
            # Linen's way: a call returns the losses. The bridge makes this module anew for each.
            for name, _, _, regularizer, _ in self.arguments.parameters(channels):
                weight = getattr(self, name)[...]
                if regularizer is not None and jnp.issubdtype(weight.dtype, jnp.floating):
                    loss = scalar_loss(name, regularizer(weight))
                    setattr(self, f"{name}_loss", ActivityLoss(loss))
        if not return_state:
            return y
        assert state is not None
        return y, state
