"""A worker whose end is not the end of a run."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

from benchmarks.worker import Declined, Worker, WorkerError, WorkerLostError

T = TypeVar("T")


class Failed(Exception):  # noqa: N818 - a result, to be written down.
    """What a worker was asked for failed.

    Attributes:
        facts: "failed", in one line, and "details", what else is known.
        lost: whether the worker was replaced, so that what it had built is gone.
    """

    def __init__(self, error: WorkerError, lost: bool):
        super().__init__(error.reason)
        self.facts: dict[str, Any] = {"failed": error.reason, "details": str(error)[-4000:]}
        self.lost = lost


class Lasting:
    """A worker that is replaced when it dies, gives no answer, or fails and computes no more.

    The last is what an error leaves behind on a GPU: every later call of the process fails too.

    Args:
        start: starts a worker.
        probe: asks what a sound worker always can, and is told nothing else.
    """

    def __init__(self, start: Callable[[], Worker], probe: Callable[[Worker], Any]):
        self._start, self._probe = start, probe
        self.worker = start()

    @classmethod
    def named(cls, name: str, environment: Mapping[str, str], patience: float) -> Self:
        """Start a worker of the processor, which is sound as long as it answers.

        Args:
            name: what it is called.
            environment: variables to set before the process imports anything.
            patience: the seconds that it may take for an answer.
        """
        start = functools.partial(Worker, name, environment, patience)
        return cls(start, lambda worker: worker.call("os:getpid"))

    def attempt(self, ask: Callable[[Worker], T]) -> T:
        """Ask the worker something.

        Raises:
            Declined: it declines.
            Failed: anything else went wrong; there is a sound worker again.
        """
        try:
            return ask(self.worker)
        except WorkerError as error:
            lost = isinstance(error, WorkerLostError) or not self._is_sound()
            if lost:
                self.worker.stop()
                self.worker = self._start()
            raise Failed(error, lost) from None

    def _is_sound(self) -> bool:
        try:
            self._probe(self.worker)
        except (WorkerError, Declined):
            return False
        return True

    def stop(self) -> None:
        """End the process."""
        self.worker.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
