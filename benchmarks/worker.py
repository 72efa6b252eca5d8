"""A process for each framework, so that none meets another's threads, memory or environment.

A task, named "module:function", is a function that a worker calls to build its programs: a dict
from a name to a `Program`. It raises NotImplementedError, with the reason, to decline.

    with Worker("torch") as worker:
        facts = worker.load("benchmarks.peers.torch_ncl:build", workload, seed=0)
        arrays = worker.numbers("forward")
        seconds = worker.times("forward", 10)

Workers are asked one at a time: while one is timed the others wait for their pipe.
"""

import contextlib
import ctypes
import dataclasses
import gc
import importlib
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, Pipe
from typing import Any, Self

import numpy as np

from benchmarks import timing
from flax_sepconv import memory

ROOT = pathlib.Path(__file__).parents[1]

# Before any import. An empty CUDA_VISIBLE_DEVICES keeps TensorFlow and PyTorch on the CPU as well.
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}

# The variable that has a worker keep freed memory, where it is "kept" (`flax_sepconv.memory`).
MEMORY = "BENCHMARKS_MEMORY"

# A process that a device driver holds does not end even when it is killed; nobody waits for it.
ENDING_SECONDS = 10


@dataclasses.dataclass(frozen=True)
class Program:
    """What a task builds; it lives in the worker.

    Attributes:
        run: computes, and returns when the result is there.
        read: makes named NumPy arrays of what `run` returned, in a layout that all peers share.
        facts: anything to be reported; by habit "compile_seconds" and "memory_bytes", None where
            the framework cannot tell.
    """

    run: Callable[[], Any]
    read: Callable[[Any], dict[str, np.ndarray]]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class WorkerError(RuntimeError):
    """A task failed, or its worker died; the message names the worker and says how.

    Attributes:
        reason: the same in one line.
    """

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


class WorkerLostError(WorkerError):
    """The worker died, or gives no answer: it can only be stopped."""


class NoAnswerError(WorkerLostError, TimeoutError):
    """The worker took longer than it was given."""


class Declined(Exception):  # noqa: N818 - an answer, not a failure.
    """A task cannot build what it was asked for; the message is its reason."""


class Worker:
    """The parent's end of a worker process; leave it by `with`, or call `stop`.

    Args:
        name: for messages. What the worker prints is shown only when it dies.
        environment: variables to set before the worker imports anything, over `ENVIRONMENT`.
        patience: the seconds that an answer may take; None waits for ever.
    """

    def __init__(
        self,
        name: str,
        environment: Mapping[str, str] | None = None,
        patience: float | None = None,
    ):
        self.name, self.patience = name, patience
        self._connection, theirs = Pipe()
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - until `stop`.
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-m", __name__, str(theirs.fileno())],
                cwd=ROOT,
                env={**os.environ, **ENVIRONMENT, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=self._printed,
                stderr=self._printed,
                pass_fds=[theirs.fileno()],
            )

    def load(self, task: str, *args: Any, **kwargs: Any) -> dict[str, dict[str, Any]]:
        """Drop what was built, build the programs of a task, and return the facts of each.

        Args:
            task: "module:function".
            *args: for the function; they must be picklable.
            **kwargs: the same.

        Raises:
            Declined: the function raised NotImplementedError.
            WorkerLostError: the worker died, or `patience` seconds brought no answer.
            WorkerError: anything else went wrong.
        """
        return self._ask("load", task, *args, **kwargs)

    def add(self, task: str, *args: Any, **kwargs: Any) -> dict[str, dict[str, Any]]:
        """Build the programs of a task beside those that are there; else as `load`."""
        return self._ask("add", task, *args, **kwargs)

    def call(self, task: str, *args: Any, patience: float | None = None) -> Any:
        """Call a function, named like a task, and return what it returns.

        Errors are those of `load`; `patience` is for this call, where it is not None.
        """
        return self._ask("call", task, *args, patience=patience)

    def numbers(self, program: str) -> dict[str, np.ndarray]:
        """Run a program and return its result as NumPy arrays."""
        return self._ask("numbers", program)

    def times(self, program: str, count: int = 1) -> list[float]:
        """Run a program so many times in a row and return the seconds of each."""
        return self._ask("times", program, count)

    def page_faults(self, program: str) -> int:
        """Run a program and return how many pages of memory the system gave for it."""
        return self._ask("page_faults", program)

    def drop(self) -> None:
        """Let go of the programs and their memory."""
        self._ask("drop")

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._connection.close()
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING_SECONDS)
        self._printed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _ask(self, method: str, *args: Any, patience: float | None = None, **kwargs: Any) -> Any:
        patience = self.patience if patience is None else patience
        try:
            self._connection.send((method, args, kwargs))
            if not self._connection.poll(patience):
                reason = f"no answer within {patience:g} s"
                raise NoAnswerError(f"{self.name}: {reason}", reason)
            kind, answer = self._connection.recv()
        except (EOFError, ConnectionError):
            reason = f"the worker died with status {self._process.wait()}"
            message = f"{self.name}: {reason}\n{self._last_words()}"
            raise WorkerLostError(message, reason) from None
        if kind == "declined":
            raise Declined(answer)
        if kind == "failed":
            reason, trace = answer
            raise WorkerError(f"{self.name}: {method}{args} failed\n{trace}", reason)
        return answer

    def _last_words(self) -> str:
        self._printed.seek(0)
        return self._printed.read().decode(errors="replace")[-2000:]


class _Programs:
    """The worker's end: answers by methods of the same names."""

    def __init__(self) -> None:
        self.programs: dict[str, Program] = {}

    def load(self, task: str, *args: Any, **kwargs: Any) -> dict[str, dict[str, Any]]:
        self.drop()
        return self.add(task, *args, **kwargs)

    def add(self, task: str, *args: Any, **kwargs: Any) -> dict[str, dict[str, Any]]:
        built = self.call(task, *args, **kwargs)
        self.programs |= built
        hand_back()
        return {name: dict(program.facts) for name, program in built.items()}

    def call(self, task: str, *args: Any, **kwargs: Any) -> Any:
        module, _, function = task.partition(":")
        return getattr(importlib.import_module(module), function)(*args, **kwargs)

    def numbers(self, program: str) -> dict[str, np.ndarray]:
        return self.programs[program].read(self.programs[program].run())

    def times(self, program: str, count: int) -> list[float]:
        return timing.clock(self.programs[program].run, count)

    def page_faults(self, program: str) -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        self.programs[program].run()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    def drop(self) -> None:
        self.programs = {}
        hand_back()


def hand_back() -> None:
    """Hand the memory that nothing holds any more back to the system, where the C library can."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # Only glibc has it.
        ctypes.CDLL(None).malloc_trim(0)


def _settle() -> None:
    """Keep freed memory if asked to, before any framework starts threads."""
    if os.environ.get(MEMORY) == "kept" and not memory.keep_memory():
        raise SystemExit("memory cannot be kept here: the C library is not glibc, or refuses")


def short(error: Exception) -> str:
    r"""Return the type of an error and the first line of its message.

    Example:
        >>> short(ValueError("no such size\nand much more"))
        'ValueError: no such size'
    """
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"


def _serve(connection: Connection) -> None:
    """Answer until the parent closes its end, or ends."""
    programs = _Programs()
    while True:
        try:
            method, args, kwargs = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            answer = "done", getattr(programs, method)(*args, **kwargs)
        except NotImplementedError as reason:
            answer = "declined", str(reason)
        except Exception as error:
            answer = "failed", (short(error), traceback.format_exc())
        connection.send(answer)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who then ends us.
    # The tasks' `Program` must be the one of the module, not of this script.
    module = importlib.import_module("benchmarks.worker")
    module._settle()
    module._serve(Connection(int(sys.argv[1])))
