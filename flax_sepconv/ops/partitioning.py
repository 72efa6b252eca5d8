"""How a contraction that XLA cannot look into is divided among devices.

The batch and the channels are independent of one another: sharded, each device contracts what it
holds, and only a kernel gradient sums over the devices that share the batch. Length and taps stay
whole on each device.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from flax_sepconv.ops.sharding import mesh_of

Axes = tuple[str, ...]

# The factors of each axis: of the operands, then of the result; channels lie outside multipliers.
AXES: dict[str, tuple[Axes, ...]] = {
    "output": (("b", "l", "c"), ("k", "c", "m"), ("b", "o", "(c m)")),
    "input_gradient": (("b", "o", "(c m)"), ("k", "c", "m"), ("b", "l", "c")),
    "kernel_gradient": (("b", "l", "c"), ("b", "o", "(c m)"), ("k", "c", "m")),
    "zero_tails": (("b", "l", "c"), ("b", "l", "c")),
}
# Of one more operand, which limits rows.
LIMIT_AXES: dict[str, tuple[Axes, ...]] = {
    "whole": (),
    "lengths": (("b",),),
    "segments": (("b", "l"),),
}
CHANNELS = ("c", "(c m)")
MeshAxes = tuple[str, ...]
Function = Callable[..., jax.Array]


class _Rule(NamedTuple):
    """How operands and result of a function are divided alike."""

    operands: tuple[Axes, ...]
    result: Axes
    function: Function
    sums: bool  # over the batch


def partitioned(contraction: str, function: Function, multiplier: int, limits: str) -> Function:
    """Return the function with a partitioning rule.

    Args:
        contraction: a key of `AXES`.
        function: of its operands, for any batch and any number of channels.
        multiplier: M.
        limits: a key of `LIMIT_AXES`.
    """
    *axes, result = AXES[contraction]
    axes += LIMIT_AXES[limits]
    rule = _Rule(tuple(axes), result, function, sums=contraction == "kernel_gradient")
    # Shardy wants no factor of size 1 beside another.
    lanes = "c" if multiplier == 1 else "(c m)"
    operands, out = (
        ", ".join(" ".join(letters).replace("(c m)", lanes) for letters in arrays)
        for arrays in (axes, [result])
    )
    factors = f"{operands} -> {out}"
    wrapped = custom_partitioning(function)
    wrapped.def_partition(
        partition=functools.partial(_partition, rule),
        infer_sharding_from_operands=functools.partial(_infer, rule),
        sharding_rule=factors,
        need_replication_factors=tuple(sorted(set(factors) & set("lkom"), key=factors.index)),
        reduction_factors=("b",) if rule.sums else (),
    )
    return wrapped


def result_type(
    contraction: str, operands: Sequence[jax.Array], shape: tuple[int, ...], dtype: jnp.dtype
) -> Any:
    """Return the type of a result that is divided as its operands are, where types tell that."""
    whole = whole_type(operands[0], shape, dtype)
    sharding = result_sharding(contraction, *operands)
    return whole if sharding is None else whole.update(sharding=sharding)


def whole_type(like: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
    """Return the type of an array that is on the devices of another one, and not divided."""
    own = jax.typeof(like)
    sharding = own.sharding.update(spec=PartitionSpec(*(None for _ in shape)))
    return own.update(shape=shape, dtype=jnp.dtype(dtype), sharding=sharding)


def result_sharding(contraction: str, *operands: jax.Array) -> NamedSharding | None:
    """Return the sharding of a result that is divided as its operands are; None: no type tells."""
    mesh = mesh_of(*operands)
    if mesh is None:
        return None
    *axes, result = AXES[contraction]
    types = [jax.typeof(operand) for operand in operands[: len(axes)]]
    return _sharding(result, _divided(axes, types, mesh), mesh)


def _infer(rule: _Rule, mesh: Mesh, operands: Any, result: Any) -> Any:
    """Propose a sharding of the result; asked only where Shardy is switched off."""
    del result
    return _sharding(rule.result, _divided(rule.operands, operands, mesh), mesh)


def _partition(
    rule: _Rule, mesh: Mesh, operands: Any, result: Any
) -> tuple[Mesh, Function, NamedSharding, tuple[NamedSharding, ...]]:
    """Divide operands and result alike: as the result is wanted, or, summed, as x and y come."""
    axes, arrays = (rule.operands, operands) if rule.sums else ([rule.result], [result])
    divided = _divided(axes, arrays, mesh, _channels(rule.operands, operands))
    batch = divided[0]

    def local(*operands: jax.Array) -> jax.Array:
        out = rule.function(*operands)
        return lax.psum(out, batch) if rule.sums and batch else out

    shardings = tuple(_sharding(axes, divided, mesh) for axes in rule.operands)
    return mesh, local, _sharding(rule.result, divided, mesh), shardings


def _channels(axes: Any, arrays: Any) -> int:
    """Return the size of c, a whole axis of one array or the other."""
    letters, array = next(pair for pair in zip(axes, arrays, strict=True) if "c" in pair[0])
    size: int = array.shape[letters.index("c")]
    return size


def _divided(
    axes: Any, arrays: Any, mesh: Mesh | AbstractMesh, channels: int | None = None
) -> tuple[MeshAxes, MeshAxes]:
    """Return the mesh axes that divide the batch, and those that divide the channels (`channels`).

    Where the arrays have the channels as an axis of its own, their number need not be told.
    """
    channels = _channels(axes, arrays) if channels is None else channels
    batch: MeshAxes = ()
    lanes: MeshAxes = ()
    for letters, array in zip(axes, arrays, strict=True):
        spec = array.sharding.spec if array.sharding is not None else ()
        for letter, names in zip(letters, spec, strict=False):
            names = (names,) if isinstance(names, str) else tuple(names or ())
            if letter == "b":
                batch = batch or names
            elif letter in CHANNELS and channels % math.prod(mesh.shape[n] for n in names) == 0:
                lanes = lanes or names
    return batch, tuple(name for name in lanes if name not in batch)


def _sharding(
    axes: Any, divided: tuple[MeshAxes, MeshAxes], mesh: Mesh | AbstractMesh
) -> NamedSharding:
    batch, lanes = divided
    spec = [batch if axis == "b" else lanes if axis in CHANNELS else None for axis in axes]
    return NamedSharding(mesh, PartitionSpec(*(names or None for names in spec)))
