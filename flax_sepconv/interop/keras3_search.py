"""Which groups in the weights of Keras 3 and tf-keras are our layers, and with what config.

The config of a model tells its layers as far as its classes are Keras' own; what is inside of other
classes is seen from the variables.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flax_sepconv.interop.keras3_files import Weights
from flax_sepconv.interop.keras3_groups import (
    OLD,
    ONE_OF_OURS,
    Place,
    bare,
    candidates,
    choices,
    distinct,
    numbered,
    sizes,
    snake_case,
)
from flax_sepconv.interop.keras_model import Node
from flax_sepconv.interop.layer import InteropError, warn, warn_of_untold


def find(store: Weights, path: Any, root: Node | None, version: int, strict: bool) -> list[Place]:
    """Return where every layer of ours is.

    Args:
        store: the weights.
        path: of the file, in errors.
        root: the model's config, or None.
        version: of the Keras that wrote it.
        strict: whether all layers that the config tells must be somewhere.

    Raises:
        InteropError: there is none, or one that the config tells is nowhere.
    """
    if root is None:
        if strict and not (groups := candidates(store)):
            raise InteropError(f"{path} has no group with the variables of {ONE_OF_OURS}")
        return distinct([bare(store, group) for group in groups]) if strict else []
    search = Search(store, path, version)
    places = search.run(root)
    if strict:
        taken = {place.group for place in places}
        rest = [g for g in candidates(store) if g not in taken and not search.is_another(g)]
        lost = search.lost()
        known = _assigned(store, lost, [] if root.is_told else rest, path)
        if custom := [f"{g} ({search.custom[g]})" for g in rest if g in search.custom]:
            warn(
                f"{path}: {', '.join(custom)} has the weights of {ONE_OF_OURS}, but is of no class "
                "of Keras: it comes without arguments (strides, padding, activation)"
            )
        told = search.custom.keys() | {g for g in rest for _, n in lost if _fits(store, g, n)}
        warn_of_untold(path, [group for group in rest if group not in told])
        places += [known.get(group) or bare(store, group) for group in rest]
    return distinct(places)


Lost = Sequence[tuple[tuple[str, ...], Node]]


def _assigned(store: Weights, lost: Lost, groups: Sequence[str], path: Any) -> dict[str, Place]:
    """Return the groups that can be one lost layer's alone, which can be in no other one.

    Warns of layers that may be in several groups; raises for those that are in none.
    """
    fitting = [[group for group in groups if _fits(store, group, node)] for _, node in lost]
    amount = collections.Counter(group for found in fitting for group in found)
    known, unsure = {}, []
    for (names, node), found in zip(lost, fitting, strict=True):
        if len(found) == 1 and amount[found[0]] == 1:
            known[found[0]] = _place(found[0], names, node)
        else:
            unsure.append("/".join(names))
        if not found or len(unsure) > len(amount.keys() - known.keys()):
            raise InteropError(
                f"{path}: the weights of layer {'/'.join(names)!r} are not where its config leads "
                f"to; name the groups to take by layers=[...] (--layer); {choices(store)}"
            )
    if unsure:
        left = ", ".join(sorted(amount.keys() - known.keys()))
        warn(
            f"{path}: its config has the arguments of the layers {', '.join(unsure)}, but does not "
            f"tell which of the groups {left} they are: these come without arguments (strides, "
            "padding, activation)"
        )
    return known


def _place(group: str, names: tuple[str, ...], node: Node) -> Place:
    """Return where a layer of ours is that the config tells."""
    assert node.spec is not None
    return Place(group, names, node.config, node.spec)


def _fits(store: Weights, group: str, node: Node) -> bool:
    told = store.text(f"{group}/vars", "name")
    given: Mapping[str, Any] = {"depth_multiplier": 1, "use_bias": True, **node.config}
    seen = None if node.spec is None else sizes(store, group, node.spec)
    if seen is None or (told is not None and told != node.name):
        return False
    return all(given.get(name) in (size, [size], (size,)) for name, size in seen.items())


class Search:
    """The way through a model's config and through its weights, side by side.

    Attributes:
        custom: by group, the class of a layer that is none of Keras' own.
    """

    def __init__(self, store: Weights, path: Any, version: int) -> None:
        self._store, self._path, self._version = store, path, version
        self._passed: set[tuple[str, str]] = set()  # Class and name of every layer so far.
        self._found: list[Node] = []
        self._absent: list[tuple[tuple[str, ...], Node]] = []
        self._others: set[str] = set()
        self.custom: dict[str, str] = {}

    def run(self, root: Node) -> list[Place]:
        """Return where the layers are, as far as the config leads there."""
        return list(self._below(root, "", (), sure=True))

    def lost(self) -> list[tuple[tuple[str, ...], Node]]:
        """Return the layers that `run` did not find, with the names on the way to them."""
        # A layer that two models share is saved with the first of them.
        return [(n, node) for n, node in self._absent if not any(map(node.equals, self._found))]

    def is_another(self, group: str) -> bool:
        """Tell whether the config says that a group is of another class of Keras, or in one."""
        parts = group.split("/")
        return any("/".join(parts[:end]) in self._others for end in range(1, len(parts) + 1))

    def _below(self, node: Node, group: str, names: tuple[str, ...], sure: bool) -> Iterator[Place]:
        """Visit what a layer is made of; be `sure` that it is where Keras' own classes have it."""
        sure = sure and not node.custom
        for argument, child in node.children.items():
            place = f"{group}/{argument}".lstrip("/")
            if isinstance(child, Node):
                yield from self._visit(child, place, names, sure)
            else:
                old = f"{group}/{OLD}".lstrip("/")
                is_old = argument == "layers" and self._store.has(old)
                yield from self._list(child, old if is_old else place, names, sure)

    def _list(
        self, nodes: list[Node], group: str, names: tuple[str, ...], sure: bool
    ) -> Iterator[Place]:
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
                self._miss(node, (*names, node.name))
                continue
            yield from self._visit(node, groups[kind][used[kind]], names, sure)
            used[kind] += 1
        for kind, places in groups.items():
            if used[kind] < present[kind]:
                raise InteropError(
                    f"{self._path}: its config does not tell which layers the groups {places[0]}, "
                    f"... are; name those to take by layers=[...] (--layer); "
                    f"{choices(self._store)}"
                )

    def _numbered(self, group: str, kind: str, amount: int) -> list[str]:
        """Return as many groups of one class as there may be, those in the file first."""
        first = f"{group}/{snake_case(kind)}"
        groups = [numbered(first, number) for number in range(amount)]
        if group.endswith(OLD):  # Here a layer with weights has two numbers, the second unused.
            later = [numbered(first, number) for number in range(amount, 2 * amount)]
            groups = sorted([*groups, *later], key=lambda place: not self._store.has(place))
        return groups

    def _visit(self, node: Node, group: str, names: tuple[str, ...], sure: bool) -> Iterator[Place]:
        names = (*names, node.name)
        told = self._store.text(f"{group}/vars", "name")
        is_named = told is None or told == node.name
        if not any(node.ours()):
            self._passed.update((n.class_name, n.name) for n in node.everything())
            if sure and is_named and not any(n.custom for n in node.everything()):
                self._others.add(group)
            if node.custom and is_named:
                self.custom[group] = node.class_name
        elif not self._store.has(group) or not (sure or self._may_be(group, node, is_named)):
            self._miss(node, names)
        elif not is_named:
            raise InteropError(
                f"{self._path}: layer {'/'.join(names)!r} should be in group {group!r}, which "
                f"says that it is {told!r}"
            )
        else:
            self._passed.add((node.class_name, node.name))
            if node.spec is not None:
                self._found.append(node)
                yield _place(group, names, node)
            else:
                yield from self._below(node, group, names, sure)

    def _may_be(self, group: str, node: Node, is_named: bool) -> bool:
        """Tell whether a layer in one of a class of its own may be the attribute of its name."""
        spec = node.spec
        return is_named and (spec is None or sizes(self._store, group, spec) is not None)

    def _miss(self, node: Node, names: tuple[str, ...]) -> None:
        if node.spec is not None:
            self._absent.append((names, node))
        for child in node.below():
            self._miss(child, (*names, child.name))
