"""Layers in PyTorch's state dicts: a separable convolution is two modules of PyTorch.

| PyTorch | shape | here |
|---|---|---|
| weight of `Conv1d(C, C*M, K, groups=C)` | (C*M, 1, K) | `depthwise_kernel` (K, C, M) |
| weight of `Conv1d(C*M, F, 1)` | (F, C*M, 1) | `pointwise_kernel` (1, C*M, F) |
| or of `Linear(C*M, F)` | (F, C*M) | the same |
| bias of the second, and of the first | (F,), (C*M,) | `bias` (F,) |

The first bias is added to every step of the hidden array, those at the ends included. The second
module, 1 wide and without padding, maps it to the same F numbers at every step, whatever zeros were
put around the input: bias + depthwise_bias @ pointwise_kernel is the one bias of the layer. The
first module alone is a `DepthwiseConv1D`, with its own bias.

A state dict says nothing of strides, padding and activation, nor of an activation between the two
modules, which makes them no separable convolution. A norm between them is seen, and folded where it
can be and is to be (`pytorch_norms`). What PyTorch's modules themselves say is read by
`pytorch_modules`.
"""

import dataclasses
import math
import pathlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flax_sepconv.interop import pytorch_norms, pytorch_pairs, state_dict
from flax_sepconv.interop.layer import InteropError, InteropWarning, Layer, refuse_integers, unique
from flax_sepconv.interop.pytorch_norms import EPS
from flax_sepconv.interop.pytorch_pairs import ENDINGS, Pair, Parts
from flax_sepconv.interop.state_dict import require
from flax_sepconv.spec import BIAS, DEPTHWISE_KERNEL, POINTWISE_KERNEL

__all__ = ["ENDINGS", "layer_of", "modules_of", "read", "require", "to_state_dict", "write"]


def read(
    path: pathlib.Path,
    pairs: Mapping[str, Pair] | None = None,
    fold_norms: bool = False,
    norm_eps: float = EPS,
) -> list[Layer]:
    """Read layers from a state dict: in safetensors, or in a file of `torch.save`.

    Args:
        path: of the file. A file of `torch.save` is read with weights_only=True and mapped into
            memory; one of `state_dict.NESTED` in it is opened.
        pairs: by our path, the names of the layer's two modules in the state dict, and M where it
            is not 1, which the shapes alone do not say: {"block/conv": ("block.a", "block.b", 2)}.
            A norm between them that is to be folded stands between their names. One module is a
            `DepthwiseConv1D`. None takes every two modules of one parent that are named like one of
            `ENDINGS`, and the first of two where the second is not there; the layer's path is the
            parent's. A "module." in front of the names stays in the path.
        fold_norms: whether a BatchNorm between the two modules is folded into the layer.
        norm_eps: its eps, which no state dict tells.

    Raises:
        InteropError: the file is damaged or holds more than tensors; a module is missing or is no
            convolution of this form; something stands between the two that is not folded; without
            `pairs`, no names are like any of `ENDINGS`.

    Warns:
        InteropWarning: of norms that were folded, and of all that is in no layer.
    """
    with state_dict.opened(path) as state:
        found, told = _resolve(state, pairs, fold_norms, norm_eps)
        layers = [_layer(state, parts, norm_eps) for parts in found]
    for message in told:
        warnings.warn(message, InteropWarning, stacklevel=2)
    return layers


def write(path: pathlib.Path, layers: Sequence[Layer]) -> None:
    """Write `to_state_dict(layers)`: to "*.safetensors" in that form, else by `torch.save`.

    M is kept where `load_state_dict` passes it over and `read` finds it.
    """
    multipliers = {_module(layer.path, "depthwise"): layer.sizes["M"] for layer in layers}
    state_dict.save(path, to_state_dict(layers), multipliers)


def to_state_dict(layers: Iterable[Layer]) -> dict[str, np.ndarray]:
    """Return the weights for modules named "depthwise" and "pointwise" at each layer's path.

    A `DepthwiseConv1D` has the first of them alone.

    Example:
        >>> layer = Layer("block/conv", {"depthwise_kernel": np.ones((3, 4, 2), "f"),
        ...                              "pointwise_kernel": np.ones((1, 8, 5), "f")})
        >>> {name: weight.shape for name, weight in to_state_dict([layer]).items()}
        {'block.conv.depthwise.weight': (8, 1, 3), 'block.conv.pointwise.weight': (5, 8, 1)}
    """
    state: dict[str, np.ndarray] = {}
    for layer in unique(layers, "the list of layers"):
        refuse_integers(layer, "a state dict")
        K, C, M = layer.weights[DEPTHWISE_KERNEL].shape
        depthwise = layer.weights[DEPTHWISE_KERNEL].transpose(1, 2, 0).reshape(C * M, 1, K)
        last = _module(layer.path, "depthwise")
        own = {f"{last}.weight": depthwise}
        if POINTWISE_KERNEL in layer.weights:
            last = _module(layer.path, "pointwise")
            own[f"{last}.weight"] = layer.weights[POINTWISE_KERNEL].T
        if BIAS in layer.weights:
            own[f"{last}.bias"] = layer.weights[BIAS]
        if own.keys() & state.keys():
            raise InteropError(f"layer {layer.path!r} has the name of another one in a state dict")
        state |= {name: np.array(weight, order="C") for name, weight in own.items()}
    return state


def modules_of(
    path: pathlib.Path,
    layer: str,
    pairs: Mapping[str, Pair] | None = None,
    fold_norms: bool = False,
    norm_eps: float = EPS,
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any] | None]:
    """Return the tensors of a layer's modules by their names there, as PyTorch reads them.

    They are those of the depthwise module, of the norms behind it, and of the pointwise module,
    where there is one.

    Raises:
        InteropError: as `read` does; there is no such layer.
    """
    with state_dict.opened(path) as state:
        found = {parts.path: parts for parts in _resolve(state, pairs, fold_norms, norm_eps)[0]}
        if layer not in found:
            raise InteropError(f"{path} has no layer {layer!r}; there are {', '.join(found)}")
        names = _names(state, found[layer])
    tensors = state_dict.tensors_of(path)
    depthwise, *norms = ({k: tensors[name] for k, name in own.items()} for own in names)
    pointwise = norms.pop() if norms else None
    return depthwise, norms, pointwise


def layer_of(
    path: str,
    depthwise: Mapping[str, np.ndarray],
    pointwise: Mapping[str, np.ndarray] | None,
    multiplier: int,
    norms: Sequence[tuple[Mapping[str, np.ndarray], float]] = (),
) -> Layer:
    """Return the layer of one or two modules' arrays, by "weight" and "bias".

    Args:
        path: of the layer.
        depthwise: the first module's.
        pointwise: the second's, or None: there is none.
        multiplier: M.
        norms: between the two in inference form, with the eps of each.

    Raises:
        InteropError: names the layer, and the weight that does not fit.
    """
    taps = depthwise["weight"]
    if taps.ndim != 3 or taps.shape[1] != 1 or taps.shape[0] % multiplier:
        raise InteropError(
            f"layer {path!r}: its depthwise weight must be (C*M, 1, K) with M={multiplier}, got "
            f"shape {taps.shape}"
        )
    K, C, M = taps.shape[2], taps.shape[0] // multiplier, multiplier
    weights = {DEPTHWISE_KERNEL: taps.reshape(C, M, K).transpose(2, 0, 1)}
    if pointwise is not None:
        mixing = pointwise["weight"]
        if mixing.ndim not in (2, 3) or mixing.shape[2:] not in ((), (1,)):
            raise InteropError(
                f"layer {path!r}: its pointwise weight must be (F, C*M, 1), or (F, C*M) of a "
                f"Linear, got shape {mixing.shape}"
            )
        weights[POINTWISE_KERNEL] = mixing.reshape(mixing.shape[:2]).T[None]
    last = depthwise if pointwise is None else pointwise
    if "bias" in last:
        weights[BIAS] = last["bias"]
    # Copies: what is given may be a file's memory, or a module's that is trained on.
    layer = Layer(path, {name: np.array(weight, order="C") for name, weight in weights.items()})
    if pointwise is None:
        return layer
    bias = depthwise.get("bias")
    if bias is not None and (bias.shape != taps.shape[:1] or bias.dtype != layer.dtype):
        raise InteropError(
            f"layer {path!r}: its depthwise bias must be ({taps.shape[0]},) of {layer.dtype}, got "
            f"shape {bias.shape} of {bias.dtype}"
        )
    if norms:
        layer, bias = _fold_norms(layer, bias, norms)
    return layer if bias is None else _fold_bias(layer, bias)


def _resolve(
    state: state_dict.State, pairs: Mapping[str, Pair] | None, fold_norms: bool, norm_eps: float
) -> tuple[list[Parts], list[str]]:
    if not (isinstance(norm_eps, int | float) and norm_eps >= 0 and math.isfinite(norm_eps)):
        raise InteropError(f"norm_eps (--norm-eps) must be a number >= 0, got {norm_eps!r}")
    return pytorch_pairs.resolve(state, pairs, fold_norms, norm_eps)


def _layer(state: state_dict.State, parts: Parts, norm_eps: float) -> Layer:
    depthwise, *norms = (
        {key: state.get(name) for key, name in own.items() if key != "num_batches_tracked"}
        for own in _names(state, parts)
    )
    pointwise = norms.pop() if norms else None
    with_eps = [(norm, norm_eps) for norm in norms]
    return layer_of(parts.path, depthwise, pointwise, parts.multiplier, with_eps)


def _names(state: state_dict.State, parts: Parts) -> list[dict[str, str]]:
    """Return the names of the tensors of each module, in order."""
    path, depthwise, norms, pointwise, _ = parts
    names = [
        pytorch_pairs.tensors_of(state, path, depthwise),
        *(pytorch_pairs.norm_of(state, path, norm) for norm in norms),
    ]
    if pointwise is not None:
        names.append(pytorch_pairs.tensors_of(state, path, pointwise))
    return names


def _fold_norms(
    layer: Layer,
    depthwise_bias: np.ndarray | None,
    norms: Sequence[tuple[Mapping[str, np.ndarray], float]],
) -> tuple[Layer, np.ndarray]:
    """Return the layer with its taps scaled, and the depthwise bias, in float64."""
    _, C, M = layer.weights[DEPTHWISE_KERNEL].shape
    factors, bias = np.ones(C * M), np.zeros(C * M)
    if depthwise_bias is not None:
        bias += depthwise_bias
    for norm, eps in norms:
        what = f"layer {layer.path!r}: the norm between its two modules"
        scale, shift = pytorch_norms.affine(norm, eps, C * M, what)
        factors, bias = factors * scale, bias * scale + shift
    taps = layer.weights[DEPTHWISE_KERNEL].astype(np.float64) * factors.reshape(C, M)
    weights = {**layer.weights, DEPTHWISE_KERNEL: _rounded(layer, "its scaled taps", taps)}
    return dataclasses.replace(layer, weights=weights), bias


def _fold_bias(layer: Layer, depthwise_bias: np.ndarray) -> Layer:
    """Return the layer with bias + depthwise_bias @ pointwise_kernel, computed in float64."""
    pointwise = layer.weights[POINTWISE_KERNEL][0]
    with np.errstate(all="ignore"):  # What is not finite is refused by name.
        bias = depthwise_bias.astype(np.float64) @ pointwise.astype(np.float64)
        if BIAS in layer.weights:
            bias += layer.weights[BIAS].astype(np.float64)
    rounded = _rounded(layer, "bias + depthwise_bias @ pointwise_kernel", bias)
    return dataclasses.replace(layer, weights={**layer.weights, BIAS: rounded})


def _rounded(layer: Layer, what: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        rounded = array.astype(layer.dtype)
    if not np.isfinite(rounded.astype(np.float64)).all():
        raise InteropError(f"layer {layer.path!r}: {what} is not finite in {layer.dtype}")
    return rounded


def _module(path: str, name: str) -> str:
    return ".".join(filter(None, (*path.split("/"), name)))
