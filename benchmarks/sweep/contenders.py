"""Who is compared: a peer in a type of numbers, each in a process of its own."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from benchmarks.lasting import Failed, Lasting
from benchmarks.peers import INFERENCE, NARROW, PEERS, RIVALS
from benchmarks.worker import Declined
from benchmarks.workloads import Workload

DTYPES = ("float32", "bfloat16")
# Keras' layer calls tf.nn.separable_conv2d; one of the two stands for TensorFlow.
DEFAULT = ("ours", "tf_nn", "torch_ncl", "torch_nlc", *INFERENCE, "floor")

# A contender whose process was lost so often is not asked again.
LOSSES = 2


class Name(NamedTuple):
    """A peer, and the type of its operands and results."""

    peer: str
    dtype: str

    def __str__(self) -> str:
        return self.peer if self.dtype == "float32" else f"{self.peer}_{self.dtype}"


def names(peers: list[str], dtypes: list[str]) -> list[Name]:
    """Return the contenders: every peer in float32, some in bfloat16 too."""
    return [
        Name(peer, dtype)
        for dtype in DTYPES
        if dtype in dtypes
        for peer in peers
        if dtype == "float32" or peer in NARROW
    ]


def rivals(dtype: str) -> list[str]:
    """Return the names of those that we are compared with."""
    return [str(Name(peer, dtype)) for peer in (*RIVALS, *INFERENCE)]


class Contender:
    """A contender's process.

    Args:
        name: who it is.
        environment: variables to set before the process imports anything.
        patience: the seconds that it may take for an answer.
    """

    def __init__(self, name: Name, environment: Mapping[str, str], patience: float):
        self.name, self.losses = name, 0
        variables = {**PEERS[name.peer].environment, **environment}
        self.process = Lasting.named(str(name), variables, patience)

    def build(self, workload: Workload) -> dict[str, dict[str, Any]]:
        """Build the programs of a workload, and return their facts.

        Raises:
            Declined: it declines, or is not asked any more.
            Failed: anything else went wrong.
        """
        if self.losses >= LOSSES:
            raise Declined(f"its process was lost {LOSSES} times in this run")
        task = f"benchmarks.peers.{self.name.peer}:build"
        dtype = self.name.dtype
        settings = {} if dtype == "float32" else {"dtype": dtype}
        return self._attempt(lambda worker: worker.load(task, workload, **settings))

    def numbers(self, program: str) -> dict[str, np.ndarray]:
        """Run a program and return its results; raises Failed."""
        return self._attempt(lambda worker: worker.numbers(program))

    def times(self, program: str, count: int = 1) -> list[float]:
        """Run a program so many times and return the seconds of each; raises Failed."""
        return self._attempt(lambda worker: worker.times(program, count))

    def page_faults(self, program: str) -> int:
        """Run a program and return how many pages the system gave for it; raises Failed."""
        return self._attempt(lambda worker: worker.page_faults(program))

    def drop(self) -> None:
        """Let go of the programs; raises Failed."""
        self._attempt(lambda worker: worker.drop())

    def stop(self) -> None:
        """End the process."""
        self.process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _attempt(self, ask: Any) -> Any:
        try:
            return self.process.attempt(ask)
        except Failed as failure:
            self.losses += failure.lost
            raise
