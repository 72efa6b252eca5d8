"""One checked call of an operation: arrays in rows, and what is to be computed of them."""

from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import PartitionSpec

from flax_sepconv.ops import packed
from flax_sepconv.ops import state as state_lib
from flax_sepconv.ops.contraction import Stages
from flax_sepconv.ops.geometry import EdgePadding
from flax_sepconv.ops.masking import zero_tails
from flax_sepconv.ops.sharding import Layout, Shards, names_of
from flax_sepconv.ops.state import StreamState


@dataclass(frozen=True)
class Call:
    """The checked arguments of an operation.

    Attributes:
        x: (B, L, C), all batch dimensions in one.
        kernel: (K, C, M).
        rest: w (1, C*M, F), where there is a pointwise stage, and the bias, where there is one.
        limits: what limits the rows, if they are.
        stages: what is to be computed of these.
        before: (B, D*(K-1), C), the steps before x where these are no part of it: the call is a
            `step`, whose `stages` are those of both; else None.
        state: behind x, laid out as the caller's arrays are; None without one before or behind, and
            where the call is a `step`, which gives it.
        ends: of the rows (B,), for results to be masked: where rows have segments and ends, too.
        batch: the batch dimensions.
        is_last: whether the caller's channels are the last axis.
        edges: where what is beyond the ends of x comes from, if it is to be added; else zeros.
        slots: of packed rows, what came before their segments, where that is given.
        shards: how steps are divided, where a mesh axis is named for that; geometry and lengths are
            of whole sequences, `ends` of what x is.
    """

    x: jax.Array
    kernel: jax.Array
    rest: tuple[jax.Array, ...]
    limits: tuple[jax.Array, ...]
    stages: Stages
    before: jax.Array | None
    state: StreamState | None
    ends: jax.Array | None
    batch: tuple[int, ...]
    is_last: bool
    edges: EdgePadding | None
    slots: packed.Slots | None
    shards: Shards | None

    def rows_of(self, sharding: Any) -> Layout | None:
        """Return what divides the batch, the steps and the channels of a result; None: no saying.

        Args:
            sharding: that the caller wants.
        """
        spec = getattr(sharding, "spec", sharding)
        if not isinstance(spec, PartitionSpec) or len(self.batch) != 1:
            return None
        entries = [spec[i] if i < len(spec) else None for i in range(3)]
        batch, *others = map(names_of, entries)
        return batch, *(others if self.is_last else reversed(others))

    def state_of(self, after: jax.Array) -> StreamState:
        """Return the state that a `step` gives, laid out as the caller's arrays are."""
        return state_lib.reshaped(StreamState(after), self.batch, self.is_last)

    def unflatten(self, y: jax.Array) -> jax.Array:
        """Restore the batch dimensions and the axis order of the caller's x."""
        if self.ends is not None:
            y = zero_tails(y, self.ends)
        y = y.reshape(*self.batch, *y.shape[-2:])
        return y if self.is_last else y.swapaxes(-1, -2)
