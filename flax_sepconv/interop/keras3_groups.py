"""Where the layers are in the weights that Keras 3 and tf-keras write: see `keras3.py`."""

import collections
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flax_sepconv.interop.hdf5 import Store
from flax_sepconv.interop.keras_model import Node
from flax_sepconv.interop.layer import InteropError

GROUP = "separable_conv1d"
# Of its variables, without and with a bias.
NUMBERS = (["0", "1"], ["0", "1", "2"])
# What Keras 2.12 and 2.13 call the list of a model's layers.
_OLD = "_layer_checkpoint_dependencies"


class Place(NamedTuple):
    """Where a layer is in the weights.

    Attributes:
        group: its path.
        names: of the layers on the way to it.
        config: the layer's own, if there is one.
    """

    group: str
    names: tuple[str, ...]
    config: Mapping[str, Any] | None


class Search:
    """The way through a model's config and through its weights, side by side."""

    def __init__(self, store: Store, path: Any, version: int) -> None:
        self._store, self._path, self._version = store, path, version
        self._passed: set[tuple[str, str]] = set()  # Class and name of every layer so far.
        self._found: list[Node] = []
        self._absent: list[tuple[str, Node]] = []

    def run(self, root: Node, strict: bool) -> list[Place]:
        """Return where the layers are; if `strict`, all of them must be somewhere."""
        places = list(self._below(root, "", ()))
        # A layer that two models share is saved with the first of them.
        lost = [p for p, node in self._absent if not any(map(node.equals, self._found))]
        if strict and lost:
            raise InteropError(
                f"{self._path}: the weights of layer {lost[0]!r} are not where its config leads "
                f"to; name the groups to take by layers=[...] (--layer); {_choices(self._store)}"
            )
        return places

    def _below(self, node: Node, group: str, names: tuple[str, ...]) -> Iterator[Place]:
        for argument, child in node.children.items():
            place = f"{group}/{argument}".lstrip("/")
            if isinstance(child, Node):
                yield from self._visit(child, place, names)
            else:
                old = f"{group}/{_OLD}".lstrip("/")
                is_old = argument == "layers" and self._store.has(old)
                yield from self._list(child, old if is_old else place, names)

    def _list(self, nodes: list[Node], group: str, names: tuple[str, ...]) -> Iterator[Place]:
        """Visit what is numbered by classes.

        A layer that was saved elsewhere before has no group here. In Keras 3 its number stays
        free, in tf-keras the next layer gets it.
        """
        amount = collections.Counter(node.class_name for node in nodes)
        groups = {kind: self._numbered(group, kind, most) for kind, most in amount.items()}
        present = {kind: sum(map(self._store.has, places)) for kind, places in groups.items()}
        used = dict.fromkeys(amount, 0)
        for node in nodes:
            kind = node.class_name
            fewer = self._version < 3 and present[kind] < amount[kind]
            if fewer and (kind, node.name) in self._passed:
                self._miss(node, names)
                continue
            yield from self._visit(node, groups[kind][used[kind]], names)
            used[kind] += 1
        for kind, places in groups.items():
            if used[kind] < present[kind]:
                raise InteropError(
                    f"{self._path}: its config does not tell which layers the groups {places[0]}, "
                    f"... are; name those to take by layers=[...] (--layer); "
                    f"{_choices(self._store)}"
                )

    def _numbered(self, group: str, kind: str, amount: int) -> list[str]:
        """Return as many groups of one class as there may be, those in the file first."""
        first = f"{group}/{_snake_case(kind)}"
        groups = [numbered(first, number) for number in range(amount)]
        if group.endswith(_OLD):  # Here a layer with weights has two numbers, the second unused.
            later = [numbered(first, number) for number in range(amount, 2 * amount)]
            groups = sorted([*groups, *later], key=lambda place: not self._store.has(place))
        return groups

    def _visit(self, node: Node, group: str, names: tuple[str, ...]) -> Iterator[Place]:
        if not any(node.separables()):
            self._passed.update((n.class_name, n.name) for n in node.everything())
        elif not self._store.has(group):
            self._miss(node, names)
        else:
            self._passed.add((node.class_name, node.name))
            names = (*names, node.name)
            self._check_name(node, group, names)
            if node.is_separable:
                self._found.append(node)
                yield Place(group, names, node.config)
            else:
                yield from self._below(node, group, names)

    def _miss(self, node: Node, names: tuple[str, ...]) -> None:
        names = (*names, node.name)
        if node.is_separable:
            self._absent.append(("/".join(names), node))
        for child in node.below():
            self._miss(child, names)

    def _check_name(self, node: Node, group: str, names: tuple[str, ...]) -> None:
        told = self._store.text(f"{group}/vars", "name")
        if told is not None and told != node.name:
            raise InteropError(
                f"{self._path}: layer {'/'.join(names)!r} should be in group {group!r}, which "
                f"says that it is {told!r}"
            )


def own_groups(store: Store) -> list[str]:
    """Return the groups that are named after the class, in a list of layers: each in its order."""
    return sorted((g for g in store.walk() if _OWN_GROUP.search(f"/{g}")), key=_counted)


def _counted(group: str) -> list[list[str | int]]:
    """Return a key by which "x_2" is before "x_10"; in the file, it stands behind."""
    return [
        [int(part) if number % 2 else part for number, part in enumerate(_NUMBER.split(name))]
        for name in group.split("/")
    ]


def named(store: Store, groups: Sequence[str] | None, path: Any) -> list[Place]:
    """Return the groups that a caller chose, or else those named after the class.

    Raises:
        InteropError: there is none.
    """
    if groups is None and not (groups := own_groups(store)):
        raise InteropError(
            f"{path} does not tell which of its layers are a SeparableConv1D: no group is named "
            f"layers/{GROUP}; name the groups to take by layers=[...] (--layer); {_choices(store)}"
        )
    names = {group: _names(store, group) for group in (given.strip("/") for given in groups)}
    amount = collections.Counter(map("/".join, names.values()))
    return [
        Place(group, told if amount["/".join(told)] == 1 else tuple(group.split("/")), None)
        for group, told in names.items()
    ]


def alike(store: Store) -> list[str]:
    """Return the groups whose variables have the shapes of a SeparableConv1D's."""
    groups = [path.removesuffix("/vars/1") for path in store.walk() if path.endswith("/vars/1")]
    return sorted((group for group in groups if _is_alike(store, f"{group}/vars")), key=_counted)


def _is_alike(store: Store, variables: str) -> bool:
    if sorted(store.children(variables)) not in NUMBERS:
        return False
    try:
        depthwise, pointwise = (store.shape(f"{variables}/{number}") for number in "01")
    except InteropError:  # No numbers of ours: an optimizer's count of steps.
        return False
    fits = len(depthwise) == len(pointwise) == 3 and pointwise[0] == 1
    return fits and pointwise[1] == depthwise[1] * depthwise[2]


def _names(store: Store, group: str) -> tuple[str, ...]:
    """Return the names of the layers on the way to a group, or else its own path."""
    parts = group.split("/")
    ways = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    names = [store.text(f"{way}/vars", "name") for way in ways if store.has(f"{way}/vars")]
    return tuple(filter(None, names)) if names and None not in names else tuple(parts)


def _choices(store: Store) -> str:
    groups = [path.removesuffix("/vars/1") for path in store.walk() if path.endswith("/vars/1")]
    return f"there are {', '.join(groups[:20])}" if groups else "there is none"


_NUMBER = re.compile(r"([0-9]{1,18})")
_OWN_GROUP = re.compile(rf"/(layers|{_OLD})/{GROUP}(_\d+)?$")


def numbered(name: str, number: int) -> str:
    """Return the name of a group: that of the first of its class has no number."""
    return f"{name}_{number}" if number else name


def _snake_case(class_name: str) -> str:
    """Return what Keras names a group after: SeparableConv1D, separable_conv1d."""
    name = re.sub(r"\W+", "", class_name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
