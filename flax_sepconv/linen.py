"""The layer as a linen module, and the losses that it records."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import core
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from flax_sepconv import ops
from flax_sepconv.initializers import Initializer
from flax_sepconv.keras import config as keras_config
from flax_sepconv.ops.arguments import DataFormat, Padding, channels_of
from flax_sepconv.ops.lowerings import Implementation
from flax_sepconv.ops.names import names_arguments
from flax_sepconv.ops.sharding import AxisName, OutSharding
from flax_sepconv.spec import Arguments, Identifier, scalar_loss

_ARGUMENTS = tuple(field.name for field in dataclasses.fields(Arguments))


class SeparableConv1D(nn.Module):
    """Filter every channel on its own, then mix the channels: Keras' SeparableConv1D in Flax.

    h[b, l, c*M + m] = sum_i x[b, l*S + i*D - pad_low, c] * depthwise_kernel[i, c, m]
    y[b, l, f] = activation(sum_j h[b, l, j] * pointwise_kernel[0, j, f] + bias[f])

    Collections: the weights are in "params" (in "non_trainable" with `trainable=False`); the values
    of the regularizers are recorded in "losses" at each call that makes it mutable, except in
    `init`, as "depthwise_kernel_loss", "pointwise_kernel_loss", "bias_loss" and "activity". (A
    transformation that lifts the layer, such as `nn.scan`, must be told of "losses" too.) Pass no
    earlier "losses" in: the activity loss would be added to them. Constraints act after the
    optimizer's update (`constraints_of`, `keep_params_constrained`), never inside the call.

    Args:
        filters: F, output channels.
        kernel_size: K, taps of the depthwise kernels.
        strides: S, input steps between output steps.
        padding: "valid", "same" (TensorFlow's: the odd zero goes to the right), "causal",
            "circular" or "reflect", in any case; or zeros at both ends: a number, or (low, high).
        data_format: "channels_last", (..., L, C), or "channels_first", (..., C, L).
        dilation_rate: D, input steps between taps; S and D may not both differ from 1.
        depth_multiplier: M, depthwise filters per input channel.
        activation: None, a Keras name or dict ("hard_sigmoid" is Keras 3's), or a callable.
        use_bias: whether a bias is added after the pointwise stage.
        depthwise_initializer, pointwise_initializer, bias_initializer: None (Glorot uniform for the
            kernels, zeros for the bias), a Keras name or dict, or a callable (key, shape, dtype).
        depthwise_regularizer, pointwise_regularizer, bias_regularizer: None, a Keras name or dict,
            or a callable: weight -> scalar.
        activity_regularizer: the same, of the output; its value is divided by the batch size.
        depthwise_constraint, pointwise_constraint, bias_constraint: None, a Keras name or dict, or
            a callable: weight -> weight.
        trainable: whether the weights are in "params" or, invisible to optimizers, in
            "non_trainable".
        dtype: of the computation; None promotes inputs and weights.
        param_dtype: of the weights.
        precision: of the contractions; None is the platform's default.
        implementation: the depthwise lowering by name; None takes the best one known.
            "grouped_conv" is what tools that quantize or convert can look into.
        decode: whether the layer is given its sequences in chunks (below).
        name: of the submodule; None numbers them: "SeparableConv1D_0", ...

    With `decode` each call takes the next chunk, of any size, of every sequence of the batch. The
    collection "cache" holds their states and must be mutable; a call without it begins them.

        >>> layer = SeparableConv1D(filters=5, kernel_size=4, padding="causal", decode=True)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 1, 3)))
        >>> for size in (7, 1, 2):
        ...     chunk = jnp.ones((2, size, 3))
        ...     y, updates = layer.apply(variables, chunk, mutable=["cache"])
        ...     variables = variables | updates
        >>> variables["cache"]["history"].shape
        (2, 3, 3)

    Raises:
        ValueError, TypeError: an argument or the input breaks its rule.

    Example:
        >>> layer = SeparableConv1D(filters=5, kernel_size=4, padding="same", depth_multiplier=2)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 10, 3)))
        >>> for name, weight in sorted(variables["params"].items()):
        ...     print(name, weight.shape)
        bias (5,)
        depthwise_kernel (4, 3, 2)
        pointwise_kernel (1, 6, 5)
        >>> layer.apply(variables, jnp.ones((2, 10, 3))).shape
        (2, 10, 5)

    Source: https://www.tensorflow.org/api_docs/python/tf/compat/v1/layers/separable_conv1d,
    https://keras.io/api/layers/convolution_layers/separable_convolution1d/
    """

    filters: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = "valid"
    data_format: DataFormat = "channels_last"
    dilation_rate: int | Sequence[int] = 1
    depth_multiplier: int = 1
    activation: Identifier = None
    use_bias: bool = True
    depthwise_initializer: Identifier = None
    pointwise_initializer: Identifier = None
    bias_initializer: Identifier = None
    depthwise_regularizer: Identifier = None
    pointwise_regularizer: Identifier = None
    bias_regularizer: Identifier = None
    activity_regularizer: Identifier = None
    depthwise_constraint: Identifier = None
    pointwise_constraint: Identifier = None
    bias_constraint: Identifier = None
    trainable: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: lax.PrecisionLike = None
    implementation: Implementation | None = None
    decode: bool = False

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        cls.__init__ = names_arguments(cls.__init__)  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        # A wrong argument is an error where it is given.
        self.arguments().check_decode(self.decode)
        super().__post_init__()

    @nn.nowrap
    def arguments(self) -> Arguments:
        """Return the arguments of the layer, checked and resolved."""
        return Arguments(**{name: _plain(getattr(self, name)) for name in _ARGUMENTS})

    @classmethod
    def from_keras_config(
        cls, config: Mapping[str, Any], version: int | None = None
    ) -> "SeparableConv1D":
        """Make the layer that a dict of Keras 2 or Keras 3 describes.

        Args:
            config: what a Keras layer's `get_config()` gave, or the serialized layer around it.
            version: of that Keras, 2 (TF1 too) or 3; None: the config tells, as all do that Keras
                wrote. It counts for "hard_sigmoid", which is two functions.

        Raises:
            ValueError, TypeError: names the argument, and any object that is not Keras' own; or
                "hard_sigmoid" is asked for, and neither `version` nor the config tells which.

        Example:
            >>> SeparableConv1D.from_keras_config({"filters": 5, "kernel_size": [3]}).kernel_size
            3
        """
        return cls(**keras_config.arguments_of(config, version))

    @nn.nowrap
    def to_keras_config(self, version: int = 3) -> dict[str, Any]:
        """Return the dict from which `keras.layers.SeparableConv1D.from_config` makes the layer.

        Args:
            version: of Keras, 2 or 3.

        Raises:
            ValueError: Keras has no such layer (Keras 3 none with padding "causal").
            TypeError: an argument is a callable of your own, which no dict can hold.

        Example:
            >>> SeparableConv1D(5, 3, activation="relu").to_keras_config()["activation"]
            'relu'
        """
        arguments = self.arguments()
        return keras_config.config_of(arguments, self.name, self.dtype, self.param_dtype, version)

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

    @nn.compact
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
                sequence alone, and zeros follow; what `inputs` hold behind its end, NaN included,
                changes neither them nor any gradient. An activity regularizer sees those zeros;
                its value is still divided by the size of the batch, as Keras does.
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

        With `decode` and strides, or another padding than "causal", the chunk gives each sequence
        as many output steps as the variable "steps" of the cache then says, and zeros behind them.
        A `kernel_size` of 1 leaves nothing to remember: "history" has no elements then, and Orbax
        saves no such array.
        """
        arguments = self.arguments()
        channels = channels_of("inputs", inputs, arguments.data_format)
        weights, losses = {}, {}
        for name, shape, initializer, regularizer, _ in arguments.parameters(channels):
            weights[name] = self._weight(name, initializer, shape)
            if regularizer is not None and self.is_mutable_collection("losses"):
                losses[name] = scalar_loss(name, regularizer(weights[name]))
        x, *promoted = promote_dtype(inputs, *weights.values(), dtype=self.dtype)
        arguments.check_call(self.decode, reset, initial_state, return_state, flush)
        if self.decode:
            initial_state = fresh = arguments.initial_state(x.shape, x.dtype)
            if self.has_variable("cache", "history"):
                initial_state = fresh.replaced(self.variables["cache"])
            if reset is not None:
                initial_state = initial_state.reset(reset)
        y, state = arguments.apply(
            x,
            dict(zip(weights, promoted, strict=True)),
            self.precision,
            lengths,
            segment_ids,
            initial_state,
            return_state or self.decode,
            axis_name,
            out_sharding,
            flush,
        )
        if self.decode:
            after: Any = fresh if self.is_initializing() else state
            for name, array in after.arrays.items():
                self.put_variable("cache", name, array)
        if not self.is_initializing():
            for name, loss in losses.items():
                self.sow("losses", f"{name}_loss", loss, _latest, lambda: jnp.zeros(()))
            activity = arguments.activity_loss(y, axis_name)
            if activity is not None:
                self.sow("losses", "activity", activity, jnp.add, lambda: jnp.zeros(()))
        if not return_state:
            return y
        assert state is not None
        return y, state

    @nn.nowrap
    def _weight(self, name: str, initializer: Initializer, shape: tuple[int, ...]) -> jax.Array:
        if self.trainable:
            return self.param(name, initializer, shape, self.param_dtype)

        def initial() -> jax.Array:
            return initializer(self.make_rng("params"), shape, self.param_dtype)

        return self.variable("non_trainable", name, initial).value


# Flax has written the method.
SeparableConv1D.__init__ = names_arguments(SeparableConv1D.__init__)  # type: ignore[method-assign]


def regularization_loss(variables: Mapping[str, Any]) -> jax.Array:
    """Sum what the layers recorded in the "losses" collection.

    Args:
        variables: what `apply(..., mutable=["losses"])` returned second; without a "losses"
            collection the sum is zero.

    Returns:
        A scalar, float32.

    Example:
        >>> layer = SeparableConv1D(filters=5, kernel_size=4, bias_regularizer="l2")
        >>> x = jnp.ones((2, 10, 3))
        >>> variables = layer.init(jax.random.key(0), x)
        >>> y, recorded = layer.apply(variables, x, mutable=["losses"])
        >>> float(regularization_loss(recorded))
        0.0
    """
    if not isinstance(variables, Mapping):
        raise TypeError(f"variables must be a dict of collections, got {type(variables).__name__}")
    losses = jax.tree.leaves(variables.get("losses", {}))
    return sum((jnp.sum(loss) for loss in losses), jnp.zeros(())).astype(jnp.float32)


def _latest(old: jax.Array, new: jax.Array) -> jax.Array:
    """Count the loss of a weight once, however often its layer is called."""
    del old
    return new


def _plain(value: Any) -> Any:
    """Undo what linen does to module fields: dicts become FrozenDicts."""
    return core.unfreeze(value) if isinstance(value, core.FrozenDict) else value
