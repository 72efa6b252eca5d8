"""Keras 3's own files, as Keras 3 and tf-keras write them: `.keras` and `.weights.h5`.

What they are in, `keras3_files.py` tells. In the weights, each layer is a group; those of one list
are named after their classes, in order, and others after the attribute that holds them:

    layers/separable_conv1d/vars/0     depthwise_kernel
    layers/separable_conv1d/vars/1     pointwise_kernel
    layers/separable_conv1d/vars/2     bias, where there is one
    layers/separable_conv1d_1/vars/0   the next SeparableConv1D
    layers/depthwise_conv1d/vars/0     depthwise_kernel of the first DepthwiseConv1D
    layers/sequential/layers/...       a model in the model
    layers/time_distributed/layer/...  what a wrapper wraps
    encoder/vars/0                     an attribute of a subclassed model, of any class
"""

import collections
import io
import pathlib
from collections.abc import Sequence

import numpy as np

from flax_sepconv.interop import keras3_files, keras_model
from flax_sepconv.interop.keras3_files import Weights
from flax_sepconv.interop.keras3_groups import (
    Place,
    choices,
    chosen,
    group_name,
    numbered,
    numbers_of,
)
from flax_sepconv.interop.keras3_search import find
from flax_sepconv.interop.layer import InteropError, Layer, refuse_integers
from flax_sepconv.spec import BIAS, DEPTHWISE_KERNEL, POINTWISE_KERNEL

ORDER = (DEPTHWISE_KERNEL, POINTWISE_KERNEL, BIAS)
version_of = keras3_files.version_of


def keras_weights(layer: Layer) -> list[np.ndarray]:
    """Return the weights in the order that Keras' `set_weights` of the layer takes.

    Example:
        >>> depthwise, pointwise = np.ones((3, 2, 1)), np.ones((1, 2, 5))
        >>> weights = {"pointwise_kernel": pointwise, "depthwise_kernel": depthwise}
        >>> [weight.shape for weight in keras_weights(Layer("sep", weights))]
        [(3, 2, 1), (1, 2, 5)]
    """
    refuse_integers(layer, "Keras")
    return [layer.weights[name] for name in ORDER if name in layer.weights]


def read(path: pathlib.Path, layers: Sequence[str] | None = None) -> list[Layer]:
    """Read every layer of ours of a `.keras` or `.weights.h5` file, or of what stands for one.

    In a whole model they are found by its config, in models inside of models and in wrappers too,
    and come with their own configs. Where there is no config, or it does not tell all parts (a
    model or layer of a class of your own), every further group is taken whose variables have the
    shapes of a SeparableConv1D's; no other layer of Keras has two kernels (K, C, M) and
    (1, C*M, F). What a DepthwiseConv1D has may be a Conv1D's: there it is taken where its group is
    named after its class, or chosen by `layers`. A layer that two models share is given once, at
    its first place.

    Paths are the names of the layers, joined by "/"; where the file does not tell them
    (`.weights.h5` of tf-keras), or tells one twice, the paths of the groups.

    Args:
        path: of the file or folder.
        layers: the groups to take, and no others: "layers/time_distributed/layer".

    Raises:
        InteropError: the file is damaged or not of this format, lacks weights that its config
            promises, or has no layer of ours; `layers` has a group that is none.
    """
    with keras3_files.opened(path) as (store, root, version):
        places = find(store, path, root, version, strict=layers is None)
        if layers is None:
            return _load(store, places, path)
        try:
            return _load(store, chosen(store, layers, places, path), path)
        except InteropError as error:
            raise InteropError(f"{error}; {choices(store)}") from error


def write(path: pathlib.Path, layers: Sequence[Layer]) -> None:
    """Write a `.weights.h5` file, for `load_weights` of Keras 3 or tf-keras.

    It fits a Sequential or Functional model that has these layers in this order of each class
    among its own `layers`, not in models or wrappers inside of it, and no other layers with
    weights; Keras 3 loads it into a model that has them, and leaves them as they are, by
    `load_weights(path, skip_mismatch=True)`.
    """
    try:
        import h5py  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise InteropError(
            "writing .weights.h5 needs h5py: pip install 'flax-sepconv[interop]'"
        ) from error
    content = io.BytesIO()  # On a full disk h5py crashes.
    with h5py.File(content, "w") as file:
        file.create_group("vars")
        amount: collections.Counter[str] = collections.Counter()
        for layer in layers:
            name = group_name(layer.spec)
            variables = file.create_group(f"layers/{numbered(name, amount[name])}/vars")
            amount[name] += 1
            variables.attrs["name"] = layer.path
            for index, weight in enumerate(keras_weights(layer)):
                array = variables.create_dataset(str(index), data=weight)
                if layer.dtype.name == "bfloat16":
                    array.attrs["dtype"] = "bfloat16"
    path.write_bytes(content.getvalue())


def _load(store: Weights, places: Sequence[Place], path: pathlib.Path) -> list[Layer]:
    layers = []
    for place in places:
        variables = f"{place.group}/vars"
        numbers = sorted(store.children(variables))
        fewest, most = numbers_of(place.spec)
        if numbers not in (fewest, most):
            raise InteropError(
                f"{path}: group {place.group!r} must have the {len(fewest)} or {len(most)} "
                f"variables of a {place.spec.keras_names[0]}, it has {', '.join(numbers) or 'none'}"
            )
        opaque = keras_model.keeps_bfloat16(place.config)
        arrays = [store.array(f"{variables}/{number}", opaque) for number in numbers]
        names = [name for name in ORDER if name.removesuffix("_kernel") in place.spec.weights]
        weights = dict(zip(names, arrays, strict=False))
        layers.append(Layer("/".join(place.names), weights, place.config))
    return layers
