"""The objects of a TF2 checkpoint, which hold each other as attributes."""

from collections import deque
from collections.abc import Mapping

from flax_sepconv.interop.layer import InteropError
from flax_sepconv.interop.tensor_bundle import Bundle
from flax_sepconv.interop.tf_messages import parse

# The tensor that says so.
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "VARIABLE_VALUE"


class Graph:
    """The graph of objects; they have numbers, and the root's is 0.

    Args:
        bundle: a checkpoint that has `GRAPH` among its names.

    Attributes:
        children: of each object, the objects that it holds, by attribute.
        reached: the objects that the root holds, or that they hold, nearest to the root first.

    Raises:
        InteropError: the graph is damaged.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._source = f"{bundle}: its graph of objects"
        objects = parse("ObjectGraph", bundle.string(GRAPH), self._source).nodes
        self.children = [{c.local_name: c.node_id for c in node.children} for node in objects]
        held = {child for children in self.children for child in children.values()}
        if not held | {0} <= set(range(len(objects))):
            raise InteropError(f"{self._source} lacks an object that it speaks of")
        self._variables = {
            number: (attribute.full_name, attribute.checkpoint_key)
            for number, node in enumerate(objects)
            for attribute in node.attributes
            if attribute.name == _VALUE
        }
        self._holders = self._find_holders()
        self.reached = [0, *self._holders]

    def is_variable(self, number: int) -> bool:
        """Tell whether an object is a variable that has a value."""
        return number in self._variables

    def key(self, number: int) -> str:
        """Return the name of the tensor that a variable is kept as."""
        return self._variable(number)[1]

    def full_name(self, number: int) -> str:
        """Return the name that a variable had in the program."""
        return self._variable(number)[0]

    def path(self, number: int, names: Mapping[int, str]) -> str:
        """Return the shortest way from the root to an object, joined by "/".

        Args:
            number: of the object.
            names: of objects that are called otherwise than the attribute that holds them.
        """
        way = []
        while number:
            holder, attribute = self._holders[number]
            way.append(names.get(number, attribute))
            number = holder
        return "/".join(reversed(way))

    def find(self, way: str) -> int | None:
        """Return the object at the end of a way: attributes, and "." before each of them."""
        waiting, seen = [(0, 0)], {(0, 0)}
        while waiting:
            position, number = waiting.pop()
            if position == len(way):
                return number
            for attribute, child in self.children[number].items():
                # An attribute may have "." in it, so that there can be several ways to go on.
                after = position + 1 + len(attribute), child
                if way.startswith(f".{attribute}", position) and after not in seen:
                    waiting.append(after)
                    seen.add(after)
        return None

    def _variable(self, number: int) -> tuple[str, str]:
        if number not in self._variables:
            raise InteropError(f"{self._source} has no value of object {number}, a weight")
        return self._variables[number]

    def _find_holders(self) -> dict[int, tuple[int, str]]:
        """Return, for every object but the root, the nearest that holds it, and by what name."""
        holders: dict[int, tuple[int, str]] = {}
        waiting = deque([0])
        while waiting:
            holder = waiting.popleft()
            for attribute, child in self.children[holder].items():
                if child and child not in holders:
                    holders[child] = holder, attribute
                    waiting.append(child)
        return holders
