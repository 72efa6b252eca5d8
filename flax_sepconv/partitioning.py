"""How a contraction that XLA cannot look into is divided among devices.

The batch and the channels are independent of one another: sharded, each device contracts what it
holds, and only a kernel gradient sums over the devices that share the batch. Length and taps stay
whole on each device.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from flax_sepconv.sharding import mesh_of

# The factors of each axis: two operands, then the result; channels lie outside multipliers.
AXES = {
    "output": (("b", "l", "c"), ("k", "c", "m"), ("b", "o", "(c m)")),
    "input_gradient": (("b", "o", "(c m)"), ("k", "c", "m"), ("b", "l", "c")),
    "kernel_gradient": (("b", "l", "c"), ("b", "o", "(c m)"), ("k", "c", "m")),
    "zero_tails": (("b", "l", "c"), ("b",), ("b", "l", "c")),
}
CHANNELS = ("c", "(c m)")
MeshAxes = tuple[str, ...]


def partitioned(
    contraction: str, function: Callable[[jax.Array, jax.Array], jax.Array], multiplier: int
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Return the function with a partitioning rule.

    Args:
        contraction: a key of `AXES`.
        function: of two operands, for any batch and any number of channels.
        multiplier: M.
    """
    wrapped = custom_partitioning(function)
    # Shardy wants no factor of size 1 beside another.
    lanes = "c" if multiplier == 1 else "(c m)"
    first, second, result = (" ".join(axes).replace("(c m)", lanes) for axes in AXES[contraction])
    rule = f"{first}, {second} -> {result}"
    whole = sorted(set(rule) & set("lkom"), key=rule.index)
    wrapped.def_partition(
        partition=functools.partial(_partition, contraction, function),
        infer_sharding_from_operands=functools.partial(_infer, contraction),
        sharding_rule=rule,
        need_replication_factors=tuple(whole),
        reduction_factors=("b",) if contraction == "kernel_gradient" else (),
    )
    return wrapped


def result_type(
    contraction: str, a: jax.Array, b: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype
) -> Any:
    """Return the type of a result that is divided as its operands are, where types tell that."""
    whole = whole_type(a, shape, dtype)
    sharding = result_sharding(contraction, a, b)
    return whole if sharding is None else whole.update(sharding=sharding)


def whole_type(like: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
    """Return the type of an array that is on the devices of another one, and not divided."""
    own = jax.typeof(like)
    sharding = own.sharding.update(spec=PartitionSpec(*(None for _ in shape)))
    return own.update(shape=shape, dtype=jnp.dtype(dtype), sharding=sharding)


def result_sharding(contraction: str, a: jax.Array, b: jax.Array) -> NamedSharding | None:
    """Return the sharding of a result that is divided as its operands are; None: no type tells."""
    mesh = mesh_of(a, b)
    if mesh is None:
        return None
    types = (jax.typeof(a), jax.typeof(b))
    *operand_axes, result_axes = AXES[contraction]
    divided = _divided(operand_axes, types, mesh, _channels(operand_axes, types))
    return _sharding(result_axes, divided, mesh)


def _infer(contraction: str, mesh: Mesh, operands: Any, result: Any) -> Any:
    """Propose a sharding of the result; asked only where Shardy is switched off."""
    del result
    axes = AXES[contraction][:2]
    divided = _divided(axes, operands, mesh, _channels(axes, operands))
    return _sharding(AXES[contraction][2], divided, mesh)


def _partition(
    contraction: str,
    function: Callable[[jax.Array, jax.Array], jax.Array],
    mesh: Mesh,
    operands: Any,
    result: Any,
) -> tuple[Mesh, Callable[..., jax.Array], NamedSharding, tuple[NamedSharding, ...]]:
    """Divide operands and result alike: as the result is wanted, or, summed, as x and y come."""
    *operand_axes, result_axes = AXES[contraction]
    channels = _channels(operand_axes, operands)
    if contraction == "kernel_gradient":
        divided = _divided(operand_axes, operands, mesh, channels)
    else:
        divided = _divided([result_axes], [result], mesh, channels)
    batch = divided[0]

    def local(a: jax.Array, b: jax.Array) -> jax.Array:
        out = function(a, b)
        return lax.psum(out, batch) if contraction == "kernel_gradient" and batch else out

    first, second = (_sharding(axes, divided, mesh) for axes in operand_axes)
    return mesh, local, _sharding(result_axes, divided, mesh), (first, second)


def _channels(axes: Any, arrays: Any) -> int:
    """Return the size of c, a whole axis of one array or the other."""
    letters, array = next(pair for pair in zip(axes, arrays, strict=True) if "c" in pair[0])
    return array.shape[letters.index("c")]


def _divided(
    axes: Any, arrays: Any, mesh: Mesh | AbstractMesh, channels: int
) -> tuple[MeshAxes, MeshAxes]:
    """Return the mesh axes that divide the batch, and those that divide the channels."""
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
