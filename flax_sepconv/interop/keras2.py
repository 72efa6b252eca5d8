"""Keras' first file format, HDF5 named `.h5`: whole models, and weights only.

Each layer of the model has a group, in which its variables lie under their full names:

    /model_weights/conv/conv/depthwise_kernel:0     a whole model, its config an attribute
    /conv/conv/depthwise_kernel:0                   weights only
    /encoder/conv/depthwise_kernel:0                a layer of a model in the model

Keras 3 writes whole models so too, without ":0", and calls the kernel of a DepthwiseConv1D
"kernel", as it does that of a Conv1D: which it is, its config tells.
"""

import pathlib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from flax_sepconv.interop import hdf5, keras2_shared, keras_model
from flax_sepconv.interop.hdf5 import Store
from flax_sepconv.interop.keras2_shared import Found
from flax_sepconv.interop.keras_model import Node
from flax_sepconv.interop.layer import AXES, InteropError, Layer, warn_of_untold
from flax_sepconv.spec import DEPTHWISE_KERNEL, DepthwiseArguments

# The names of the scopes around a layer's variables, in the group of one layer of the model.
Scope = tuple[str, ...]
# Where each variable of a layer is in the file, by its bare name.
Variables = Mapping[str, str]


class _Sought(NamedTuple):
    """A layer that the config tells: its names from the top, and those its variables may have.

    `shared` is as `keras2_shared.Found` has it.
    """

    names: Scope
    node: Node
    scopes: tuple[str, ...]
    shared: tuple[Any, ...] | None


def format_of(path: pathlib.Path) -> str:
    """Tell "keras2" from "keras-weights" (`keras3.py`); both are HDF5.

    Raises:
        InteropError: it is no HDF5 file, or a damaged one.
    """
    with hdf5.opened(path, path) as store:
        return "keras2" if _is_keras2(store) else "keras-weights"


def version_of(path: pathlib.Path) -> int:
    """Return the major version of the Keras that wrote a `.h5` file.

    Raises:
        InteropError: the file does not tell, or is damaged or not of this format.
    """
    with hdf5.opened(path, path) as store:
        if version := _version(store)[0]:
            return version
    raise InteropError(f"{path} does not tell which Keras wrote it")


def read(path: pathlib.Path) -> list[Layer]:
    """Read every layer of ours of a `.h5` file.

    In a whole model they are found by its config, in models inside of models and in wrappers too,
    and come with their own configs; their paths are the names of the layers, joined by "/". In a
    file of weights only, and where the config of a model does not tell its parts, each scope with
    a depthwise kernel is taken, at the names that its variables have, in the order
    that the file tells; what a wrapper wraps has the wrapper's name there.

    A layer that two models share is in the file once for each layer of the outermost model that it
    is in. It is given once, at its first place, and a warning tells of the others; where the file
    does not tell it from a copy, it is given as often, with a warning.

    Raises:
        InteropError: the file is damaged or not of this format, or lacks weights that its config
            promises.
    """
    with hdf5.opened(path, path) as store:
        if not _is_keras2(store):
            raise InteropError(f"{path} is no Keras 2 file: it has no list of layers")
        top = "model_weights" if store.has("model_weights") else ""
        config = store.text("", "model_config")
        root = None if config is None else keras_model.parse(config, path)
        found = {} if root is None else _by_config(store, top, root, path)
        others = list(_by_names(store, top, set(found)))
        if root is not None:
            warn_of_untold(path, [other.layer.path for other in others])
        return keras2_shared.once([*found.values(), *others], _version(store), path)


def _version(store: Store) -> tuple[int, int]:
    """Return the version of the Keras that wrote the file, (0, 0) if it does not tell."""
    for group in ("", "model_weights"):
        told = store.text(group, "keras_version") if not group or store.has(group) else None
        if told is not None and (numbers := re.match(r"(\d{1,9})\.(\d{1,9})", told)):
            return int(numbers[1]), int(numbers[2])
    return 0, 0


def _is_keras2(store: Store) -> bool:
    # Long lists are cut: layer_names0, layer_names1, ...
    named = any(name.startswith("layer_names") for name in store.attributes(""))
    return named or store.has("model_weights")


def _by_names(store: Store, top: str, taken: set[int | None]) -> Iterator[Found]:
    groups = [_below(top, name) for name in store.children(top)]
    for group in dict.fromkeys([*_listed(store, top, "layer_names"), *groups]):
        names = tuple(group.removeprefix(_below(top, "")).split("/"))
        for scope, variables in _scopes(store, group).items():
            kernel = variables[DEPTHWISE_KERNEL]
            if store.identity(kernel) in taken:
                continue
            taken.add(store.identity(kernel))
            weights = {name: store.array(place) for name, place in variables.items()}
            yield Found(Layer("/".join(_known(names, scope)), weights), scope)


def _known(group: Scope, scope: Scope) -> Scope:
    """Return the names from the top; a model's own name may stand before the layer's."""
    for start in range(len(scope)):
        if scope[start : start + len(group)] == group:
            return scope[start:]
    return (*group, *scope)


def _by_config(store: Store, top: str, root: Node, path: pathlib.Path) -> dict[int | None, Found]:
    """Return the layers by where their depthwise kernel is in the file."""
    found: dict[int | None, Found] = {}
    for layer in root.below():
        if not (sought := list(_sought(layer, (), (), None))):
            continue
        depthwise = {s for one in sought if one.node.spec is DepthwiseArguments for s in one.scopes}
        scopes = _scopes(store, _below(top, layer.name), depthwise)
        takers, lost = _taken(sought, scopes, root.name)
        if lost:
            there = ", ".join("/".join(scope) for scope in scopes) or "none"
            raise InteropError(
                f"{path}: the weights of layer {'/'.join(lost[0].names)!r} cannot be told; group "
                f"{layer.name!r} has depthwise kernels in {there}"
            )
        for scope, (names, node, _, shared) in takers.items():
            opaque = keras_model.keeps_bfloat16(node.config)
            weights = {name: store.array(place, opaque) for name, place in scopes[scope].items()}
            kernel = store.identity(scopes[scope][DEPTHWISE_KERNEL])
            own = Layer("/".join(names), weights, node.config)
            found[kernel] = Found(own, scope, node, shared)
    return found


def _taken(
    sought: list[_Sought], scopes: Mapping[Scope, Any], model: str
) -> tuple[dict[Scope, _Sought], list[_Sought]]:
    """Return whose the scopes in a group are, and the layers that have none there."""
    takers: dict[Scope, _Sought] = {}
    others = []
    for one in sought:
        scope = _match(one, scopes, model, alone=len(sought) == len(scopes) == 1)
        if scope is None or scope in takers:
            others.append(one)
        else:
            takers[scope] = one
    if len(takers) < len(scopes):
        return takers, others
    # All weights in the group have a layer: what is told once more is shared by models in it.
    return takers, [o for o in others if not any(o.node.equals(t.node) for t in takers.values())]


def _sought(
    node: Node, names: Scope, wrapper: tuple[str, ...], shared: tuple[Any, ...] | None
) -> Iterator[_Sought]:
    names = (*names, *node.name.split("/"))
    if node.shared is not None:
        shared = (node.shared,)
    elif shared is not None:
        shared = (*shared, node.name)
    if node.spec is not None:
        yield _Sought(names, node, (names[-1], *wrapper), shared)
        return
    for child in node.children.values():
        if isinstance(child, Node):
            # tf-keras gives what a wrapper wraps the wrapper's name.
            yield from _sought(child, names, (node.name,), shared)
        else:
            for one in child:
                yield from _sought(one, names, (), shared)


def _match(sought: _Sought, scopes: Mapping[Scope, Any], model: str, alone: bool) -> Scope | None:
    """Return the scope of a layer: its name, and before it names on the way to it, or none."""
    if alone:
        return next(iter(scopes))
    way = (model, *sought.names)
    fitting = [
        scope
        for scope in scopes
        if scope and scope[-1] in sought.scopes and _is_within(scope[:-1], way)
    ]
    longest = max(map(len, fitting), default=0)
    best = [scope for scope in fitting if len(scope) == longest]
    return best[0] if len(best) == 1 else None


def _is_within(part: Scope, whole: Scope) -> bool:
    rest = iter(whole)
    return all(name in rest for name in part)


def _scopes(store: Store, group: str, depthwise: Collection[str] = ()) -> dict[Scope, Variables]:
    """Return the variables of what has a depthwise kernel of one dimension in a group.

    Args:
        store: the file.
        group: of a layer of the model.
        depthwise: the names of layers whose "kernel" is a depthwise one.
    """
    found: dict[Scope, dict[str, str]] = {}
    for place in dict.fromkeys([*_listed(store, group, "weight_names"), *store.walk(group)]):
        *scope, variable = place.removeprefix(f"{group}/").split("/")
        bare = variable.split(":")[0]
        if bare == "kernel" and scope and scope[-1] in depthwise:
            bare = DEPTHWISE_KERNEL
        if bare in AXES:
            variables = found.setdefault(tuple(scope), {})
            if bare in variables:
                raise InteropError(f"{variables[bare]!r} and {place!r} are one variable")
            variables[bare] = place
    return {
        scope: variables
        for scope, variables in found.items()
        # The variables of layers of two dimensions have the same names.
        if DEPTHWISE_KERNEL in variables and len(store.shape(variables[DEPTHWISE_KERNEL])) != 4
    }


def _below(top: str, group: str) -> str:
    return f"{top}/{group}" if top else group


def _listed(store: Store, group: str, attribute: str) -> list[str]:
    """Return the paths of what an attribute lists of a group, in its order, as far as it is there.

    In HDF5 itself the children of a group have the order of the alphabet.
    """
    names = ("/".join(filter(None, name.split("/"))) for name in store.texts(group, attribute))
    return [place for name in names if name and store.has(place := _below(group, name))]
