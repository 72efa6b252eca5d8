"""PyTorch's modules in the order of their execution, and which of them make a layer."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from flax_sepconv.interop.layer import InteropError
from flax_sepconv.interop.state_dict import require

# Activations by the names of their classes and the arguments that make them Keras'.
_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "ReLU": ("relu", {}),
    "ReLU6": ("relu6", {}),
    "Sigmoid": ("sigmoid", {}),
    "Tanh": ("tanh", {}),
    "SiLU": ("silu", {}),
    "SELU": ("selu", {}),
    "ELU": ("elu", {"alpha": 1.0}),
    "GELU": ("gelu", {"approximate": "none"}),
    "Softsign": ("softsign", {}),
}


class Chain(NamedTuple):
    """The modules of one layer.

    Attributes:
        depthwise: the first convolution.
        norms: BatchNorms between the two.
        pointwise: the second convolution, or a Linear; None where there is none.
        activation: Keras' name of what follows, or None.
        left: what stands behind and is not the layer's, for people.
    """

    depthwise: Any
    norms: list[Any]
    pointwise: Any
    activation: str | None
    left: list[str]


def parse(depthwise: Any, pointwise: Any, fold_norms: bool) -> Chain:
    """Tell what each module is in the layer that starts with `depthwise`.

    Raises:
        InteropError: something stands between the two convolutions that cannot be folded.
    """
    nn = require().nn
    given = [depthwise] if pointwise is None else [depthwise, pointwise]
    items = [
        (name, module)
        for name, module in _flat(given)
        if not isinstance(module, nn.Identity | nn.modules.dropout._DropoutNd)
    ]
    first = items[0][1] if items else depthwise
    holder = "depthwise" if pointwise is None else "pointwise"
    second = next(
        (
            i
            for i, (name, module) in enumerate(items)
            if i and name.startswith(holder) and isinstance(module, nn.Conv1d | nn.Linear)
        ),
        None,
    )
    if second is None and pointwise is None:
        activation = _activation(items[1][1]) if items[1:] else None
        return Chain(first, [], None, activation, _told(items[1 if activation is None else 2 :]))
    if second is None:
        second = len(items) - 1  # Which is refused as what it is.
    between, (last_name, last), behind = items[1:second], items[second], items[second + 1 :]
    if last_name.startswith("depthwise") and isinstance(last, nn.Linear):
        raise InteropError(
            f"{last_name} is a Linear in one Sequential with a Conv1d, where it mixes steps and "
            "not channels"
        )
    norms = [_norm(name, module, fold_norms) for name, module in between]
    activation = _activation(behind[0][1]) if behind else None
    left = behind if activation is None else behind[1:]
    return Chain(first, norms, last, activation, _told(left))


def _told(items: list[tuple[str, Any]]) -> list[str]:
    return [f"{name} ({type(module).__name__})" for name, module in items]


def _flat(given: list[Any]) -> Iterator[tuple[str, Any]]:
    """Yield modules by the names that tell where they stand: "depthwise[0]"."""
    nn = require().nn
    waiting = list(zip(("depthwise", "pointwise"), given, strict=False))[::-1]
    while waiting:
        name, module = waiting.pop()
        hooks = ("_forward_pre_hooks", "_forward_hooks")
        if any(getattr(module, hook, None) for hook in hooks):
            raise InteropError(
                f"{name} has hooks that may change what it computes: remove them first (an old "
                "weight norm by torch.nn.utils.remove_weight_norm)"
            )
        if not isinstance(module, nn.Sequential):
            yield name, module
        elif type(module).forward is not nn.Sequential.forward:
            raise InteropError(f"{name} is a {type(module).__name__} with a forward of its own")
        else:
            inner = [(f"{name}[{i}]", child) for i, child in enumerate(module)]
            waiting += inner[::-1]


def _norm(name: str, module: Any, fold_norms: bool) -> Any:
    nn = require().nn
    what = f"{name} ({type(module).__name__}) stands between the two convolutions"
    if not isinstance(module, nn.BatchNorm1d | nn.SyncBatchNorm):
        raise InteropError(
            f"{what}: this is no separable convolution, and only a BatchNorm can be folded into one"
        )
    if module.running_mean is None or module.running_var is None:
        raise InteropError(f"{what}: it has no running statistics, and cannot be folded")
    if not fold_norms:
        raise InteropError(
            f"{what}: this is no separable convolution; fold_norms=True folds it into one, as it "
            "is in inference"
        )
    return module


def _activation(module: Any) -> str | None:
    name, needed = _ACTIVATIONS.get(type(module).__name__, (None, {}))
    own = getattr(require().nn, type(module).__name__, None)
    fits = all(getattr(module, key, None) == value for key, value in needed.items())
    return name if type(module) is own and fits else None
