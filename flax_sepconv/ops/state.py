"""Sequences that come in chunks: what a convolution must remember between them.

An output step is there as soon as the last input step has come that it reads, which is `delay`
steps behind its own: none with "causal", D*(K-1) less the zeros in front with other paddings.
A stream's state is the last D*(K-1) input steps and, where there are strides or a delay, how far
the next output step is. A chunk is put behind these steps, and the rest is the convolution without
padding: every derivative, through the state too, is its own. A stream that begins needs no steps
before it: zeros are the padding in front; and the zeros behind are put there when it ends.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from flax_sepconv.ops.geometry import PaddingRule, zeros_around
from flax_sepconv.ops.limits import cut_rows, pad_steps
from flax_sepconv.ops.masking import zero_tails
from flax_sepconv.ops.primitives import compiled
from flax_sepconv.ops.sharding import axes_of, mesh_of, sharding_on


class StreamState(struct.PyTreeNode, init=False):
    """What is remembered of each stream of a batch. A pytree: carry it through `jit` and `scan`.

    Attributes:
        history: the last D*(K-1) input steps, laid out as the inputs are: (..., D*(K-1), C), or
            (..., C, D*(K-1)) with "channels_first". Zeros stand for what was before the stream. Of
            packed rows N segments are the streams: the last batch dimension is N.
        phase: (...,) int32, the input steps to come before one at which there is an output step;
            None where strides is 1 and there is no delay: there is one at each.
        steps: (...,) int32, the output steps of each stream in the latest result; behind them the
            result is zero. None where `phase` is.
        strides: S.
        delay: input steps that come behind an output step's own before it is there.

    Gradients flow through `history`. With respect to a whole state that has integers in it,
    `jax.grad` needs `allow_int=True`.
    """

    history: jax.Array
    phase: jax.Array | None = None
    steps: jax.Array | None = None
    strides: int = struct.field(pytree_node=False, default=1)
    delay: int = struct.field(pytree_node=False, default=0)

    def __init__(
        self,
        history: jax.Array,
        phase: jax.Array | None = None,
        steps: jax.Array | None = None,
        strides: int = 1,
        delay: int = 0,
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
        if delay != 0:
            put(self, "delay", delay)

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
        return self.replace(
            history=arrays["history"], phase=arrays.get("phase"), steps=arrays.get("steps")
        )

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the inputs."""
        return self.history.dtype


def zeros(
    batch: tuple[int, ...],
    channels: int,
    reach: int,
    strides: int,
    last: bool,
    dtype: DTypeLike,
    delay: int = 0,
) -> StreamState:
    """Return the state of streams of which nothing has come; `last`: its channels are."""
    shape = (reach, channels) if last else (channels, reach)
    history = _zeros((*batch, *shape), jnp.dtype(dtype))
    if strides == 1 and delay == 0:
        return StreamState(history)
    # Two arrays: none can be donated twice.
    phase, steps = (_zeros(batch, jnp.dtype("int32")) for _ in range(2))
    return StreamState(history, phase + delay if delay else phase, steps, strides, delay)


# Inline: traced it is what it would be by itself.
_zeros = jax.jit(jnp.zeros, static_argnums=(0, 1), inline=True)


@compiled()
def _reset(state: StreamState, where: jax.Array) -> StreamState:
    history = jnp.where(where[..., None, None], jnp.zeros((), state.dtype), state.history)
    phase = None if state.phase is None else jnp.where(where, state.delay, state.phase)
    return state.replace(history=history, phase=phase)


def resolve_reset(reset: ArrayLike, batch: tuple[int, ...], name: str = "reset") -> jax.Array:
    """Return an array that tells which streams of a batch begin, or end, or raise."""
    where = jnp.asarray(reset)
    if where.dtype != bool:
        raise TypeError(f"{name} must be bool, got dtype {where.dtype}")
    if where.shape != batch:
        raise ValueError(f"{name} must have the shape of the batch, {batch}, got {where.shape}")
    return where


def delay_of(padding: PaddingRule, kernel_size: int, dilation: int, strides: int) -> int:
    """Return how many input steps behind its own an output step needs, or raise.

    Raises:
        ValueError: a stream cannot have the padding: what is in front of it must be known when it
            begins, and each output step must wait for a step of its own.
    """
    reach = dilation * (kernel_size - 1)
    low, high = around(padding, kernel_size, dilation, strides)
    if low + high <= reach:
        return reach - low
    raise ValueError(
        f"padding must be at most D*(K-1) = {reach} zeros in all where there is a state "
        f"(decode=True), got {padding!r}"
    )


def around(padding: PaddingRule, kernel_size: int, dilation: int, strides: int) -> tuple[int, int]:
    """Return the zeros in front of and behind a stream, or raise."""
    if padding == "same" and strides == 1:
        low = dilation * (kernel_size - 1) // 2
        return low, dilation * (kernel_size - 1) - low
    if isinstance(padding, tuple) or padding in ("causal", "valid"):
        return zeros_around(kernel_size, dilation, padding)
    raise ValueError(
        "padding must be 'causal', 'valid', zeros in numbers (low, high) or, with strides 1, "
        f"'same' where there is a state (decode=True), got {padding!r} with strides={strides}"
    )


def ended(
    x: jax.Array, lengths: jax.Array | None, where: jax.Array, high: int
) -> tuple[jax.Array, jax.Array]:
    """Put zeros behind a chunk (B, T, C) of the streams that end with it, (B,) bool.

    Returns:
        (B, T + high, C), and how many of its steps each stream has.
    """
    T = x.shape[1]
    n = jnp.full(where.shape, T, jnp.int32) if lengths is None else lengths
    x = pad_steps(x if lengths is None else zero_tails(x, n), 0, high)
    return x, n + jnp.where(where, high, 0)


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
    if not differing and _waits_longer(state.phase, max(expected.strides, expected.delay + 1)):
        differing = [f"strides S is larger than {expected.strides}: phase is {state.phase}"]
    if differing:
        raise ValueError(f"{name} is of another configuration: {'; '.join(differing)}")


def _configuration(state: StreamState, last: bool) -> dict[str, Any]:
    """Name what a state tells about the calls it is for."""
    shape = state.history.shape
    S: Any = state.strides
    delay = state.delay
    if (state.phase is None) != (S == 1 and delay == 0):  # Arrays of another layer's cache.
        S = 1 if state.phase is None else "larger than 1"
        delay = 0 if state.phase is None else delay
    counts = {
        name: (count.shape, count.dtype.name)
        for name, count in (("phase", state.phase), ("steps", state.steps))
        if count is not None
    }
    told = {"strides S": S, "delay": delay, "dtype": state.dtype.name, "history's rank": len(shape)}
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
    farthest = S - 1  # From step T on there is no output step of this chunk.
    if state.delay:
        farthest = max(farthest, min(state.delay, T - 1) if isinstance(T, int) else state.delay)
    spare = (most - 1) * S + 1 + farthest - T
    joined = lax.pad(joined, jnp.zeros((), x.dtype), ((0, 0, 0), (0, spare, 0), (0, 0, 0)))
    joined = cut_rows(joined, phase, reach + (most - 1) * S + 1)
    if lengths is None and spare == 0 and state.delay == 0:
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
    left = phase - given
    phase = jnp.where(left < 0, left % S, left) if state.delay else left % S
    return StreamState(history, phase, steps, S, state.delay)


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
    return StreamState(history, phase, steps, state.strides, state.delay)
