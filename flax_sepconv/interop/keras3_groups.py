"""The groups in the weights that Keras 3 and tf-keras write: see `keras3.py`."""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from flax_sepconv.interop.keras3_files import Weights
from flax_sepconv.interop.layer import InteropError
from flax_sepconv.keras.config import LAYERS
from flax_sepconv.spec import Arguments, DepthwiseArguments, SeparableArguments

# For people.
ONE_OF_OURS = " or ".join(f"a {spec.keras_names[0]}" for spec in LAYERS)
# What Keras 2.12 and 2.13 call the list of a model's layers.
OLD = "_layer_checkpoint_dependencies"
_NUMBER = re.compile(r"([0-9]{1,18})")


class Place(NamedTuple):
    """Where a layer is in the weights.

    Attributes:
        group: its path.
        names: of the layers on the way to it.
        config: the layer's own, if there is one.
        spec: which layer of ours it is.
    """

    group: str
    names: tuple[str, ...]
    config: Mapping[str, Any] | None
    spec: type[Arguments]


def candidates(store: Weights) -> list[str]:
    """Return the groups that are a layer's of ours by their variables, or by their own name.

    They come in the order of their paths, in which "x_2" is before "x_10". The variables of a
    DepthwiseConv1D may be those of a Conv1D: of these only the name tells.
    """
    paths = list(store.walk())
    found = {path for path in paths if _named(path)}
    holders = (path.removesuffix("/vars/1") for path in paths if path.endswith("/vars/1"))
    own = {group for group in holders if sizes(store, group, SeparableArguments)}
    return sorted(found | own, key=_counted)


def group_name(spec: type[Arguments]) -> str:
    """Return what Keras calls the first group of a layer's class."""
    return snake_case(spec.keras_names[0])


def _named(group: str) -> type[Arguments] | None:
    """Return the layer that a group in a list of layers is by its name."""
    for spec in LAYERS:
        if re.search(rf"/(layers|{OLD})/{group_name(spec)}(_\d+)?$", f"/{group}"):
            return spec
    return None


def numbers_of(spec: type[Arguments]) -> tuple[list[str], list[str]]:
    """Return the numbers of a layer's variables, without and with a bias."""
    numbers = [str(number) for number in range(len(spec.weights))]
    return numbers[:-1], numbers


def sizes(store: Weights, group: str, spec: type[Arguments]) -> dict[str, Any] | None:
    """Return what the variables in a group tell of a layer; None if it is none of this class."""
    variables = f"{group}/vars"
    numbers = sorted(store.children(variables))
    if numbers not in numbers_of(spec):
        return None
    try:
        shapes = [store.shape(f"{variables}/{number}") for number in numbers]
    except InteropError:  # No numbers of ours: an optimizer's count of steps.
        return None
    kernels, bias = shapes[: len(spec.weights) - 1], shapes[len(spec.weights) - 1 :]
    if any(len(kernel) != 3 for kernel in kernels):
        return None
    K, C, M = kernels[0]
    own = {"kernel_size": K, "depth_multiplier": M, "use_bias": bool(bias)}
    F = C * M
    if spec is SeparableArguments:
        F = own["filters"] = kernels[1][2]
        if kernels[1] != (1, C * M, F):
            return None
    return own if bias in ([], [(F,)]) else None


def chosen(
    store: Weights, groups: Sequence[str], places: Iterable[Place], path: Any
) -> list[Place]:
    """Return the groups that a caller chose, with what is known of them.

    Raises:
        InteropError: one of them is not there.
    """
    known = {place.group: place for place in places}
    wanted = [group.strip("/") for group in groups]
    for group in wanted:
        if not store.has(group):
            raise InteropError(f"{path} has no group {group!r}")
    return distinct([known.get(group) or bare(store, group) for group in wanted])


def bare(store: Weights, group: str) -> Place:
    """Return a group of which nothing is known but the names of the layers on the way to it."""
    parts = tuple(group.split("/"))
    ways = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    told = [store.text(f"{way}/vars", "name") for way in ways if store.has(f"{way}/vars")]
    names = tuple(name for name in told if name)
    spec = _named(group) or SeparableArguments
    if not sizes(store, group, spec) and sizes(store, group, DepthwiseArguments):
        spec = DepthwiseArguments
    return Place(group, names if told and len(names) == len(told) else parts, None, spec)


def distinct(places: Sequence[Place]) -> list[Place]:
    """Put the groups' own paths in the place of names that stand for several layers."""
    amount = collections.Counter(place.names for place in places)
    own = [place._replace(names=tuple(place.group.split("/"))) for place in places]
    found = [o if amount[p.names] > 1 else p for p, o in zip(places, own, strict=True)]
    return found if len({place.names for place in found}) == len(found) else own


def choices(store: Weights) -> str:
    """Say which groups are layers of ours."""
    groups = candidates(store)
    more = f" and {len(groups) - 20} more" if len(groups) > 20 else ""
    named = ", ".join(groups[:20]) or "none"
    return f"groups with the variables of {ONE_OF_OURS}: {named}{more}"


def _counted(group: str) -> list[list[str | int]]:
    return [
        [int(part) if number % 2 else part for number, part in enumerate(_NUMBER.split(name))]
        for name in group.split("/")
    ]


def numbered(name: str, number: int) -> str:
    """Return the name of a group: that of the first of its class has no number."""
    return f"{name}_{number}" if number else name


def snake_case(class_name: str) -> str:
    """Return what Keras names a group after: SeparableConv1D, separable_conv1d."""
    name = re.sub(r"\W+", "", class_name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
