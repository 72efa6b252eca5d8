"""What the linen layers have in common: their call, their configs and their losses."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, Unpack, overload

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import core
from flax.linen.dtypes import promote_dtype
from jax.typing import ArrayLike

from flax_sepconv import ops
from flax_sepconv.initializers import Initializer
from flax_sepconv.keras import config as keras_config
from flax_sepconv.ops.arguments import channels_of
from flax_sepconv.ops.names import names_arguments
from flax_sepconv.ops.sharding import AxisName, OutSharding
from flax_sepconv.quantization.config import check
from flax_sepconv.quantization.linen_memory import quantized_of, remember
from flax_sepconv.spec import Arguments, CallOptions, scalar_loss


class LinenLayer(nn.Module):
    """A layer whose fields are the arguments of a spec, and those that only Flax has.

    Attributes:
        spec: of its arguments.
    """

    spec: ClassVar[type[Arguments]]

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        cls.__init__ = names_arguments(cls.__init__)  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        # A wrong argument is an error where it is given.
        self.arguments().check_decode(self.decode)
        check(self.quantization, self.implementation)
        super().__post_init__()

    @nn.nowrap
    def arguments(self) -> Arguments:
        """Return the arguments of the layer, checked and resolved."""
        names = (field.name for field in dataclasses.fields(self.spec))
        return self.spec(**{name: _plain(getattr(self, name)) for name in names})

    @classmethod
    def from_keras_config(cls, config: Mapping[str, Any], version: int | None = None) -> Self:
        """Make the layer that a dict of Keras 2 or Keras 3 describes.

        Args:
            config: what a Keras layer's `get_config()` gave, or the serialized layer around it.
            version: of that Keras, 2 (TF1 too) or 3; None: the config tells, as all do that Keras
                wrote. It counts for "hard_sigmoid", which is two functions.

        Raises:
            ValueError, TypeError: names the argument, and any object that is not Keras' own; or
                "hard_sigmoid" is asked for, and neither `version` nor the config tells which.

        Example:
            >>> import flax_sepconv as fsc
            >>> config = {"filters": 5, "kernel_size": [3]}
            >>> fsc.SeparableConv1D.from_keras_config(config).kernel_size
            3
        """
        return cls(**keras_config.arguments_of(config, version, cls.spec))

    @nn.nowrap
    def to_keras_config(self, version: int = 3) -> dict[str, Any]:
        """Return the dict from which Keras' layer of this name is made, by its `from_config`.

        Args:
            version: of Keras, 2 or 3.

        Raises:
            ValueError: Keras has no such layer (with "causal": but a `SeparableConv1D` of Keras 2).
            TypeError: an argument is a callable of your own, which no dict can hold.

        Example:
            >>> import flax_sepconv as fsc
            >>> fsc.SeparableConv1D(5, 3, activation="relu").to_keras_config()["activation"]
            'relu'
        """
        arguments = self.arguments()
        keras_config.refuse_quantization(self.quantization)
        return keras_config.config_of(arguments, self.name, self.dtype, self.param_dtype, version)

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

        Without a pointwise stage F is C*M.

        Args:
            inputs: floating point.
            lengths: integers (...), one for each sequence of the batch, or None: all are whole.
                The first `ops.output_length(length, ...)` steps are what the layer gives for the
                sequence alone, and zeros follow; what `inputs` hold behind its end, NaN included,
                changes neither them nor any gradient. An activity regularizer sees those zeros;
                its value is still divided by the size of the batch, as Keras does.
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
            is_real = jnp.issubdtype(weights[name].dtype, jnp.floating)
            if regularizer is not None and is_real and self.is_mutable_collection("losses"):
                losses[name] = scalar_loss(name, regularizer(weights[name]))
        quantized = quantized_of(self, arguments, weights)
        if quantized is None:
            x, *promoted = promote_dtype(inputs, *weights.values(), dtype=self.dtype)
        else:  # Integers are made of weights as they are kept.
            x, _ = promote_dtype(inputs, jnp.zeros((), self.param_dtype), dtype=self.dtype)
            promoted = list(weights.values())
        arguments.check_call(self.decode, reset, initial_state, return_state, flush, segment_ids)
        if self.decode:
            initial_state = fresh = arguments.initial_state(x.shape, x.dtype)
            if self.has_variable("cache", "history"):
                initial_state = fresh.replaced(self.variables["cache"])
            if reset is not None:
                initial_state = initial_state.reset(reset)
        y, state = (quantized or arguments).apply(
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
        if quantized is not None:
            remember(self, quantized.memory)
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


def _latest(old: jax.Array, new: jax.Array) -> jax.Array:
    """Count the loss of a weight once, however often its layer is called."""
    del old
    return new


def _plain(value: Any) -> Any:
    """Undo what linen does to module fields: dicts become FrozenDicts."""
    return core.unfreeze(value) if isinstance(value, core.FrozenDict) else value
