"""Workers that compute together, asked as one."""

import contextlib
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

from benchmarks.worker import Worker

T = TypeVar("T")

# Some programs take seconds; where one process is lost, the others wait for it for ever.
PATIENCE = 120.0
ONE = {"devices": "device", "processes": "process"}


class Setting(NamedTuple):
    """What the devices are: so many of one process on all cores, or of a process and core each."""

    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.number} {self.kind if self.number > 1 else ONE[self.kind]}"


class Team:
    """The workers of a setting; leave it by `with`."""

    def __init__(self, setting: Setting):
        of_processes = setting.kind == "processes"
        count, devices = (setting.number, 1) if of_processes else (1, setting.number)
        environment = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        with contextlib.ExitStack() as stack:
            self._pool = stack.enter_context(ThreadPoolExecutor(count))
            self._workers = [
                stack.enter_context(Worker(str(setting), environment, PATIENCE))
                for _ in range(count)
            ]
            if of_processes:
                task, port = "benchmarks.scaling.layer:join", free_port()
                ranks = {worker: rank for rank, worker in enumerate(self._workers)}
                self._all(lambda worker: worker.call(task, ranks[worker], count, port))
            self._stack = stack.pop_all()

    def add(self, *args: Any) -> dict[str, dict[str, Any]]:
        """Build programs beside those that are there; the facts are those of the first worker."""
        return self._all(lambda worker: worker.add("benchmarks.scaling.layer:build", *args))[0]

    def numbers(self, program: str) -> dict[str, np.ndarray]:
        """Run a program and return its result, which all workers have."""
        return self._all(lambda worker: worker.numbers(program))[0]

    def times(self, program: str, count: int) -> list[float]:
        """Run a program so many times and return the seconds until the last worker was done."""
        seconds = self._all(lambda worker: worker.times(program, count))
        return list(map(max, zip(*seconds, strict=True)))

    def drop(self) -> None:
        """Let go of the programs and their memory."""
        self._all(lambda worker: worker.drop())

    def _all(self, ask: Callable[[Worker], T]) -> list[T]:
        return list(self._pool.map(ask, self._workers))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()


def free_port() -> int:
    """Return a port of this machine that nobody listens to."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def cores() -> int:
    """Return on how many cores this process may run; 0 where the system gives nobody a core."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
