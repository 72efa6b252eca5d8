"""A bound on the time of a run: what would not end in time is not begun."""

import collections
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

# The next row is expected to take as long as the longest of so many before it.
REMEMBERED = 4

T = TypeVar("T")


class Bound:
    """The end of a run, counted from when this is made.

    Args:
        minutes: how long the run may take; None sets no bound.
    """

    def __init__(self, minutes: float | None):
        self._end = float("inf") if minutes is None else time.monotonic() + 60 * minutes

    def within(self, rows: Iterable[T]) -> Iterator[T]:
        """Yield one row after the other, as long as the next is expected to end in time."""
        lasted: collections.deque[float] = collections.deque(maxlen=REMEMBERED)
        for row in rows:
            begin = time.monotonic()
            if begin + max(lasted, default=0.0) > self._end:
                return
            yield row
            lasted.append(time.monotonic() - begin)
