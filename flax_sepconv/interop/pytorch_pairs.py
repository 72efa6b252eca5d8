"""Which modules of a state dict make a layer: two, and norms that are folded into them; or one."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flax_sepconv.interop import pytorch_norms
from flax_sepconv.interop.layer import InteropError
from flax_sepconv.interop.pytorch_norms import Item, described
from flax_sepconv.interop.state_dict import State

# The last names of two modules in one parent that are taken for a layer unless `pairs` says which.
ENDINGS = (
    ("depthwise", "pointwise"),
    ("depthwise_conv", "pointwise_conv"),
    ("conv_depthwise", "conv_pointwise"),
    ("depth_conv", "point_conv"),
    ("dw", "pw"),
    ("dw_conv", "pw_conv"),
    ("dwconv", "pwconv"),
)
# What `pairs` says of a layer: its two modules, with a norm that is folded between them or none,
# or the depthwise module alone; and, where it is not 1, M.
Pair = tuple[str | int, ...]

_TOLD = 20


class Parts(NamedTuple):
    """The modules of a layer at a path, by name, and M."""

    path: str
    depthwise: str
    norms: tuple[str, ...]
    pointwise: str | None
    multiplier: int

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of all of them, in order."""
        last = () if self.pointwise is None else (self.pointwise,)
        return (self.depthwise, *self.norms, *last)


def resolve(
    state: State, pairs: Mapping[str, Pair] | None, fold_norms: bool, norm_eps: float
) -> tuple[list[Parts], list[str]]:
    """Return the parts of each layer, and what is to be told of how they were found.

    Raises:
        InteropError: as `pytorch.read`.
    """
    found = [_parts(state, path, pair) for path, pair in _pairs(state, pairs)]
    owned = {name for parts in found for name in parts.modules}
    rest = pytorch_norms.items(state, owned)
    resolved, told = [], []
    for parts in found:
        whole, messages = _with_norms(state, parts, rest, fold_norms, pairs is not None)
        resolved.append(whole)
        told += messages
        if whole.norms:
            told.append(
                f"layer {parts.path!r}: {', '.join(whole.norms)} is folded into it, with eps "
                f"{norm_eps:g} (norm_eps, --norm-eps): right only where no activation stands "
                "between its two modules, which a state dict does not tell"
            )
    folded = {name for parts in resolved for name in parts.norms}
    if fold_norms and not folded:
        told.append(f"{state.path}: nothing to fold stands between the two modules of any layer")
    return resolved, told + _left(state, [i for i in rest if i.name not in folded], resolved)


def tensors_of(state: State, path: str, module: str) -> dict[str, str]:
    """Return the names of a module's weight and bias in the state dict; refuse any other tensor."""
    own = _own(state, module)
    if "weight" not in own or not own.keys() <= {"weight", "bias"}:
        told = ", ".join(list(own)[:_TOLD]) or "nothing"
        raise InteropError(
            f"layer {path!r}: module {module!r} must have a weight, a bias or none, and nothing "
            "else (a weight norm is to be removed first; of a Sequential, name the convolution in "
            f"it by pairs, --pair); {state.path} has {told} of it"
        )
    return own


def norm_of(state: State, path: str, module: str) -> dict[str, str]:
    """Return the names of a norm's tensors in the state dict."""
    own = _own(state, module)
    if not own:
        raise InteropError(f"layer {path!r}: {state.path} has nothing of the norm {module!r}")
    return own


def _own(state: State, module: str) -> dict[str, str]:
    prefix = f"{module}." if module else ""
    names = [*state.shapes, *state.others]
    return {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}


def _pairs(state: State, pairs: Mapping[str, Pair] | None) -> list[tuple[str, Pair]]:
    """Return each layer's path with its modules, as they are given or by their names' ends."""
    found = _alike(state) if pairs is None else list(pairs.items())
    if not found:
        endings = ", ".join("/".join(pair) for pair in ENDINGS)
        some = list(state.shapes.items())[:_TOLD]
        told = ", ".join(f"{name} {shape}" for name, shape in some)
        rest = len(state.shapes) - len(some)
        raise InteropError(
            f"{state.path} has no two modules side by side whose names end in one of {endings}, "
            'nor the first alone; name them by pairs={"path": ("depthwise module", "pointwise '
            'module")}, or the first alone, or by --pair. '
            f"It has {told}{f' and {rest} more' if rest else ''}"
        )
    return found


def _parts(state: State, path: str, pair: Pair) -> Parts:
    kinds = [type(item) for item in pair] if isinstance(pair, tuple | list) else []
    modules = [item for item in pair if type(item) is str] if kinds else []
    if len(modules) not in (1, 2, 3) or kinds not in (
        [str] * len(modules),
        [*[str] * len(modules), int],
    ):
        raise InteropError(
            f"pairs[{path!r}] must be the names of the depthwise and the pointwise module, or of "
            "the depthwise module, a norm to fold and the pointwise module, or of the depthwise "
            f"module alone, and, where it is not 1, the depth multiplier, got {pair!r}"
        )
    depthwise, *norms = modules
    pointwise = norms.pop() if norms else None
    told = pair[-1] if kinds[-1] is int else state.multipliers.get(depthwise, 1)
    if type(told) is not int or told < 1:
        raise InteropError(f"layer {path!r}: its M must be a positive int, got {told!r}")
    return Parts(path, depthwise, tuple(norms), pointwise, told)


def _alike(state: State) -> list[tuple[str, Pair]]:
    """Find the modules of one parent that are named like one of `ENDINGS`, or like its first.

    The first alone is taken where its weight is that of a convolution with one channel a group.
    """
    partners = dict(ENDINGS)
    known = {name for pair in ENDINGS for name in pair}
    modules: dict[str, None] = {}
    for name in state.shapes:
        parts = name.split(".")
        last = max((i for i, part in enumerate(parts[:-1]) if part in known), default=None)
        if last is not None:
            modules[".".join(parts[: last + 1])] = None
    found: list[tuple[str, Pair]] = []
    for module in modules:
        parent, dot, last_name = module.rpartition(".")
        if last_name not in partners:
            continue
        pointwise = f"{parent}{dot}{partners[last_name]}"
        if pointwise in modules:
            found.append((parent.replace(".", "/"), (module, pointwise)))
        elif len(shape := state.shapes.get(f"{module}.weight", ())) == 3 and shape[1] == 1:
            found.append((parent.replace(".", "/"), (module,)))
    # safetensors sorts its names; what was told beside them has the order of writing.
    order = {module: i for i, module in enumerate(state.multipliers)}
    return sorted(found, key=lambda item: order.get(str(item[1][0]), len(order)))


def _with_norms(
    state: State, parts: Parts, rest: Sequence[Item], fold: bool, named: bool
) -> tuple[Parts, list[str]]:
    """Return the parts with the norms between the two modules, and what is to be told.

    Args:
        state: the state dict.
        parts: a layer's.
        rest: what belongs to no layer.
        fold: whether norms may be folded.
        named: whether the caller says that these modules make the layer.

    Raises:
        InteropError: there is a norm that may not be folded, or something else; or it is not clear.
    """
    path, depthwise, norms, pointwise, M = parts
    if pointwise is None:
        return parts, []
    joined, F = (
        (*state.shapes[tensors_of(state, path, module)["weight"]], 0)[0]
        for module in (depthwise, pointwise)
    )
    found = pytorch_norms.between(state, rest, depthwise, pointwise, (joined // M, joined, F))
    wrong = [item for item in found.sure if not pytorch_norms.is_foldable(state, item, joined)]
    if wrong:
        raise InteropError(
            f"layer {path!r}: {described(state, wrong[0])} stands between {depthwise} and "
            f"{pointwise}: this is no separable convolution, and only a BatchNorm with running "
            "statistics can be folded into one. If it stands elsewhere in the program, give the "
            "modules themselves to interop.from_modules; the depthwise module alone, named by "
            "pairs (--pair), is a DepthwiseConv1D"
        )
    told = ", ".join(described(state, item) for item in itertools.chain(*found))
    if found.sure and norms:
        raise InteropError(
            f"layer {path!r}: {told} stands between {depthwise} and {pointwise}, and pairs "
            f"(--pair) names {norms[0]}; fold_norms=True (--fold-norms) without a name folds all"
        )
    if found.sure and not fold:
        raise InteropError(
            f"layer {path!r}: {told} stands between {depthwise} and {pointwise}: this is no "
            "separable convolution. Where no activation stands there too, which a state dict does "
            "not tell, fold_norms=True (--fold-norms) folds it into one; the depthwise module "
            "alone, named by pairs (--pair), is a DepthwiseConv1D"
        )
    if not (found.doubtful or found.unplaced) or norms:
        return parts._replace(norms=norms or tuple(item.name for item in found.sure)), []
    certain = joined not in (F, joined // M)
    first, *others = found.doubtful or found.unplaced
    if fold and certain and not others and pytorch_norms.is_foldable(state, first, joined):
        return parts._replace(norms=(first.name,)), []
    if fold or certain or (found.doubtful and not named):
        raise InteropError(
            f"layer {path!r}: {told} may stand between {depthwise} and {pointwise}, which this "
            f"file does not tell. If so, pairs (--pair) takes the norm's name between the two "
            f"modules' to fold it; if not, pairs with the two modules"
        )
    return parts, [
        f"layer {path!r}: {told} may stand between {depthwise} and {pointwise}, which this file "
        "does not tell; it is not converted"
    ]


def _left(state: State, rest: Sequence[Item], found: Sequence[Parts]) -> list[str]:
    """Tell what belongs to no layer, first what is beside them."""
    if not rest:
        return []
    near = {pytorch_norms.parent(parts.depthwise, parts.modules[-1]) for parts in found}
    ordered = sorted(rest, key=lambda item: not near.intersection(pytorch_norms.parents(item.name)))
    told = ", ".join(described(state, item) for item in ordered[:_TOLD])
    more = f" and {len(rest) - _TOLD} more" if len(rest) > _TOLD else ""
    return [f"{state.path}: not converted, being in no layer: {told}{more}"]
