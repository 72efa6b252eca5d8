"""Layers in PyTorch's state dicts: one of ours is two modules of PyTorch.

| PyTorch | shape | here |
|---|---|---|
| weight of `Conv1d(C, C*M, K, groups=C)` | (C*M, 1, K) | `depthwise_kernel` (K, C, M) |
| weight of `Conv1d(C*M, F, 1)` | (F, C*M, 1) | `pointwise_kernel` (1, C*M, F) |
| or of `Linear(C*M, F)` | (F, C*M) | the same |
| bias of the second, and of the first | (F,), (C*M,) | `bias` (F,) |

The first bias is added to every step of the hidden array, those at the ends included. The second
module, 1 wide and without padding, maps it to the same F numbers at every step, whatever zeros were
put around the input: bias + depthwise_bias @ pointwise_kernel is the one bias of the layer.

A state dict says nothing of strides, padding and activation, nor of what stands between the two
modules: a norm or an activation there makes them no separable convolution. What PyTorch's modules
themselves say is read by `pytorch_modules`.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flax_sepconv.interop import state_dict
from flax_sepconv.interop.layer import InteropError, Layer, unique
from flax_sepconv.interop.state_dict import require
from flax_sepconv.spec import BIAS, DEPTHWISE_KERNEL, POINTWISE_KERNEL

# The last names of two modules in one parent that are taken for a layer unless `pairs` says which.
ENDINGS = (
    ("depthwise", "pointwise"),
    ("depthwise_conv", "pointwise_conv"),
    ("conv_depthwise", "conv_pointwise"),
    ("depth_conv", "point_conv"),
    ("dw", "pw"),
    ("dw_conv", "pw_conv"),
    ("dwconv", "pwconv"),
)
# What `pairs` says of a layer: its two modules and, where it is not 1, M.
Pair = tuple[str, str] | tuple[str, str, int]

_TOLD = 20

__all__ = ["ENDINGS", "layer_of", "modules_of", "read", "require", "to_state_dict", "write"]


def read(path: pathlib.Path, pairs: Mapping[str, Pair] | None = None) -> list[Layer]:
    """Read layers from a state dict: in safetensors, or in a file of `torch.save`.

    Args:
        path: of the file. A file of `torch.save` is read with weights_only=True and mapped into
            memory; one of `state_dict.NESTED` in it is opened.
        pairs: by our path, the names of the layer's two modules in the state dict, and M where it
            is not 1, which the shapes alone do not say: {"block/conv": ("block.a", "block.b", 2)}.
            None takes every two modules of one parent that are named like one of `ENDINGS`; the
            layer's path is the parent's. A "module." in front of the names stays in the path.

    Raises:
        InteropError: the file is damaged or holds more than tensors; a module is missing or is no
            convolution of this form; without `pairs`, no names are like any of `ENDINGS`.
    """
    with state_dict.opened(path) as state:
        return [_layer(state, place, pair) for place, pair in _pairs(state, pairs)]


def write(path: pathlib.Path, layers: Sequence[Layer]) -> None:
    """Write `to_state_dict(layers)`: to "*.safetensors" in that form, else by `torch.save`.

    M is kept where `load_state_dict` passes it over and `read` finds it.
    """
    multipliers = {_module(layer.path, "depthwise"): layer.sizes["M"] for layer in layers}
    state_dict.save(path, to_state_dict(layers), multipliers)


def to_state_dict(layers: Iterable[Layer]) -> dict[str, np.ndarray]:
    """Return the weights for modules named "depthwise" and "pointwise" at each layer's path.

    Example:
        >>> layer = Layer("block/conv", {"depthwise_kernel": np.ones((3, 4, 2), "f"),
        ...                              "pointwise_kernel": np.ones((1, 8, 5), "f")})
        >>> {name: weight.shape for name, weight in to_state_dict([layer]).items()}
        {'block.conv.depthwise.weight': (8, 1, 3), 'block.conv.pointwise.weight': (5, 8, 1)}
    """
    state: dict[str, np.ndarray] = {}
    for layer in unique(layers, "the list of layers"):
        K, C, M = layer.weights[DEPTHWISE_KERNEL].shape
        depthwise = layer.weights[DEPTHWISE_KERNEL].transpose(1, 2, 0).reshape(C * M, 1, K)
        own = {
            f"{_module(layer.path, 'depthwise')}.weight": depthwise,
            f"{_module(layer.path, 'pointwise')}.weight": layer.weights[POINTWISE_KERNEL].T,
        }
        if BIAS in layer.weights:
            own[f"{_module(layer.path, 'pointwise')}.bias"] = layer.weights[BIAS]
        if own.keys() & state.keys():
            raise InteropError(f"layer {layer.path!r} has the name of another one in a state dict")
        state |= {name: np.array(weight, order="C") for name, weight in own.items()}
    return state


def modules_of(
    path: pathlib.Path, layer: str, pairs: Mapping[str, Pair] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors of a layer's two modules, by "weight" and "bias", as PyTorch reads them.

    Raises:
        InteropError: as `read` does; there is no such layer.
    """
    with state_dict.opened(path) as state:
        found = dict(_pairs(state, pairs))
        if layer not in found:
            raise InteropError(f"{path} has no layer {layer!r}; there are {', '.join(found)}")
        names = [_tensors_of(state, layer, module) for module in found[layer][:2]]
    tensors = state_dict.tensors_of(path)
    depthwise, pointwise = ({key: tensors[name] for key, name in own.items()} for own in names)
    return depthwise, pointwise


def layer_of(
    path: str,
    depthwise: Mapping[str, np.ndarray],
    pointwise: Mapping[str, np.ndarray],
    multiplier: int,
) -> Layer:
    """Return the layer of two modules' arrays, by "weight" and "bias".

    Raises:
        InteropError: names the layer, and the weight that does not fit.
    """
    taps, mixing = depthwise["weight"], pointwise["weight"]
    if taps.ndim != 3 or taps.shape[1] != 1 or taps.shape[0] % multiplier:
        raise InteropError(
            f"layer {path!r}: its depthwise weight must be (C*M, 1, K) with M={multiplier}, got "
            f"shape {taps.shape}"
        )
    if mixing.ndim not in (2, 3) or mixing.shape[2:] not in ((), (1,)):
        raise InteropError(
            f"layer {path!r}: its pointwise weight must be (F, C*M, 1), or (F, C*M) of a Linear, "
            f"got shape {mixing.shape}"
        )
    K, C, M = taps.shape[2], taps.shape[0] // multiplier, multiplier
    weights = {
        DEPTHWISE_KERNEL: taps.reshape(C, M, K).transpose(2, 0, 1),
        POINTWISE_KERNEL: mixing.reshape(mixing.shape[:2]).T[None],
    }
    if "bias" in pointwise:
        weights[BIAS] = pointwise["bias"]
    # Copies: what is given may be a file's memory, or a module's that is trained on.
    layer = Layer(path, {name: np.array(weight, order="C") for name, weight in weights.items()})
    return _fold(layer, depthwise["bias"]) if "bias" in depthwise else layer


def _pairs(state: state_dict.State, pairs: Mapping[str, Pair] | None) -> list[tuple[str, Pair]]:
    """Return each layer's path with its two modules, as they are given or by their names' ends."""
    found = _alike(state) if pairs is None else list(pairs.items())
    if not found:
        endings = ", ".join("/".join(pair) for pair in ENDINGS)
        some = list(state.shapes.items())[:_TOLD]
        told = ", ".join(f"{name} {shape}" for name, shape in some)
        rest = len(state.shapes) - len(some)
        raise InteropError(
            f"{state.path} has no two modules side by side whose names end in one of {endings}; "
            'name them by pairs={"path": ("depthwise module", "pointwise module")}, or by --pair. '
            f"It has {told}{f' and {rest} more' if rest else ''}"
        )
    for path, pair in found:
        sound = isinstance(pair, tuple | list) and len(pair) in (2, 3)
        if not sound or [type(item) for item in pair] != [str, str, int][: len(pair)]:
            raise InteropError(
                f"pairs[{path!r}] must be the names of the depthwise and the pointwise module and, "
                f"where it is not 1, the depth multiplier, got {pair!r}"
            )
    return found


def _alike(state: state_dict.State) -> list[tuple[str, Pair]]:
    """Find the modules of one parent that are named like one of `ENDINGS`."""
    partners = dict(ENDINGS)
    known = {name for pair in ENDINGS for name in pair}
    modules: dict[str, None] = {}
    for name in state.shapes:
        parts = name.split(".")
        last = max((i for i, part in enumerate(parts[:-1]) if part in known), default=None)
        if last is not None:
            modules[".".join(parts[: last + 1])] = None
    found: list[tuple[str, Pair]] = []
    for module in modules:
        parent, dot, last_name = module.rpartition(".")
        pointwise = f"{parent}{dot}{partners.get(last_name)}"
        if pointwise in modules:
            found.append((parent.replace(".", "/"), (module, pointwise)))
    # safetensors sorts its names; what was told beside them has the order of writing.
    order = {module: i for i, module in enumerate(state.multipliers)}
    return sorted(found, key=lambda item: order.get(item[1][0], len(order)))


def _layer(state: state_dict.State, path: str, pair: Pair) -> Layer:
    depthwise, pointwise = (
        {key: state.get(name) for key, name in _tensors_of(state, path, module).items()}
        for module in pair[:2]
    )
    multiplier = pair[2] if len(pair) == 3 else state.multipliers.get(pair[0], 1)
    if type(multiplier) is not int or multiplier < 1:
        raise InteropError(f"layer {path!r}: its M must be a positive int, got {multiplier!r}")
    return layer_of(path, depthwise, pointwise, multiplier)


def _tensors_of(state: state_dict.State, path: str, module: str) -> dict[str, str]:
    """Return the names of a module's weight and bias in the state dict; refuse any other tensor."""
    prefix = f"{module}." if module else ""
    own = {name.removeprefix(prefix): name for name in state.shapes if name.startswith(prefix)}
    if "weight" not in own or not own.keys() <= {"weight", "bias"}:
        told = ", ".join(list(own)[:_TOLD]) or "nothing"
        raise InteropError(
            f"layer {path!r}: module {module!r} must have a weight, a bias or none, and nothing "
            f"else (a weight norm is to be removed first); {state.path} has {told} of it"
        )
    return own


def _fold(layer: Layer, depthwise_bias: np.ndarray) -> Layer:
    """Return the layer with bias + depthwise_bias @ pointwise_kernel, computed in float64."""
    pointwise = layer.weights[POINTWISE_KERNEL][0]
    if depthwise_bias.shape != pointwise.shape[:1] or depthwise_bias.dtype != layer.dtype:
        raise InteropError(
            f"layer {layer.path!r}: its depthwise bias must be ({pointwise.shape[0]},) of "
            f"{layer.dtype}, got shape {depthwise_bias.shape} of {depthwise_bias.dtype}"
        )
    with np.errstate(all="ignore"):  # What is not finite is refused by name.
        bias = depthwise_bias.astype(np.float64) @ pointwise.astype(np.float64)
        if BIAS in layer.weights:
            bias += layer.weights[BIAS].astype(np.float64)
        bias = bias.astype(layer.dtype)
    if not np.isfinite(bias.astype(np.float64)).all():
        raise InteropError(
            f"layer {layer.path!r}: bias + depthwise_bias @ pointwise_kernel is not finite in "
            f"{layer.dtype}"
        )
    return dataclasses.replace(layer, weights={**layer.weights, BIAS: bias})


def _module(path: str, name: str) -> str:
    return ".".join(filter(None, (*path.split("/"), name)))
