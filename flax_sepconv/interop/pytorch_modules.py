"""PyTorch's modules as layers with arguments: strides and padding included.

PyTorch puts as many zeros behind as in front, whatever the length; TensorFlow's "same" puts as many
as ceil(L / S) steps ask for, the odd one behind. They meet at S=1 with an even D*(K-1), and at some
lengths elsewhere.
"""

import dataclasses
import warnings
from typing import Any

from flax_sepconv.interop import pytorch_chain
from flax_sepconv.interop.layer import PADDING, InteropError, InteropWarning, Layer
from flax_sepconv.interop.pytorch import layer_of
from flax_sepconv.interop.state_dict import array, require
from flax_sepconv.keras.config import config_of
from flax_sepconv.ops import geometry
from flax_sepconv.ops.arguments import Padding
from flax_sepconv.ops.geometry import EDGES, PADDINGS, EdgePadding, PaddingRule
from flax_sepconv.ops.paddings import padding_rule
from flax_sepconv.spec import BIAS, Identifier


def from_modules(
    depthwise: Any,
    pointwise: Any = None,
    activation: Identifier = None,
    *,
    padding: Padding | None = None,
    length: int | None = None,
    path: str = "",
    fold_norms: bool = False,
) -> Layer:
    """Return the layer that computes activation(pointwise(depthwise(x))) in inference.

    Without a second module it is a `DepthwiseConv1D`: activation(depthwise(x)).

    The layer's config says channels_last; PyTorch's own arrays are (B, C, L), for which
    `layer.arguments() | {"data_format": "channels_first"}` makes the layer.

    Args:
        depthwise: `Conv1d(C, C*M, K, groups=C)`, or a `Sequential` that starts with one.
        pointwise: `Conv1d(C*M, F, 1)`, or `Linear(C*M, F)`, applied to the channels; or a
            `Sequential`. None where the first `Sequential` has both, or there is none. Dropout is
            passed over, an activation behind the convolution is the layer's, and what follows that
            is left.
        activation: what follows, as the layer takes it: "relu".
        padding: of the layer, from a caller who knows better than the modules: "causal" where
            D*(K-1) zeros are put in front of the input by hand, "valid" where what `depthwise`
            pads will be put there by hand. None works it out by `padding_of`.
        length: L, if it is always the same: `padding_of` may then find "same", which Keras has too.
        path: of the layer.
        fold_norms: whether a BatchNorm between the two, as it is in inference, is folded into the
            layer, which is exact; else it is an error.

    Raises:
        InteropError: the two modules are no layer of ours, or something stands between them; names
            the argument, and what is nearest.

    Warns:
        InteropWarning: of modules behind the layer that are not converted.
    """
    chain = pytorch_chain.parse(depthwise, pointwise, fold_norms)
    depthwise, pointwise = chain.depthwise, chain.pointwise
    if chain.activation is not None:
        if activation is not None:
            raise InteropError(f"activation is {activation!r}, and the modules have one, too")
        activation = chain.activation
    _check_depthwise(depthwise)
    if pointwise is not None:
        _check_pointwise(pointwise)
    (K,), (S,), (D,) = depthwise.kernel_size, depthwise.stride, depthwise.dilation
    if padding is None:
        given = depthwise.padding
        given = given if isinstance(given, str) else given[0]
        padding = padding_of(K, S, D, given, length, depthwise.padding_mode)
    M = depthwise.out_channels // depthwise.in_channels
    arrays = (
        _arrays("depthwise", depthwise),
        None if pointwise is None else _arrays("pointwise", pointwise),
    )
    norms = [(_arrays("norm", norm), norm.eps) for norm in chain.norms]
    layer = layer_of(path, *arrays, M, norms)
    resolvable: Any = activation  # The arguments resolve it.
    filters: dict[str, Any] = {} if pointwise is None else {"filters": layer.sizes["F"]}
    try:
        arguments = layer.spec(
            **filters,
            kernel_size=K,
            strides=S,
            padding=padding_rule(padding),
            dilation_rate=D,
            depth_multiplier=M,
            activation=resolvable,
            use_bias=BIAS in layer.weights,
        )
        name = path.rpartition("/")[2] or None
        # Keras 2's dict, which has "causal" too.
        is_of_keras = arguments.padding in PADDINGS
        described = arguments if is_of_keras else dataclasses.replace(arguments, padding="valid")
        config = config_of(described, name, param_dtype=layer.dtype, version=2)
        if not is_of_keras:
            own = arguments.padding
            config[PADDING] = list(own) if isinstance(own, tuple) else own
    except (TypeError, ValueError) as error:
        raise InteropError(f"layer {path!r}: {error}") from error
    if chain.left:
        told = ", ".join(chain.left)
        warnings.warn(f"layer {path!r}: not converted: {told}", InteropWarning, stacklevel=2)
    return dataclasses.replace(layer, config=config)


def padding_of(
    kernel_size: int,
    stride: int,
    dilation: int,
    padding: int | str,
    length: int | None = None,
    mode: str = "zeros",
) -> PaddingRule:
    """Return the layer's padding that does what a `Conv1d` with these arguments does.

    A name that Keras knows where there is one, else a pair of numbers of zeros.

    Args:
        kernel_size: K.
        stride: S.
        dilation: D.
        padding: PyTorch's: zeros on each side, "valid" or "same".
        length: L, if it is always the same; the answer then holds for no other.
        mode: PyTorch's `padding_mode`.

    Raises:
        InteropError: none does; says how to pad by hand.

    Example:
        >>> padding_of(kernel_size=5, stride=1, dilation=2, padding=4)
        'same'
        >>> padding_of(kernel_size=3, stride=2, dilation=1, padding=1, length=33)
        'same'
        >>> padding_of(kernel_size=3, stride=2, dilation=1, padding=1)
        (1, 1)
    """
    K, S, D, zeros = kernel_size, stride, dilation, padding
    if zeros == "same":
        if S != 1:
            raise InteropError(f"padding 'same' of a Conv1d needs stride 1, got {S}")
        # The odd step goes behind here as there.
        return "same" if mode == "zeros" else _from_the_sequence(mode, True, "'same'")
    if zeros in ("valid", 0):
        return "valid"
    if not isinstance(zeros, int):
        raise InteropError(f"padding must be an int, 'valid' or 'same', got {zeros!r}")
    if mode != "zeros":
        return _from_the_sequence(mode, 2 * zeros == D * (K - 1), str(zeros))
    # One more stride is one more output step on both sides: S lengths say it for all.
    good = [L % S for L in range(1, S + 1) if _same_is(L, K, S, D, zeros)]
    if len(good) == S or (length is not None and length % S in good):
        return "same"
    return zeros, zeros


def _from_the_sequence(mode: str, fits: bool, padding: str) -> EdgePadding:
    """Return the layer's padding of a mode that takes what is beyond the ends from the sequence."""
    for edge in EDGES:
        if mode == edge and fits:
            return edge
    raise InteropError(
        f"padding_mode={mode!r} with padding={padding} is no padding of ours, which are 'circular' "
        "and 'reflect' with D*(K-1) steps in all; pad by hand (jnp.pad has modes 'reflect', 'edge' "
        "and 'wrap') before a layer with padding='valid', and give that here"
    )


def _same_is(L: int, K: int, S: int, D: int, zeros: int) -> bool:
    """Tell whether TensorFlow's "same" is this many zeros on each side, at one length."""
    ours = geometry.resolve(L, K, S, D, "same")
    steps = (L + 2 * zeros - D * (K - 1) - 1) // S + 1
    return (ours.pad_low, ours.output_length) == (zeros, steps)


def _check_depthwise(module: Any) -> None:
    if not isinstance(module, require().nn.Conv1d):
        raise InteropError(f"depthwise must be a torch.nn.Conv1d, got {type(module).__name__}")
    if module.groups != module.in_channels:
        raise InteropError(
            f"groups of depthwise must be its in_channels {module.in_channels}, got "
            f"{module.groups}; nearest is a flax.linen.Conv with feature_group_count"
        )


def _check_pointwise(module: Any) -> None:
    torch = require()
    if isinstance(module, torch.nn.Linear):
        return
    if not isinstance(module, torch.nn.Conv1d):
        raise InteropError(
            f"pointwise must be a torch.nn.Conv1d or a torch.nn.Linear, got {type(module).__name__}"
        )
    for name, rule in (("kernel_size", 1), ("stride", 1), ("groups", 1), ("padding", 0)):
        value = getattr(module, name)
        if value not in ((rule,), rule, *(("valid", "same") if name == "padding" else ())):
            raise InteropError(
                f"{name} of pointwise must be {rule}, got {value}; nearest is a flax.linen.Conv "
                "after a flax_sepconv.DepthwiseConv1D"
            )


def _arrays(name: str, module: Any) -> dict[str, Any]:
    names = ("weight", "bias", "running_mean", "running_var")
    tensors = {key: getattr(module, key, None) for key in names}
    return {k: array(f"{name} {k}", tensor) for k, tensor in tensors.items() if tensor is not None}
