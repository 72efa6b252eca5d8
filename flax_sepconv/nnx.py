"""The layer as an nnx module, and what belongs to it: its losses and its constraints."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from flax import nnx
from flax.linen.dtypes import promote_dtype
from flax.nnx.bridge.wrappers import current_linen_module
from flax.nnx.filterlib import Filter
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from flax_sepconv import ops
from flax_sepconv.bridge import check_activity_recorded, from_linen
from flax_sepconv.keras import config as keras_config
from flax_sepconv.ops.arguments import DataFormat, Padding, channels_of, positive_int
from flax_sepconv.ops.lowerings import Implementation
from flax_sepconv.ops.names import ClassSignature, names_arguments
from flax_sepconv.ops.sharding import AxisName, OutSharding
from flax_sepconv.spec import Arguments, Identifier, scalar_loss
from flax_sepconv.weights import what_is_said

__all__ = [
    "ActivityLoss",
    "NonTrainable",
    "SeparableConv1D",
    "constraints_of",
    "from_linen",
    "regularization_loss",
]

# The arrays of a `StreamState`: each a `nnx.Cache` of the layer.
_STATE = ("history", "phase", "steps")

# What the loss of an activity regularizer is called, here and inside `nnx.bridge.ToNNX`.
_ACTIVITY = ("activity_loss", "activity")


class NonTrainable(nnx.Variable[Any]):
    """A weight of a layer with `trainable=False`: no `nnx.Param`, so no optimizer sees it."""


class ActivityLoss(nnx.Variable[Any]):
    """What a layer's activity regularizer gave since `regularization_loss` was last called."""


try:  # For `nnx.bridge` it is linen's collection "losses".
    nnx.register_variable_name("losses", ActivityLoss)
except ValueError:  # Another library's type is that already, and as good.
    ActivityLoss = nnx.variable_type_from_name("losses")  # type: ignore


class SeparableConv1D(nnx.Module):
    """Filter every channel on its own, then mix the channels: Keras' SeparableConv1D in Flax.

    h[b, l, c*M + m] = sum_i x[b, l*S + i*D - pad_low, c] * depthwise_kernel[i, c, m]
    y[b, l, f] = activation(sum_j h[b, l, j] * pointwise_kernel[0, j, f] + bias[f])

    The same weights give the same numbers as in the linen layer, `flax_sepconv.SeparableConv1D`.
    Each weight carries its `constraint` and `regularizer` as metadata of its `nnx.Variable`:
    `constraints_of` and `regularization_loss` read them.

    Args:
        in_features: C, input channels.
        filters: F, output channels.
        kernel_size: K, taps of the depthwise kernels.
        strides: S, input steps between output steps.
        padding: "valid", "same" (TensorFlow's: the odd zero goes to the right), "causal",
            "circular" or "reflect", in any case; or zeros at both ends: a number, or (low, high).
        data_format: "channels_last", (..., L, C), or "channels_first", (..., C, L).
        dilation_rate: D, input steps between taps; S and D may not both differ from 1.
        depth_multiplier: M, depthwise filters per input channel.
        activation: None, a Keras name or dict, or a callable.
        use_bias: whether a bias is added after the pointwise stage.
        depthwise_initializer, pointwise_initializer, bias_initializer: None (Glorot uniform for the
            kernels, zeros for the bias), a Keras name or dict, or a callable (key, shape, dtype).
        depthwise_regularizer, pointwise_regularizer, bias_regularizer: None, a Keras name or dict,
            or a callable: weight -> scalar.
        activity_regularizer: the same, of the output; its value is divided by the batch size.
        depthwise_constraint, pointwise_constraint, bias_constraint: None, a Keras name or dict, or
            a callable: weight -> weight.
        dtype: of the computation; None promotes inputs and weights.
        param_dtype: of the weights.
        precision: of the contractions; None is the platform's default.
        implementation: the depthwise lowering by name; None takes the best one known.
            "grouped_conv" is what tools that quantize or convert can look into.
        trainable: whether the weights are `nnx.Param` or, invisible to optimizers, `NonTrainable`.
        decode: whether the layer is given its sequences in chunks: each call
            takes the next one, of any size. Their states are `nnx.Cache` variables that
            `init_cache` makes, and makes anew. With a `kernel_size` of 1 `history` has no elements,
            and Orbax saves no such array.
        rngs: its "params" stream initializes the weights.

    Raises:
        ValueError, TypeError: an argument or the input breaks its rule.

    Example:
        >>> layer = SeparableConv1D(3, 5, kernel_size=4, padding="same", rngs=nnx.Rngs(0))
        >>> layer.depthwise_kernel.shape, layer.pointwise_kernel.shape, layer.bias.shape
        ((4, 3, 1), (1, 3, 5), (5,))
        >>> layer(jnp.ones((2, 10, 3))).shape
        (2, 10, 5)

    Source: https://keras.io/api/layers/convolution_layers/separable_convolution1d/
    """

    __signature__ = ClassSignature()

    @names_arguments
    def __init__(
        self,
        in_features: int,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        data_format: DataFormat = "channels_last",
        dilation_rate: int | Sequence[int] = 1,
        depth_multiplier: int = 1,
        activation: Identifier = None,
        use_bias: bool = True,
        depthwise_initializer: Identifier = None,
        pointwise_initializer: Identifier = None,
        bias_initializer: Identifier = None,
        depthwise_regularizer: Identifier = None,
        pointwise_regularizer: Identifier = None,
        bias_regularizer: Identifier = None,
        activity_regularizer: Identifier = None,
        depthwise_constraint: Identifier = None,
        pointwise_constraint: Identifier = None,
        bias_constraint: Identifier = None,
        trainable: bool = True,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: lax.PrecisionLike = None,
        implementation: Implementation | None = None,
        decode: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        given = dict(locals())
        own = ("self", "__class__", "in_features", "dtype", "param_dtype", "precision", "rngs")
        given = {name: value for name, value in given.items() if name not in own}
        self.decode = given.pop("decode")
        self.arguments = Arguments(**given)
        self.arguments.check_decode(decode)
        self.in_features = positive_int("in_features", in_features)
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        variable = nnx.Param if trainable else NonTrainable
        parameters = self.arguments.parameters(self.in_features)
        for name, shape, initializer, regularizer, constraint in parameters:
            weight = initializer(rngs.params(), shape, param_dtype)
            metadata: dict[str, Any] = {
                "regularizer": regularizer,
                "constraint": constraint,
                "rank": len(shape),
            }
            setattr(self, name, variable(weight, **metadata))
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
    ) -> "SeparableConv1D":
        """Make the layer that a dict of Keras 2 or Keras 3 describes, with new weights.

        Example:
            >>> config = {"filters": 5, "kernel_size": [3]}
            >>> layer = SeparableConv1D.from_keras_config(config, 4, rngs=nnx.Rngs(0))
            >>> layer.depthwise_kernel.shape
            (3, 4, 1)
        """
        arguments = keras_config.arguments_of(config, version)
        arguments.pop("name", None)
        return cls(in_features, **arguments, rngs=rngs)

    def to_keras_config(self, version: int = 3) -> dict[str, Any]:
        """Return the dict from which `keras.layers.SeparableConv1D.from_config` makes the layer."""
        return keras_config.config_of(self.arguments, None, self.dtype, self.param_dtype, version)

    def init_cache(self, input_shape: Sequence[int], dtype: DTypeLike | None = None) -> None:
        """Let the sequences begin of a batch that `decode` will take in chunks.

        Args:
            input_shape: (..., T, C), or (..., C, T), of a chunk; T may be any.
            dtype: of the inputs; None: that of the weights.

        Example:
            >>> layer = SeparableConv1D(3, 5, 4, padding="causal", decode=True, rngs=nnx.Rngs(0))
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

    def set_view(self, decode: bool | None = None, batch_size: Any = None) -> None:
        """Class method used by `nnx.view`.

        Args:
            decode: whether the layer is given its sequences in chunks.
            batch_size: an int, or the shape of the batch, for a new cache.
        """
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
        segment_ids: ArrayLike | None = None,
        axis_name: AxisName | None = None,
        out_sharding: OutSharding | None = None,
        reset: ArrayLike | None = None,
        flush: ArrayLike | None = None,
        initial_state: ops.StreamState | None = None,
        return_state: Literal[False] = False,
    ) -> jax.Array: ...

    @overload
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
        return_state: Literal[True],
    ) -> tuple[jax.Array, ops.StreamState]: ...

    @overload
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
        return_state: bool,
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

        Args:
            inputs: floating point.
            lengths: integers (...), one for each sequence of the batch, or None: all are whole.
                The first `ops.output_length(length, ...)` steps are what the layer gives for the
                sequence alone, and zeros follow.
            segment_ids: integers (..., L), or None: with padding "same" or "causal" and strides 1,
                no tap reaches across a step at which they change.
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
        x, *promoted = promote_dtype(inputs, *weights, dtype=self.dtype)
        self.arguments.check_call(self.decode, reset, initial_state, return_state, flush)
        if self.decode:
            if self.history is None:
                raise ValueError("decode=True needs a cache: call init_cache first")
            cached = {n: getattr(self, n)[...] for n in _STATE if getattr(self, n) is not None}
            initial_state = self.arguments.initial_state(x.shape, x.dtype).replaced(cached)
            if reset is not None:
                initial_state = initial_state.reset(reset)
        y, state = self.arguments.apply(
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
                if regularizer is not None:
                    loss = scalar_loss(name, regularizer(getattr(self, name)[...]))
                    setattr(self, f"{name}_loss", ActivityLoss(loss))
        if not return_state:
            return y
        assert state is not None
        return y, state


def regularization_loss(model: nnx.Module) -> jax.Array:
    """Sum the regularizers of all weights, and take what the activity regularizers recorded.

    Call it once in the loss function, after the model: the recorded activity losses are set back
    to zero. Inside `nnx.bridge.ToNNX` they are recorded by calls with `mutable=["losses"]`.

    Args:
        model: any nnx module.

    Returns:
        A scalar, float32.

    Raises:
        ValueError: `nnx.bridge.ToNNX` does not tell the regularizers of a weight (`from_linen`
            does), or no call recorded an activity loss.

    Example:
        >>> layer = SeparableConv1D(3, 5, 4, bias_regularizer="l2", rngs=nnx.Rngs(0))
        >>> float(regularization_loss(layer))
        0.0
    """
    check_activity_recorded(model)
    total = jnp.zeros(())
    for path, variable, said in what_is_said(model):
        if isinstance(variable, ActivityLoss) and path[-1] in _ACTIVITY:
            total += jnp.sum(variable[...])
            variable[...] = jnp.zeros_like(variable[...])
        elif said.get("regularizer") is not None:
            total += scalar_loss(str(path[-1]), said["regularizer"](variable[...]))
    return total.astype(jnp.float32)


def constraints_of(model: nnx.Module, wrt: Filter = nnx.Param) -> Any:
    """Collect the constraints that the weights of a model carry.

    Axes that `nnx.vmap` or `nnx.scan` stacked in front of a weight are not seen by its constraint.

    Args:
        model: any nnx module.
        wrt: the filter given to `nnx.Optimizer`.

    Returns:
        A tree shaped like `nnx.state(model, wrt)` with a constraint or None for each variable, for
        `keep_params_constrained`.

    Raises:
        ValueError: `nnx.bridge.ToNNX` does not tell the constraints of a weight: `from_linen` does.

    Example:
        >>> layer = SeparableConv1D(3, 5, 4, bias_constraint="non_neg", rngs=nnx.Rngs(0))
        >>> constraints_of(layer)["bias"]
        NonNeg()
    """
    found = {path: said.get("constraint") for path, _, said in what_is_said(model)}
    paths = (path for path, _ in nnx.to_flat_state(nnx.state(model, wrt)))
    return nnx.from_flat_state((path, found.get(path)) for path in paths)
