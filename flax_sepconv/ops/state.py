"""Sequences that come in chunks: what a causal convolution must remember between them.

An output step reads the D*(K-1) input steps before its own. A stream's state is these steps and,
where strides are larger than 1, how far the next output step is. A chunk is put behind them, and
the rest is the convolution without padding: every derivative, through the state too, is its own.
A stream that begins needs no steps before it: zeros are the padding of a causal convolution.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from flax_sepconv.ops.limits import cut_rows
from flax_sepconv.ops.primitives import compiled
from flax_sepconv.ops.sharding import axes_of, mesh_of, sharding_on


class StreamState(struct.PyTreeNode, init=False):
    """What is remembered of each stream of a batch. A pytree: carry it through `jit` and `scan`.

    Attributes:
        history: the last D*(K-1) input steps, laid out as the inputs are: (..., D*(K-1), C), or
            (..., C, D*(K-1)) with "channels_first". Zeros stand for what was before the stream.
        phase: (...,) int32, the input steps to come before one at which there is an output step;
            None where strides is 1: there is one at each.
        steps: (...,) int32, the output steps of each stream in the latest result, where strides is
            larger than 1; behind them the result is zero. None where strides is 1.
        strides: S.

    Gradients flow through `history`. With respect to a whole state of strides larger than 1, which
    has integers in it, `jax.grad` needs `allow_int=True`.
    """

    history: jax.Array
    phase: jax.Array | None = None
    steps: jax.Array | None = None
    strides: int = struct.field(pytree_node=False, default=1)

    def __init__(
        self,
        history: jax.Array,
        phase: jax.Array | None = None,
        steps: jax.Array | None = None,
        strides: int = 1,
    ) -> None:
        # A compiled step makes one in each call: what is as it is in the class is not set again.
        put = object.__setattr__
        put(self, "history", history)
        if phase is not None:
            put(self, "phase", phase)
        if steps is not None:
            put(self, "steps", steps)
        if strides != 1:
            put(self, "strides", strides)

    def reset(self, where: ArrayLike) -> "StreamState":
        """Begin the streams anew of which `where`, (...,) bool, is True."""
        return _reset(self, resolve_reset(where, self.history.shape[:-2]))

    @property
    def arrays(self) -> dict[str, jax.Array]:
        """The arrays that there are, by name."""
        named = {"history": self.history, "phase": self.phase, "steps": self.steps}
        return {name: array for name, array in named.items() if array is not None}

    def replaced(self, arrays: Mapping[str, jax.Array]) -> "StreamState":
        """Return the state that consists of other arrays."""
        return StreamState(
            arrays["history"], arrays.get("phase"), arrays.get("steps"), self.strides
        )

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the inputs."""
        return self.history.dtype


def zeros(
    batch: tuple[int, ...], channels: int, reach: int, strides: int, last: bool, dtype: DTypeLike
) -> StreamState:
    """Return the state of streams of which nothing has come; `last`: its channels are."""
    shape = (reach, channels) if last else (channels, reach)
    history = _zeros((*batch, *shape), jnp.dtype(dtype))
    if strides == 1:
        return StreamState(history)
    # Two arrays: none can be donated twice.
    phase, steps = (_zeros(batch, jnp.dtype("int32")) for _ in range(2))
    return StreamState(history, phase, steps, strides)


# Inline: traced it is what it would be by itself.
_zeros = jax.jit(jnp.zeros, static_argnums=(0, 1), inline=True)


@compiled()
def _reset(state: StreamState, where: jax.Array) -> StreamState:
    history = jnp.where(where[..., None, None], jnp.zeros((), state.dtype), state.history)
    phase = None if state.phase is None else jnp.where(where, 0, state.phase)
    return state.replace(history=history, phase=phase)


def resolve_reset(reset: ArrayLike, batch: tuple[int, ...]) -> jax.Array:
    """Return an array that tells which streams of a batch begin, or raise."""
    where = jnp.asarray(reset)
    if where.dtype != bool:
        raise TypeError(f"reset must be bool, got dtype {where.dtype}")
    if where.shape != batch:
        raise ValueError(f"reset must have the shape of the batch, {batch}, got {where.shape}")
    return where


def check(name: str, state: Any, expected: StreamState, last: bool) -> None:
    """Raise, naming what differs, unless a state is for the call that expects another one."""
    if not isinstance(state, StreamState):
        raise TypeError(f"{name} must be a StreamState, got {type(state).__name__}")
    found, wanted = (_configuration(each, last) for each in (state, expected))
    differing = [
        f"{field} is {found[field]}, not {value}"
        for field, value in wanted.items()
        if field in found and found[field] != value
    ]
    if not differing and _waits_longer(state.phase, expected.strides):
        differing = [f"strides S is larger than {expected.strides}: phase is {state.phase}"]
    if differing:
        raise ValueError(f"{name} is of another configuration: {'; '.join(differing)}")


def _configuration(state: StreamState, last: bool) -> dict[str, Any]:
    """Name what a state tells about the calls it is for."""
    shape = state.history.shape
    S: Any = state.strides
    if (state.phase is None) != (S == 1):  # The arrays are of another layer's cache.
        S = 1 if state.phase is None else "larger than 1"
    counts = {
        name: (count.shape, count.dtype.name)
        for name, count in (("phase", state.phase), ("steps", state.steps))
        if count is not None
    }
    told = {"strides S": S, "dtype": state.dtype.name, "history's rank": len(shape)}
    if len(shape) < 2:
        return told
    reach, channels = shape[-2:] if last else shape[:-3:-1]
    shapes = {"batch": shape[:-2], "D*(K-1)": reach, "number of channels C": channels}
    return told | shapes | counts


def _waits_longer(phase: jax.Array | None, strides: int) -> bool:
    """Whether a stream is, as far as is known, farther from its output step than it can be."""
    if phase is None or isinstance(phase, jax.core.Tracer):
        return False
    known = getattr(phase, "is_fully_addressable", True)
    return bool(known and (jax.device_get(phase) >= strides).any())


@compiled()
def with_history(
    state: StreamState, x: jax.Array, lengths: jax.Array | None
) -> tuple[jax.Array, jax.Array | None]:
    """Put a chunk behind the steps before it. One batch dimension, channels last.

    Args:
        state: what is remembered.
        x: (B, T, C), the chunk.
        lengths: (B,), how many steps each stream has in the chunk; None: all T.

    Returns:
        The input of a convolution without padding that gives ceil(T / S) output steps, and how many
        of its steps each stream has; None: all.
    """
    (_, reach, _), T, S = state.history.shape, x.shape[1], state.strides
    before, phase, lengths = _divided_like(x, state.history, state.phase, lengths)
    joined = lax.concatenate([before.astype(x.dtype), x], 1)
    if phase is None:
        return joined, None if lengths is None else lengths + reach
    # Each stream is read from where its next output step begins, wherever the others' do.
    most = -(-T // S)
    spare = most * S - T
    joined = lax.pad(joined, jnp.zeros((), x.dtype), ((0, 0, 0), (0, spare, 0), (0, 0, 0)))
    joined = cut_rows(joined, phase, reach + (most - 1) * S + 1)
    if lengths is None and spare == 0:
        return joined, None
    return joined, jnp.maximum((T if lengths is None else lengths) - phase, 0) + reach


@compiled()
def next_state(state: StreamState, x: jax.Array, lengths: jax.Array | None) -> StreamState:
    """Return the state behind a chunk; the arguments are those of `with_history`."""
    (_, reach, _), T, S = state.history.shape, x.shape[1], state.strides
    before, phase, lengths = _divided_like(x, state.history, state.phase, lengths)
    before = before.astype(x.dtype)
    if lengths is not None:
        history = _latest(before, x, lengths)
    elif isinstance(T, int) and reach <= T:
        history = x[:, T - reach :]
    else:
        history = lax.concatenate([before, x], 1)[:, T:]
    history = history.astype(state.dtype)
    if phase is None:
        return StreamState(history)
    given = jnp.full_like(phase, T) if lengths is None else lengths
    steps = (jnp.maximum(given - phase, 0) + S - 1) // S
    return StreamState(history, (phase - given) % S, steps, S)


def _latest(before: jax.Array, x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Take of each stream as many steps, up to its length, as there are before it.

    A few steps are copied at a time: the chunk itself stays where it is.
    """
    reach, T = before.shape[1], x.shape[1]
    if not (isinstance(T, int) and reach <= T):
        return cut_rows(lax.concatenate([before, x], 1), lengths, reach)
    own = cut_rows(x, jnp.maximum(lengths - reach, 0), reach)
    return cut_rows(lax.concatenate([before, own], 1), jnp.minimum(lengths, reach), reach)


def _divided_like(x: jax.Array, *arrays: Any) -> tuple[Any, ...]:
    """Divide (B,) and (B, steps, C) among devices as the chunk is, where types tell that."""
    mesh = mesh_of(x)
    if mesh is None:
        return arrays
    batch, channels = axes_of(x, 0), axes_of(x, 2)
    shardings = {1: sharding_on(mesh, batch), 3: sharding_on(mesh, batch, None, channels)}
    return tuple(None if a is None else jax.reshard(a, shardings[a.ndim]) for a in arrays)


def reshaped(state: StreamState, batch: tuple[int, ...], last: bool) -> StreamState:
    """Give the batch another shape, and history its channels last where they were not, or back."""
    history = state.history if last else state.history.swapaxes(-1, -2)
    history = history.reshape(*batch, *history.shape[-2:])
    phase, steps = (None if c is None else c.reshape(batch) for c in (state.phase, state.steps))
    return StreamState(history, phase, steps, state.strides)
