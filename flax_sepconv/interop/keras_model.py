"""The configs in a Keras model's JSON, as a tree of its layers."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from flax_sepconv.interop.layer import InteropError
from flax_sepconv.keras import config as keras_config
from flax_sepconv.spec import Arguments

# Far more than any model has; what is nested deeper was made to exhaust the stack.
_DEEPEST = 50
_INCIDENTAL = ("module", "registered_name", "shared_object_id")


@dataclasses.dataclass(frozen=True)
class Node:
    """A model, a wrapper or a layer.

    Attributes:
        class_name, name: as Keras writes them; a `name` of "" is none.
        config: its own dict.
        children: what it is made of: argument -> layer, or list of layers.
        custom: its class is not one of Keras' own.
        shared: the number that Keras 2 gives to an object that it meets more than once.
    """

    class_name: str
    name: str
    config: Mapping[str, Any]
    children: Mapping[str, "Node | list[Node]"]
    custom: bool
    shared: int | None = None

    @property
    def spec(self) -> type[Arguments] | None:
        """The arguments of our layer that this is, if it is one, and Keras' own."""
        return None if self.custom else keras_config.layer_of(self.class_name)

    @property
    def is_told(self) -> bool:
        """Whether everything that it is made of must be here: none has a class of its own."""
        return bool(self.children) and not any(node.custom for node in self.everything())

    def below(self) -> Iterator["Node"]:
        """Yield the nodes right below this one."""
        for child in self.children.values():
            yield from child if isinstance(child, list) else [child]

    def everything(self) -> Iterator["Node"]:
        """Yield this node and all that it is made of."""
        yield self
        for child in self.below():
            yield from child.everything()

    def ours(self) -> Iterator["Node"]:
        """Yield every layer in it that is one of ours, itself included."""
        return (node for node in self.everything() if node.spec is not None)

    def equals(self, other: "Node") -> bool:
        """Tell whether both have one class and one config, their names included."""
        return self.class_name == other.class_name and _bare(self.config) == _bare(other.config)


def parse(text: str | bytes, source: Any) -> Node:
    """Return the tree of a model; nothing in its configs is executed or made.

    Raises:
        InteropError: it is not the JSON of a Keras object.
    """
    try:
        root = _node(json.loads(text), _DEEPEST)
    except (ValueError, RecursionError) as error:
        raise InteropError(f"{source}: its config cannot be read: {error}") from error
    if root is None:
        raise InteropError(f"{source}: its config is not that of a Keras model")
    return root


def keeps_bfloat16(config: Mapping[str, Any] | None) -> bool:
    """Tell whether a layer's config says that its weights, too, are bfloat16."""
    policy = None if config is None else config.get("dtype")
    if isinstance(policy, dict) and isinstance(policy.get("config"), dict):
        policy = policy["config"].get("name")
    return policy == "bfloat16"


def _node(value: Any, depth: int) -> Node | None:
    """Return the layer that a part of a config describes; None if it describes no layer."""
    if not isinstance(value, dict) or not isinstance(value.get("class_name"), str):
        return None
    if depth == 0:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    config = value.get("config")
    if isinstance(config, list):  # A Sequential before Keras 2.2.3.
        config = {"layers": config}
    if not isinstance(config, dict):
        return None
    children: dict[str, Node | list[Node]] = {}
    for argument, part in config.items():
        if isinstance(part, list):
            nodes = [node for item in part if (node := _node(item, depth - 1)) is not None]
            if nodes:
                children[argument] = nodes
        elif (node := _node(part, depth - 1)) is not None:
            children[argument] = node
    name = config.get("name", value.get("name"))
    return Node(
        value["class_name"],
        name if isinstance(name, str) else "",
        config,
        children,
        _is_custom(value),
        shared if isinstance(shared := value.get("shared_object_id"), int) else None,
    )


def _bare(config: Any) -> Any:
    """Leave out what Keras writes in one place and not in another for the same object."""
    if isinstance(config, list):
        return [_bare(item) for item in config]
    if isinstance(config, dict):
        return {key: _bare(value) for key, value in config.items() if key not in _INCIDENTAL}
    return config


def _is_custom(value: Mapping[str, Any]) -> bool:
    module, registered = value.get("module"), value.get("registered_name")
    foreign = isinstance(module, str) and module.split(".")[0] not in ("keras", "tf_keras")
    return foreign or (isinstance(registered, str) and ">" in registered)
