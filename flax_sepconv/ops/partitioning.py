"""How a contraction is divided among devices where XLA divides a program by itself.

XLA cannot look into native kernels, and of a sum of shifted inputs it would move every tap by
itself. So it is told: the batch, the steps and the channels may be divided. Each device contracts
what it holds, with what it gets from its neighbours of the steps (`halo`), and a kernel gradient is
summed over the devices that share the batch or the steps. Taps and multipliers stay whole.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from flax_sepconv.ops.sharding import (
    Layout,
    MeshAxes,
    Shards,
    devices,
    layout_of,
    mesh_of,
    spec_of,
)

Axes = tuple[str, ...]
# (how steps are divided or None, *operands of one device) -> result, or several.
Local = Callable[..., Any]

# The factors of each axis; channels lie outside multipliers. Input and output steps are one factor,
# as they are for XLA's own convolutions.
INPUT, KERNEL, OUTPUT = ("b", "l", "c"), ("k", "c", "m"), ("b", "l", "(c m)")
# Of the operands, then of the results.
AXES: dict[str, tuple[tuple[Axes, ...], tuple[Axes, ...]]] = {
    "output": ((INPUT, KERNEL), (OUTPUT,)),
    "input_gradient": ((OUTPUT, KERNEL), (INPUT,)),
    "kernel_gradient": ((INPUT, OUTPUT), (KERNEL,)),
    "gradients": ((INPUT, KERNEL, OUTPUT), (INPUT, KERNEL)),
    "zero_tails": ((INPUT,), (INPUT,)),
}
# Of one more operand, which limits rows.
LIMIT_AXES: dict[str, tuple[Axes, ...]] = {
    "whole": (),
    "lengths": (("b",),),
    "segments": (("b", "l"),),
}
CHANNELS = ("c", "(c m)")
# What NumPy knows of a type it keeps. XLA divides programs in threads where the smallest numbers
# are zero, of which NumPy would warn when it is asked for the first time.
LIMITS_OF_TYPES = [jnp.finfo(dtype) for dtype in (jnp.bfloat16, jnp.float16, jnp.float32, float)]


class Division(NamedTuple):
    """The mesh axes that divide the batch, the steps and the channels."""

    batch: MeshAxes
    steps: MeshAxes
    channels: MeshAxes

    def on(self, mesh: Mesh | AbstractMesh, axes: Axes) -> NamedSharding:
        """Return how an array of these axes is divided."""
        by = {"b": self.batch, "l": self.steps, "c": self.channels, "(c m)": self.channels}
        return NamedSharding(mesh, spec_of(tuple(by.get(axis, ()) for axis in axes)))


class _Rule(NamedTuple):
    """How operands and results of a function are divided alike."""

    operands: tuple[Axes, ...]
    results: tuple[Axes, ...]
    local: Local

    @property
    def sums(self) -> bool:
        """Tell whether a result is a sum over the batch and the steps."""
        return KERNEL in self.results


def partitioned(
    contraction: str, local: Local, multiplier: int, limits: str, types: Sequence[Any]
) -> Local:
    """Return the function of whole operands that XLA may divide among devices.

    Args:
        contraction: a key of `AXES`.
        local: for any batch and any number of channels and, where it is told how steps are
            divided, for a device's own steps.
        multiplier: M.
        limits: a key of `LIMIT_AXES`.
        types: of whole operands.
    """
    axes, results = AXES[contraction]
    operands = axes + LIMIT_AXES[limits]
    # Shardy wants no factor of size 1 beside another.
    lanes = "c" if multiplier == 1 else "m" if _channels(axes, types) == 1 else "(c m)"
    factors = " -> ".join(
        ", ".join(" ".join(letters).replace("(c m)", lanes) for letters in arrays)
        for arrays in (operands, results)
    )
    ordered = sorted(set(factors) & set("blckm"), key=factors.index)
    kept = {letter for letters in results for letter in letters}
    is_wide = jax.dtypes.canonicalize_dtype("float64") == "float64"

    def as_wide(*arguments: Any) -> Any:
        with jax.enable_x64(is_wide):
            return local(*arguments)

    rule = _Rule(operands, results, as_wide)
    wrapped = custom_partitioning(functools.partial(local, None))
    wrapped.def_partition(
        partition=functools.partial(_partition, rule),
        infer_sharding_from_operands=functools.partial(_infer, rule),
        decode_shardings=False,  # JAX fails where an axis is divided by a part of a mesh axis.
        sharding_rule=factors,
        need_replication_factors=tuple(letter for letter in ordered if letter in "km"),
        reduction_factors=tuple(letter for letter in ordered if letter in set("bl") - kept),
        permutation_factors=("l",) if "l" in kept and contraction != "zero_tails" else (),
    )
    function: Local = wrapped
    return function


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
    axes, (result,) = AXES[contraction]
    layouts = [layout_of(operand) for operand in operands[: len(axes)]]
    return _divided(axes, layouts, operands, mesh).on(mesh, result)


def _infer(rule: _Rule, mesh: Mesh, operands: Any, results: Any) -> Any:
    """Propose shardings of results; asked only where Shardy is switched off."""
    specs = [_decoded(operand, mesh) for operand in operands]
    division = _divided(rule.operands, specs, operands, mesh)
    shardings = tuple(division.on(mesh, axes) for axes in rule.results)
    return shardings if isinstance(results, tuple) else shardings[0]


def _partition(
    rule: _Rule, mesh: Mesh, operands: Any, results: Any
) -> tuple[Mesh, Local, Any, tuple[NamedSharding, ...]]:
    """Divide operands and results alike: as the result is wanted, or, summed, as x and y come."""
    wanted = results if isinstance(results, tuple) else (results,)
    axes, arrays = (rule.operands, operands) if rule.sums else (rule.results, wanted)
    specs = [_decoded(array, mesh) for array in arrays]
    division = _divided(axes, specs, arrays, mesh, _channels(rule.operands, operands))
    shards = Shards.over(mesh, division.steps)
    summed = division.batch + division.steps

    def local(*operands: jax.Array) -> Any:
        out = rule.local(shards, *operands)
        parts = out if isinstance(results, tuple) else (out,)
        total = tuple(
            lax.psum(part, summed) if axes == KERNEL and summed else part
            for axes, part in zip(rule.results, parts, strict=True)
        )
        return total if isinstance(results, tuple) else total[0]

    shardings = tuple(division.on(mesh, axes) for axes in rule.results)
    given = tuple(division.on(mesh, axes) for axes in rule.operands)
    return mesh, local, shardings if isinstance(results, tuple) else shardings[0], given


def _channels(axes: Sequence[Axes], arrays: Sequence[Any]) -> int:
    """Return the size of c, a whole axis of one array or the other."""
    letters, array = next(pair for pair in zip(axes, arrays, strict=False) if "c" in pair[0])
    size: int = array.shape[letters.index("c")]
    return size


def _divided(
    axes: Sequence[Axes],
    specs: Sequence[Layout],
    arrays: Sequence[Any],
    mesh: Mesh | AbstractMesh,
    channels: int | None = None,
) -> Division:
    """Return by what mesh axes arrays are divided: of each kind the first that can be.

    Where the arrays have the channels as an axis of its own, their number need not be told.
    """
    channels = _channels(axes, arrays) if channels is None else channels
    found: dict[str, MeshAxes] = {"b": (), "l": (), "c": ()}
    entries = [
        ("c" if letter in CHANNELS else letter, names)
        for letters, spec in zip(axes, specs, strict=True)
        for letter, names in zip(letters, spec, strict=False)
    ]
    for kind in found:
        used = sum(found.values(), ())
        for letter, names in entries:
            free = tuple(name for name in names if name not in used)
            if letter == kind and not (kind == "c" and channels % devices(mesh, free)):
                found[kind] = found[kind] or free
    return Division(found["b"], found["l"], found["c"])


def _decoded(array: Any, mesh: Mesh) -> Layout:
    """Return which mesh axes divide each axis of an array, as XLA has it.

    XLA divides by parts of mesh axes too. Such arrays count as undivided: they are gathered.
    """
    if array.sharding is None:
        return ()
    ndim = len(array.shape)
    for spec in _specs(tuple(name for name, size in mesh.shape.items() if size > 1), ndim):
        named = NamedSharding(mesh, spec_of(spec))
        if array.sharding.is_equivalent_to(named, ndim):
            return spec
    return ()


@functools.lru_cache(maxsize=64)
def _specs(names: MeshAxes, ndim: int) -> tuple[Layout, ...]:
    """Return all ways to divide axes of an array by mesh axes."""
    undivided: Layout = ((),) * ndim
    ways = [undivided]
    for count in range(1, len(names) + 1):
        for chosen in itertools.permutations(names, count):
            for places in itertools.combinations_with_replacement(range(ndim), count):
                pairs = list(zip(places, chosen, strict=True))
                ways.append(
                    tuple(tuple(name for at, name in pairs if at == i) for i in range(ndim))
                )
    return tuple(ways)
