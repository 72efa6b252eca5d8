"""TF1's functional layer, for use inside an `nn.compact` method."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import NameInUseError
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from flax_sepconv.keras import versions
from flax_sepconv.linen import SeparableConv1D
from flax_sepconv.ops.arguments import DataFormat, Padding, channels_of
from flax_sepconv.ops.lowerings import Implementation
from flax_sepconv.ops.names import names_arguments
from flax_sepconv.spec import Identifier

AUTO_REUSE = "auto"


@names_arguments
def separable_conv1d(
    inputs: ArrayLike,
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
    bias_initializer: Identifier = "zeros",
    depthwise_regularizer: Identifier = None,
    pointwise_regularizer: Identifier = None,
    bias_regularizer: Identifier = None,
    activity_regularizer: Identifier = None,
    depthwise_constraint: Identifier = None,
    pointwise_constraint: Identifier = None,
    bias_constraint: Identifier = None,
    trainable: bool = True,
    name: str | None = None,
    reuse: bool | str | None = None,
    *,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    precision: lax.PrecisionLike = None,
    implementation: Implementation | None = None,
) -> jax.Array:
    """Make a `SeparableConv1D` in the calling module, and apply it.

    The arguments are those of `tf.compat.v1.layers.separable_conv1d`, in its order, then those that
    only Flax has; `SeparableConv1D` explains them. The name "hard_sigmoid" means TF1's function,
    `activations.hard_sigmoid_keras2`.

    Args:
        inputs: (..., L, C), or (..., C, L) with "channels_first".
        name: of the layer's parameters in the calling module.
        reuse: whether the weights of an earlier call with the same name are shared. None and
            False: never, the name must be new. True: they must exist. "auto": where they exist.
            What belongs to a weight (shape, initializer, regularizer, constraint, trainable) is
            settled by the call that made it; strides, dilation, padding and activation may differ.

    Returns:
        (..., output length, F), or (..., F, output length).

    Raises:
        ValueError: an argument breaks its rule; the name is taken and `reuse` is not set; `reuse`
            is True without a name or without weights to share; the shapes to share differ.
        RuntimeError: the caller is no `nn.compact` method.

    Example:
        >>> class Twice(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         narrow = separable_conv1d(x, 5, 3, padding="same", name="conv")
        ...         wide = separable_conv1d(
        ...             x, 5, 3, padding="same", dilation_rate=2, name="conv", reuse=True
        ...         )
        ...         return narrow + wide
        >>> variables = Twice().init(jax.random.key(0), jnp.ones((2, 10, 3)))
        >>> list(variables["params"]), sorted(variables["params"]["conv"])
        (['conv'], ['bias', 'depthwise_kernel', 'pointwise_kernel'])

    Source: https://www.tensorflow.org/api_docs/python/tf/compat/v1/layers/separable_conv1d
    """
    options: dict[str, Any] = {
        key: value for key, value in locals().items() if key not in ("inputs", "name", "reuse")
    }
    options["activation"] = versions.activation_of(activation, 2)
    if not (reuse is None or isinstance(reuse, bool) or reuse == AUTO_REUSE):
        raise ValueError(f"reuse must be None, False, True or {AUTO_REUSE!r}, got {reuse!r}")
    if reuse is True and name is None:
        raise ValueError("reuse=True needs the name of the layer to share, got name=None")
    parent = _calling_module()
    channels = channels_of("inputs", inputs, data_format)
    maker = parent._state.children.get(name or "")
    if reuse and isinstance(maker, SeparableConv1D):
        layer = _sharing(parent, maker, channels, reuse, options)
    elif reuse is True:
        raise ValueError(f"reuse=True: no earlier call made a layer {name!r} to share")
    else:
        try:
            layer = SeparableConv1D(**options, name=name)
        except NameInUseError as error:
            raise ValueError(
                f"name {name!r} is taken in {type(parent).__name__}: reuse must be True or "
                f"{AUTO_REUSE!r} to share its weights, got {reuse!r}"
            ) from error
    return layer(inputs)


def _calling_module() -> nn.Module:
    # Flax has no public way to ask for the module whose compact method is running.
    parent = nn.module._context.module_stack[-1]
    if parent is None or not parent._state.in_compact_method:
        raise RuntimeError("separable_conv1d must be called inside an nn.compact method")
    return parent


def _sharing(
    parent: nn.Module,
    maker: SeparableConv1D,
    channels: int,
    reuse: bool | str,
    options: dict[str, Any],
) -> SeparableConv1D:
    """Make a layer on the scope of the one that made the weights in this call of the parent."""
    made = {weight.name: weight for weight in maker.arguments().parameters(channels)}
    # A weight keeps the regularizer and the constraint of the call that made it.
    settled = {
        f"{name.removesuffix('_kernel')}_{what}": None
        for name in made
        for what in ("regularizer", "constraint")
    }
    options = options | settled | {"trainable": maker.trainable}
    scope: Any = parent.scope.push(maker.name, reuse=True)  # type: ignore[union-attr]
    layer = SeparableConv1D(**options, parent=scope, name=maker.name)
    for weight in layer.arguments().parameters(channels):
        if weight.name in made and made[weight.name].shape != weight.shape:
            raise ValueError(
                f"reuse={reuse!r}: the {weight.name} of layer {maker.name!r} has shape "
                f"{made[weight.name].shape}, this call needs {weight.shape}"
            )
        if weight.name not in made and reuse is True:
            raise ValueError(f"reuse=True: layer {maker.name!r} has no {weight.name} to share")
    if layer.use_bias:
        parent._state.children[str(maker.name)] = layer  # It has made all weights there can be.
    return layer
