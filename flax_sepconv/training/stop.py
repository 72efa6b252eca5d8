"""Requests to stop: signals that are noted, so that a run ends with a checkpoint."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax

from flax_sepconv.training.console import is_read
from flax_sepconv.training.distributed import are_several
from flax_sepconv.training.mesh import Placement

# SIGPIPE: whoever read our lines has gone. Python itself would ignore it.
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)
# A cluster sends several at once, so a second one ends nothing; whoever sends a third means it.
_PATIENCE = 2


class Stop:
    """Notes signals from `listen` on, to the end of the context; `number` is the first of them.

    The second is noted too, so that what is being written is finished; from then on they act as
    before. SIGHUP stays ignored where it was, as under nohup. Only the main thread can listen.
    """

    def __init__(self) -> None:
        self.number = 0  # none came
        self._left = _PATIENCE
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Begin to note signals."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _STOPPING:
            handler = signal.getsignal(number)
            if handler is None or (number == signal.SIGHUP and handler == signal.SIG_IGN):
                continue
            self._before[number] = handler
            signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGPIPE and is_read():  # a library's own pipe
            return
        self.number = self.number or number
        if number != signal.SIGPIPE:  # comes again with every line
            self._left -= 1
        if not self._left:
            self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def __enter__(self) -> "Stop":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()


class Agreement:
    """Whether to stop behind a step: several processes are asked, and all get the same answer.

    It is that for the step before, so that the host does not wait for a step that has just begun.
    """

    def __init__(self, stop: Stop, placement: Placement) -> None:
        self._stop = stop
        self._largest = placement.largest() if are_several() else None
        self._before: jax.Array | None = None

    def listen(self) -> None:
        """Begin to note signals."""
        self._stop.listen()

    def number(self) -> int:
        """Return the signal to stop for; 0 if there is none."""
        if self._largest is None:
            return self._stop.number
        before, self._before = self._before, self._largest(self._stop.number)
        return 0 if before is None else int(before)

    def last(self) -> int:
        """Return the signal that has come by now to any process; 0 if none has."""
        return int(self._largest(self._stop.number)) if self._largest else self._stop.number
