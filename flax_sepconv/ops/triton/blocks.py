"""Blocks of arrays in memory: what a program of a Triton kernel loads, stores and contracts.

Triton's blocks have sizes that are powers of two, and a block cannot be cut. So every edge of an
array is a mask, and every shift along the steps is a load of its own from another address.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.typing import DTypeLike

Carry = TypeVar("Carry")


@dataclasses.dataclass(frozen=True)
class Span:
    """Positions along one axis of an array, laid out along one axis of a block.

    Attributes:
        index: int32 positions, (n, 1) or (1, n).
        inside: which of them the array has; None where it has all of them.
    """

    index: jax.Array
    inside: jax.Array | None


def rows(start: Any, count: int, limit: Any, step: int = 1) -> Span:
    """Return `count` positions from `start` on, down the block."""
    index = start + step * lax.iota(jnp.int32, count)[:, None]
    return Span(index, (index >= 0) & (index < limit))


def columns(tile: Any, count: int, limit: int, exact: bool = True) -> Span:
    """Return the positions of a tile of `count`, across the block.

    `exact` promises that the array has some of them: then it has all, if tiles fill it.
    """
    index = tile * count + lax.iota(jnp.int32, count)[None, :]
    return Span(index, None if exact and limit % count == 0 else index < limit)


def turned(span: Span) -> Span:
    """Return the positions that lie across a block down the block, or the other way round."""
    return Span(span.index.T, None if span.inside is None else span.inside.T)


def load(ref: Any, *position: Any) -> jax.Array:
    """Load a block; what the array does not have reads zero."""
    index, mask = _address(position)
    other = None if mask is None else jnp.zeros((), ref.dtype)
    block: jax.Array = _backend().load(ref.at[index], mask=mask, other=other)
    return block


def load_wide(ref: Any, *position: Any) -> jax.Array:
    """Load a block and widen it to float32, in which everything is summed."""
    return load(ref, *position).astype(jnp.float32)


def store(ref: Any, value: jax.Array, *position: Any) -> None:
    """Round a block to the array's dtype and store it, as far as the array goes."""
    index, mask = _address(position)
    _backend().store(ref.at[index], value.astype(ref.dtype), mask=mask)


def _address(position: Sequence[Any]) -> tuple[tuple[Any, ...], jax.Array | None]:
    spans = [p for p in position if isinstance(p, Span)]
    shape = np.broadcast_shapes(*(span.index.shape for span in spans))
    index = tuple(p.index if isinstance(p, Span) else p for p in position)
    mask = None
    for span in spans:
        if span.inside is not None:
            mask = span.inside if mask is None else mask & span.inside
    return index, None if mask is None else jnp.broadcast_to(mask, shape)


def barrier() -> None:
    """Wait for the program's other threads: what they stored can be loaded from here on."""
    _backend().debug_barrier()


def _backend() -> Any:
    """Import what is particular to Triton: when a kernel is traced, not with the package."""
    from jax.experimental.pallas import triton

    return triton


def loop(count: Any, body: Callable[[Any, Carry], Carry], carry: Carry) -> Carry:
    """Run `body(i, carry)` for i below `count`, counted in int32 whatever JAX's default is."""
    first, end = (np.int32(0), np.int32(count)) if isinstance(count, int) else (jnp.int32(0), count)
    last: Carry = lax.fori_loop(first, end, body, carry)
    return last


def zeros(*shape: int) -> jax.Array:
    """Return a block to sum in."""
    return jnp.zeros(shape, jnp.float32)


def exact_unless_asked(precision: Any) -> Any:
    """Return full float32 where neither the caller nor JAX's configuration names a precision.

    Triton's own default rounds float32 to TF32.
    """
    config: Any = jax.config  # whose options are unknown to types
    if precision is None and config.jax_default_matmul_precision is None:
        return lax.Precision.HIGHEST
    return precision


def dot(a: jax.Array, b: jax.Array, axes: tuple[int, int], precision: Any) -> jax.Array:
    """Contract one axis of each of two blocks, summed in float32."""
    dtype = jnp.promote_types(a.dtype, b.dtype)
    return lax.dot_general(
        a.astype(dtype),
        b.astype(dtype),
        (((axes[0],), (axes[1],)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    )


def call(
    kernel: Callable[..., None],
    operands: Sequence[jax.Array],
    results: Sequence[tuple[tuple[int, ...], DTypeLike]],
    *,
    grid: tuple[int, ...],
    warps: int,
    stages: int = 1,
    interpret: bool,
) -> list[jax.Array]:
    """Run a kernel that addresses whole arrays; of its programs the grid's first axis counts first.

    One stage: Triton's pipelining would copy the same steps to shared memory once for each tap.
    """
    varying = jax.typeof(operands[0]).manual_axis_type
    made: list[jax.Array] = pl.pallas_call(
        kernel,
        out_shape=[
            jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=varying) for shape, dtype in results
        ],
        grid=grid,
        compiler_params=_backend().CompilerParams(num_warps=warps, num_stages=stages),
        interpret=interpret,
    )(*operands)
    return made
