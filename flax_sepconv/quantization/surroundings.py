"""What is told to all layers inside of a call: a quantization, and what the call is for."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Any

from flax_sepconv.quantization.config import Int8


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a layer is told beside its arguments.

    Attributes:
        default: the quantization of layers that have none.
        is_calibrating: whether the call observes, and rounds nothing, however many came before.
        is_converting: whether layers make integers of their weights.
    """

    default: Int8 | None = None
    is_calibrating: bool = False
    is_converting: bool = False

    def quantization_of(self, own: Int8 | None) -> Int8 | None:
        """Return the quantization of a layer, given its own."""
        return self.default if own is None else own


_NOTHING = Surroundings()
_current: contextvars.ContextVar[Surroundings] = contextvars.ContextVar("flax_sepconv_quantization")


def surroundings() -> Surroundings:
    """Return what is going on."""
    return _current.get(_NOTHING)


@contextlib.contextmanager
def within(**changes: Any) -> Iterator[None]:
    """Let other things go on, for what is called inside."""
    token = _current.set(dataclasses.replace(surroundings(), **changes))
    try:
        yield
    finally:
        _current.reset(token)
