"""Checkpoints of TensorFlow: `model.ckpt.index` and `model.ckpt.data-00000-of-00001`.

TF1 saves variables by name: `scope/depthwise_kernel`. TF2 saves objects by the attributes that
hold them, and a layer is an object that holds a depthwise kernel. What optimizers and moving
averages keep beside a weight (`scope/depthwise_kernel/Adam`) is passed over, and so are other
layers; also those of two dimensions, whose weights have the same names and four axes.

Keras 3 on TensorFlow calls the kernel of a DepthwiseConv1D "kernel", as it does those of other
layers. There it is taken where the layer has the name that Keras gives it ("depthwise_conv1d_1"),
or a bias of C*M numbers with C and M above one, which no other layer of Keras has.
"""

import pathlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from flax_sepconv.interop import tf_files
from flax_sepconv.interop.layer import AXES, Layer
from flax_sepconv.interop.object_graph import GRAPH, Graph
from flax_sepconv.interop.tensor_bundle import Bundle
from flax_sepconv.spec import BIAS, DEPTHWISE_KERNEL, POINTWISE_KERNEL

_KERNELS = {DEPTHWISE_KERNEL, POINTWISE_KERNEL}
_KERAS_3_KERNEL = "kernel"
# What optimizers of Keras keep, as "Adam/m/scope/depthwise_kernel" or without "Adam".
_SLOTS = {
    *("m", "v", "vhat", "u", "momentum", "velocity", "average", "average_gradient"),
    *("accumulator", "accumulated_grad", "accumulated_delta_var", "linear"),
}


def read(path: pathlib.Path) -> list[Layer]:
    """Read every layer of ours of a checkpoint.

    Args:
        path: its prefix ("model.ckpt-100", or "folder/"), one of its files, or the folder that
            has it: as `tf_files.index_of` takes it.

    Raises:
        InteropError: it is no checkpoint, of the format before 2016, damaged, or a layer lacks a
            kernel.
    """
    bundle = Bundle(tf_files.index_of(path))
    if GRAPH in bundle.names():
        return layers_by_object(bundle, Graph(bundle))
    return layers_by_name(bundle, {name: name for name in bundle.names()})


def layers_by_name(bundle: Bundle, keys: Mapping[str, str]) -> list[Layer]:
    """Return the layers that variables' names tell of.

    Args:
        bundle: the checkpoint.
        keys: by the variable's name, the name of its tensor.
    """
    scopes: dict[str, dict[str, str]] = {}
    for name, key in keys.items():
        scope, _, weight = name.rpartition("/")
        if weight in AXES or weight == _KERAS_3_KERNEL:
            scopes.setdefault(scope, {})[weight] = key
    scopes = {scope: _own(bundle, scope, weights) for scope, weights in scopes.items()}
    found = [
        (scope, weights, None)
        for scope, weights in scopes.items()
        if _KERNELS & weights.keys() and not ("iteration" in keys and _is_optimizers(scope, scopes))
    ]
    return _one_dimensional(bundle, found)


def layers_by_object(
    bundle: Bundle,
    graph: Graph,
    names: Mapping[int, str] | None = None,
    configs: Mapping[int, Mapping[str, Any]] | None = None,
) -> list[Layer]:
    """Return the layers among a checkpoint's objects.

    Args:
        bundle: the checkpoint.
        graph: its graph of objects.
        names: of objects; others are called as the attribute that holds them.
        configs: Keras' dicts of objects that are layers of ours.
    """
    names = {} if names is None else names
    configs = {} if configs is None else configs
    found = []
    for number in graph.reached:
        held = graph.children[number]
        if number in configs or DEPTHWISE_KERNEL in held:
            weights = {weight: graph.key(held[weight]) for weight in AXES if weight in held}
        elif graph.is_variable(kernel := held.get(_KERAS_3_KERNEL, 0)):
            these = (
                name for name in (_KERAS_3_KERNEL, BIAS) if graph.is_variable(held.get(name, 0))
            )
            scope = graph.full_name(kernel).rpartition("/")[0]
            weights = _own(bundle, scope, {name: graph.key(held[name]) for name in these})
        else:
            continue
        if number in configs or DEPTHWISE_KERNEL in weights:
            found.append((graph.path(number, names), weights, configs.get(number)))
    return _one_dimensional(bundle, found)


def _own(bundle: Bundle, scope: str, keys: Mapping[str, str]) -> dict[str, str]:
    """Return the tensors of what may be a layer of ours, by the names that its weights have here.

    Args:
        bundle: the checkpoint.
        scope: that the layer's variables are in.
        keys: its tensors, by the names that its weights have there.
    """
    if _KERAS_3_KERNEL not in keys or _KERNELS & keys.keys():
        return {weight: key for weight, key in keys.items() if weight in AXES}
    own = {DEPTHWISE_KERNEL: keys[_KERAS_3_KERNEL]}
    own |= {BIAS: keys[BIAS]} if BIAS in keys else {}
    shape, *bias = (bundle.shape(key) for key in own.values())
    if len(shape) != 3 or bias not in ([], [(shape[1] * shape[2],)]):
        return {}
    is_named = re.search(r"(^|/)depthwise_conv1d(_\d+)?$", scope)
    return own if is_named or (bias and min(shape[1:]) > 1) else {}


def _is_optimizers(scope: str, scopes: Collection[str]) -> bool:
    first, _, rest = scope.partition("/")
    second, _, further = rest.partition("/")
    return (first in _SLOTS and rest in scopes) or (second in _SLOTS and further in scopes)


def _one_dimensional(
    bundle: Bundle, found: Iterable[tuple[str, Mapping[str, str], Mapping[str, Any] | None]]
) -> list[Layer]:
    """Read layers, given by path, names of the tensors and config, but those with height."""
    flat = [
        (path, keys, config)
        for path, keys, config in found
        if {len(bundle.shape(keys[kernel])) for kernel in _KERNELS & keys.keys()} != {4}
    ]
    # Layers may share weights, which are read once.
    read = {key: bundle.array(key) for key in {k for _, keys, _ in flat for k in keys.values()}}
    return [
        Layer(path, {weight: read[key] for weight, key in keys.items()}, config)
        for path, keys, config in flat
    ]
