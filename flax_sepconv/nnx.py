"""The layers as nnx modules, and what belongs to them: their losses and their constraints."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.filterlib import Filter
from jax import lax
from jax.typing import DTypeLike

from flax_sepconv.bridge import check_activity_recorded, from_linen
from flax_sepconv.nnx_layer import ActivityLoss, NnxLayer, NonTrainable
from flax_sepconv.ops.arguments import DataFormat, Padding
from flax_sepconv.ops.lowerings import Implementation
from flax_sepconv.ops.names import names_arguments
from flax_sepconv.quantization.config import Int8
from flax_sepconv.quantization.nnx_memory import QuantizationState
from flax_sepconv.spec import DepthwiseArguments, Identifier, SeparableArguments, scalar_loss
from flax_sepconv.weights import what_is_said

__all__ = [
    "ActivityLoss",
    "DepthwiseConv1D",
    "NonTrainable",
    "QuantizationState",
    "SeparableConv1D",
    "constraints_of",
    "from_linen",
    "regularization_loss",
]

# What the loss of an activity regularizer is called, here and inside `nnx.bridge.ToNNX`.
_ACTIVITY = ("activity_loss", "activity")


class SeparableConv1D(NnxLayer):
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
        quantization: None, or a `quantization.Int8`: weights and activations are rounded to 8 bits
            while the layer trains, and integers once they are converted. Ranges are observed in
            `train()` mode, as a layer is made, and used as they are in `eval()` mode.
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

    spec = SeparableArguments

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
        quantization: Int8 | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            in_features,
            locals(),
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            decode=decode,
            quantization=quantization,
            rngs=rngs,
        )


class DepthwiseConv1D(NnxLayer):
    """Filter every channel on its own: Keras' DepthwiseConv1D in Flax.

    y[b, l, c*M + m] = activation(
        sum_i x[b, l*S + i*D - pad_low, c] * depthwise_kernel[i, c, m] + bias[c*M + m])

    The first stage of `SeparableConv1D`, for a normalization, an activation or anything else to
    come before the second, which is `nnx.Linear(in_features * depth_multiplier, filters)`. The same
    weights give the same numbers as in the linen layer, `flax_sepconv.DepthwiseConv1D`.

    Args:
        in_features: C, input channels.
        kernel_size: K, taps of the kernels.
        strides, padding: as for `SeparableConv1D`.
        depth_multiplier: M, filters per input channel.
        data_format, dilation_rate, activation: as for `SeparableConv1D`.
        use_bias: whether a bias is added.
        depthwise_initializer, bias_initializer, depthwise_regularizer, bias_regularizer,
            activity_regularizer, depthwise_constraint, bias_constraint, trainable, dtype,
            param_dtype, precision, implementation, decode, quantization, rngs: as for
            `SeparableConv1D`.

    Raises:
        ValueError, TypeError: an argument or the input breaks its rule.

    Example:
        >>> layer = DepthwiseConv1D(3, kernel_size=4, depth_multiplier=2, rngs=nnx.Rngs(0))
        >>> layer.depthwise_kernel.shape, layer.bias.shape
        ((4, 3, 2), (6,))
        >>> layer(jnp.ones((2, 10, 3))).shape
        (2, 7, 6)

    Source: https://keras.io/api/layers/convolution_layers/depthwise_convolution1d/
    """

    spec = DepthwiseArguments

    @names_arguments
    def __init__(
        self,
        in_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        depth_multiplier: int = 1,
        data_format: DataFormat = "channels_last",
        dilation_rate: int | Sequence[int] = 1,
        activation: Identifier = None,
        use_bias: bool = True,
        depthwise_initializer: Identifier = None,
        bias_initializer: Identifier = None,
        depthwise_regularizer: Identifier = None,
        bias_regularizer: Identifier = None,
        activity_regularizer: Identifier = None,
        depthwise_constraint: Identifier = None,
        bias_constraint: Identifier = None,
        trainable: bool = True,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: lax.PrecisionLike = None,
        implementation: Implementation | None = None,
        decode: bool = False,
        quantization: Int8 | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            in_features,
            locals(),
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            decode=decode,
            quantization=quantization,
            rngs=rngs,
        )


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
