"""Norms between the two modules of a layer, in a state dict: found, and folded into its weights.

A BatchNorm in inference form is one number to multiply each channel by and one to add. Behind the
depthwise stage the first goes into its kernel, the second into its bias:

    scale = weight / sqrt(running_var + eps)
    depthwise_kernel * scale,    (depthwise_bias - running_mean) * scale + bias

That is exact, at the ends of sequences too, where no activation stands between the two modules. No
other norm is: what it subtracts and divides by hangs on the input.

A state dict has names and no program. What stands where is seen from numbers, as `Sequential` and
`ModuleList` give them, and from the order in which modules were made, which `torch.save` keeps and
safetensors does not; where neither tells, from the number of channels.
"""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from flax_sepconv.interop.layer import InteropError
from flax_sepconv.interop.state_dict import State

EPS = 1e-5  # of PyTorch's own norms, by default
_STATISTICS = {"running_mean", "running_var"}
_NORM = {"weight", "bias", "num_batches_tracked", *_STATISTICS}


class Item(NamedTuple):
    """A module with tensors of its own, or such a tensor where its module holds a layer's too."""

    name: str
    tensors: tuple[str, ...]


class Between(NamedTuple):
    """What may stand between two modules.

    Attributes:
        sure: what does, in order.
        doubtful: norms, or tensors of the module around both, that may, by their channels and by
            what else there is.
        unplaced: a norm that may, but is as likely to be behind them.
    """

    sure: list[Item]
    doubtful: list[Item]
    unplaced: list[Item]


def items(state: State, owned: Collection[str]) -> list[Item]:
    """Return all that has tensors, in the file's order, but for the modules of layers."""
    holders = {parent for name in owned for parent in parents(name)}
    found: dict[str, list[str]] = {}
    for name in state.shapes:
        module = name.rpartition(".")[0]
        if module not in owned:
            found.setdefault(name if module in holders else module, []).append(name)
    return [Item(name, tuple(tensors)) for name, tensors in found.items()]


def between(
    state: State,
    around: Sequence[Item],
    depthwise: str,
    pointwise: str,
    sizes: tuple[int, int, int],
) -> Between:
    """Find what stands between two modules.

    Args:
        state: the state dict.
        around: its `items`.
        depthwise: the first module.
        pointwise: the second.
        sizes: C, C*M and F.
    """
    C, joined, F = sizes
    order = _Order(state, depthwise, pointwise)
    sure, unclear, bare = [], [], []
    for item in around:
        place = order.place(item.name)
        if order.is_of_parent(item.name) and item.name in state.shapes:
            # A module lists its own tensors before its modules, whenever it uses them.
            if math.prod(state.shapes[item.name]) == joined:
                bare.append(item)
        elif place == "between":
            sure.append(item)
        elif place == "unclear" and channels(state, item) == joined:
            unclear.append(item)
    in_front, behind = _beside(state, around, order) if order.is_of_making else ([], unclear)
    found, excused = bare, list[Item]()
    for run, size in ((in_front, C), (behind, F)):
        # One norm of as many channels as the input or the output has is likely to be theirs.
        likely = joined == size and len(run) == 1
        (excused if likely else found).extend(i for i in run if channels(state, i) == joined)
    if sure:
        return Between(sure, [], [])
    return Between([], found, [] if found else list(dict.fromkeys(unclear + excused)))


def channels(state: State, item: Item) -> int | None:
    """Return the number of channels of what has the tensors of a norm; None of anything else."""
    own = {name.rpartition(".")[2]: state.shapes[name] for name in item.tensors}
    shapes = {shape for name, shape in own.items() if name != "num_batches_tracked"}
    if not own.keys() <= _NORM or len(shapes) != 1 or len(next(iter(shapes))) != 1:
        return None
    return next(iter(shapes))[0]


def is_foldable(state: State, item: Item, joined: int) -> bool:
    """Tell whether something is a norm of C*M channels with running statistics."""
    own = {name.rpartition(".")[2] for name in item.tensors}
    return own >= _STATISTICS and channels(state, item) == joined


def described(state: State, item: Item) -> str:
    """Return an item's name with what it is, for people."""
    own = {name.rpartition(".")[2] for name in item.tensors}
    number = channels(state, item)
    if number is not None and own >= _STATISTICS:
        return f"{item.name} (a BatchNorm of {number} channels)"
    shapes = ", ".join(f"{n.rpartition('.')[2]} {state.shapes[n]}" for n in item.tensors[:4])
    return f"{item.name} ({shapes}{', ...' if len(item.tensors) > 4 else ''})"


def affine(
    norm: Mapping[str, np.ndarray], eps: float, joined: int, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return what a BatchNorm in inference form multiplies by, and what it adds, in float64.

    Args:
        norm: its arrays by the names that they have in its module.
        eps: its eps.
        joined: C*M.
        what: it is, for the error.

    Raises:
        InteropError: it has no running statistics, or not C*M channels.
    """
    missing = sorted(_STATISTICS - norm.keys())
    if missing:
        raise InteropError(
            f"{what} has no {missing[0]}: only a BatchNorm with running statistics can be folded"
        )
    for name, array in norm.items():
        if array.shape != (joined,) and name != "num_batches_tracked":
            raise InteropError(f"{name} of {what} must be ({joined},), got shape {array.shape}")
    mean, var = (norm[name].astype(np.float64) for name in ("running_mean", "running_var"))
    with np.errstate(all="ignore"):  # What is not finite is refused by name.
        scale = norm.get("weight", np.ones(joined)).astype(np.float64) / np.sqrt(var + eps)
        shift = norm.get("bias", np.zeros(joined)).astype(np.float64) - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise InteropError(f"{what} is no sound norm: what it multiplies by or adds is not finite")
    return scale, shift


def parent(a: str, b: str) -> str:
    """Return the innermost module that has both.

    Example:
        >>> parent("block.0.conv", "block.1.conv")
        'block'
    """
    parts = a.split(".")
    return ".".join(parts[: _shared(parts, b.split("."))])


def parents(name: str) -> Iterator[str]:
    """Return the modules around one, the outermost, "", first."""
    parts = name.split(".")
    return (".".join(parts[:i]) for i in range(len(parts)))


class _Order:
    """Where modules stand, as seen from two of them.

    Attributes:
        first: the parts of the first one's name.
        second: of the other.
        parent: how many they have in common.
        is_of_making: whether only the order in which they were made tells which comes first.
    """

    def __init__(self, state: State, depthwise: str, pointwise: str) -> None:
        self.first, self.second = depthwise.split("."), pointwise.split(".")
        self.parent = _shared(self.first, self.second)
        modules = (name.rpartition(".")[0] for name in state.shapes)
        names = itertools.chain.from_iterable(zip(modules, state.shapes, strict=False))
        ranks = {name: i for i, name in reversed(list(enumerate(names)))}
        # Two that were made in another order than they are run in tell nothing of the rest.
        tells = state.ordered and ranks.get(depthwise, 0) < ranks.get(pointwise, 0)
        self._ranks = ranks if tells else {}
        self.is_of_making = tells and not _are_numbers(self.first, self.second)

    def place(self, name: str) -> str:
        """Return "between", "elsewhere" or "unclear"."""
        parts = name.split(".")
        near, far = _shared(parts, self.first), _shared(parts, self.second)
        if near < self.parent or far < self.parent:
            return "elsewhere"
        # What is beside one of the two in a module of its own comes with it.
        behind = True if far > self.parent else self._is_before(self.first, parts)
        before = True if near > self.parent else self._is_before(parts, self.second)
        if behind and before:
            return "between"
        if behind is False or before is False:
            return "elsewhere"
        # Where the two stand at the top, all else is below their parent.
        return "elsewhere" if not self.parent and len(parts) > 1 + max(near, far) else "unclear"

    def is_of_parent(self, name: str) -> bool:
        """Tell whether something belongs to the module that has both."""
        parts = name.split(".")
        return len(parts) == self.parent + 1 and parts[: self.parent] == self.first[: self.parent]

    def _is_before(self, a: list[str], b: list[str]) -> bool | None:
        """Tell which of two comes first; None if nothing says it."""
        if _are_numbers(a, b):
            shared = _shared(a, b)
            return int(a[shared]) < int(b[shared])
        ranks = [self._ranks.get(".".join(parts)) for parts in (a, b)]
        return None if None in ranks else ranks[0] < ranks[1]  # type: ignore[operator]


def _beside(state: State, around: Sequence[Item], order: _Order) -> tuple[list[Item], list[Item]]:
    """Return the norms made right before the first module and right after the second.

    Authors make norms in front of the convolutions, or after them, that stand between them.
    """
    names = list(dict.fromkeys(name.rpartition(".")[0] for name in state.shapes))
    known = {item.name: item for item in around}
    first, second = (names.index(".".join(parts)) for parts in (order.first, order.second))

    def is_norm(name: str) -> bool:
        parts = name.split(".")
        beside = len(parts) == order.parent + 1 and _shared(parts, order.first) == order.parent
        return beside and name in known and channels(state, known[name]) is not None

    runs = names[:first][::-1], names[second + 1 :]
    in_front, behind = ([known[n] for n in itertools.takewhile(is_norm, run)] for run in runs)
    return in_front[::-1], behind


def _are_numbers(a: Sequence[str], b: Sequence[str]) -> bool:
    shared = _shared(a, b)
    first = [parts[shared] for parts in (a, b) if len(parts) > shared]
    return len(first) == 2 and all(part.isdecimal() for part in first)


def _shared(a: Sequence[str], b: Sequence[str]) -> int:
    """Return how many parts two names begin with in common."""
    same = (x == y for x, y in zip(a, b, strict=False))
    return sum(1 for _ in itertools.takewhile(bool, same))
