"""Layers that two models share, which a `.h5` file has twice: see `keras2.py`."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from flax_sepconv.interop.keras_model import Node
from flax_sepconv.interop.layer import Layer, warn

# From here on Keras 2 numbers the objects of a config that it meets more than once.
_NUMBERED = (2, 5)


class Found(NamedTuple):
    """A layer in a file.

    Attributes:
        layer: the layer.
        scope: the names around its variables in the group of a layer of the outermost model.
        node: its config's.
        shared: the number of a shared object in the config, and the names below it; None if none.
    """

    layer: Layer
    scope: tuple[str, ...]
    node: Node | None = None
    shared: tuple[Any, ...] | None = None


def once(found: Sequence[Found], version: tuple[int, int], path: pathlib.Path) -> list[Layer]:
    """Return the layers, what is shared at its first place alone; warn of the others.

    Keras 2 tells by numbers in the config what is shared. Keras 3 does not; but there the names of
    variables have the model in them that was made around their layer, so that what has one name,
    one config and the same weights is one layer. Without either, two that may be one are given.

    Args:
        found: the layers.
        version: of the Keras that wrote the file; (0, 0) if it does not tell.
        path: of the file, in warnings.
    """
    kept: list[Found] = []
    for one in found:
        alike = [other for other in kept if _equal(one, other)]
        tied = [other for other in alike if _is_tied(one, other, version)]
        if not tied:
            kept.append(one)
        numbered = one.node is not None and version >= _NUMBERED
        for other in tied[:1] or ([] if numbered else alike[:1]):
            names = f"{path}: layers {other.layer.path!r} and {one.layer.path!r}"
            warn(
                f"{names} are one that two models share: it is given once, as the first"
                if tied
                else f"{names} have the same name and weights; nothing tells whether they are one "
                "layer that two models share: both are given"
            )
    return [one.layer for one in kept]


def _is_tied(one: Found, other: Found, version: tuple[int, int]) -> bool:
    if one.node is None or other.node is None or not one.node.equals(other.node):
        return False
    if version >= (3, 0):
        return one.scope == other.scope
    # Of an object that is met first in a model in the model, the number may not be written there.
    numbers = {one.shared, other.shared} - {None}
    return len(numbers) == 1


def _equal(one: Found, other: Found) -> bool:
    """Tell whether two layers have one name and the same weights, bit for bit."""
    a, b = one.layer.weights, other.layer.weights
    return (
        one.layer.path.split("/")[-1] == other.layer.path.split("/")[-1]
        and a.keys() == b.keys()
        and all(a[n].shape == b[n].shape and a[n].tobytes() == b[n].tobytes() for n in a)
    )
