"""The layers as linen modules, and the losses that they record."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from flax_sepconv.linen_layer import LinenLayer
from flax_sepconv.ops.arguments import DataFormat, Padding
from flax_sepconv.ops.lowerings import Implementation
from flax_sepconv.quantization.config import Int8
from flax_sepconv.spec import DepthwiseArguments, Identifier, SeparableArguments


class SeparableConv1D(LinenLayer):
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
        quantization: None, or a `quantization.Int8`: weights and activations are rounded to 8 bits
            while the layer trains, and integers once they are converted.
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

    spec = SeparableArguments

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
    quantization: Int8 | None = None


class DepthwiseConv1D(LinenLayer):
    """Filter every channel on its own: Keras' DepthwiseConv1D in Flax.

    y[b, l, c*M + m] = activation(
        sum_i x[b, l*S + i*D - pad_low, c] * depthwise_kernel[i, c, m] + bias[c*M + m])

    The first stage of `SeparableConv1D`, for a normalization, an activation or anything else to
    come before the second, which is `nn.Dense(filters)`. Where nothing comes between them,
    `SeparableConv1D` is faster than both. Collections, chunks (`decode`), losses and constraints
    are the same.

    Args:
        kernel_size: K, taps of the kernels.
        strides, padding: as for `SeparableConv1D`.
        depth_multiplier: M, filters per input channel.
        data_format, dilation_rate, activation: as for `SeparableConv1D`.
        use_bias: whether a bias is added.
        depthwise_initializer, bias_initializer, depthwise_regularizer, bias_regularizer,
            activity_regularizer, depthwise_constraint, bias_constraint, trainable, dtype,
            param_dtype, precision, implementation, decode, quantization: as for `SeparableConv1D`.
        name: of the submodule; None numbers them: "DepthwiseConv1D_0", ...

    Raises:
        ValueError, TypeError: an argument or the input breaks its rule.

    Example:
        >>> layer = DepthwiseConv1D(kernel_size=4, padding="same", depth_multiplier=2)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 10, 3)))
        >>> for name, weight in sorted(variables["params"].items()):
        ...     print(name, weight.shape)
        bias (6,)
        depthwise_kernel (4, 3, 2)
        >>> layer.apply(variables, jnp.ones((2, 10, 3))).shape
        (2, 10, 6)

    Source: https://keras.io/api/layers/convolution_layers/depthwise_convolution1d/
    """

    spec = DepthwiseArguments

    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = "valid"
    depth_multiplier: int = 1
    data_format: DataFormat = "channels_last"
    dilation_rate: int | Sequence[int] = 1
    activation: Identifier = None
    use_bias: bool = True
    depthwise_initializer: Identifier = None
    bias_initializer: Identifier = None
    depthwise_regularizer: Identifier = None
    bias_regularizer: Identifier = None
    activity_regularizer: Identifier = None
    depthwise_constraint: Identifier = None
    bias_constraint: Identifier = None
    trainable: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: lax.PrecisionLike = None
    implementation: Implementation | None = None
    decode: bool = False
    quantization: Int8 | None = None


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
