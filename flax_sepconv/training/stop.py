"""Requests to stop: signals that are noted, so that a run ends with a checkpoint."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

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
