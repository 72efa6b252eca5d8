"""The frameworks that are compared: a process each, on one device."""

import argparse
import contextlib
import functools
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from benchmarks import flags, machine
from benchmarks.candidates import CANDIDATES
from benchmarks.device import report
from benchmarks.lasting import Failed, Lasting
from benchmarks.peers import PEERS, Peer
from benchmarks.worker import Declined, Worker
from benchmarks.workloads import Workload

PLUGINS = ("libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin")
JAX, TORCH = "benchmarks.device.in_jax", "benchmarks.device.in_torch"

# What a sound process needs no longer for, though it starts its framework for it.
PROBE_SECONDS = 60.0


class CandidateFailed(Exception):  # noqa: N818 - a result, to be written down.
    """A program failed while it was timed."""

    def __init__(self, framework: "Framework", name: str, failure: Failed):
        super().__init__(f"{name}: {failure}")
        self.framework, self.name = framework, name
        self.facts, self.lost = failure.facts, failure.lost


class Framework(NamedTuple):
    """A framework's process, the module with its tasks, and what it is asked for."""

    process: Lasting
    module: str
    names: list[str]

    def call(self, task: str, *arguments: Any) -> Any:
        """Call a function of the module in the process."""
        return self.process.worker.call(f"{self.module}:{task}", *arguments)

    def build(
        self, platform: str, workload: Workload, dtype: str, program: str, name: str
    ) -> dict[str, Any]:
        """Build a program of a candidate beside those that are there, and return its facts.

        Raises:
            Declined: the candidate declines.
            Failed: it fails; where the process is lost with it, so are the other programs.
        """
        task = f"{self.module}:build"
        arguments = (platform, workload, dtype, program, name)
        return self.process.attempt(lambda worker: worker.add(task, *arguments))[name]

    def numbers(self, name: str) -> dict[str, np.ndarray]:
        """Run a program and return its results; raises Failed as `build` does."""
        return self.process.attempt(lambda worker: worker.numbers(name))

    def times(self, name: str, count: int = 1) -> list[float]:
        """Time a program; raises CandidateFailed."""
        try:
            return self.process.attempt(lambda worker: worker.times(name, count))
        except Failed as failure:
            raise CandidateFailed(self, name, failure) from None

    def drop(self) -> None:
        """Let go of the programs."""
        with contextlib.suppress(Failed):
            self.process.attempt(lambda worker: worker.drop())


def environment(platform: str | None) -> dict[str, str]:
    """Return what shows the device to a worker, and lets frameworks share its memory."""
    if platform == "cpu":
        return {}
    return {
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", ""),
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0"),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


def started(
    name: str, module: str, shown: str | None, platform: str | None, patience: float
) -> Lasting:
    """Start a framework's process.

    Args:
        name: of the framework.
        module: with its tasks.
        shown: the platform whose devices the process sees; None for all.
        platform: on which it proves that it still computes.
        patience: the seconds that it may take for an answer.
    """
    start = functools.partial(Worker, name, environment(shown), patience)
    task = f"{module}:probe"
    return Lasting(start, lambda worker: worker.call(task, platform, patience=PROBE_SECONDS))


def start(
    parser: flags.Parser, arguments: argparse.Namespace, stack: contextlib.ExitStack
) -> tuple[list[Framework], dict[str, Any]]:
    """Start a process for each framework, and tell what they run on and who is absent."""
    shown, patience = arguments.platform, arguments.patience
    names = [name for name in CANDIDATES if name in ("selected", *arguments.candidates)]
    ours = stack.enter_context(started("jax", JAX, shown, shown, patience))
    jax = Framework(ours, JAX, names)
    try:
        device = jax.call("describe", shown)
    except Declined as reason:
        parser.error(str(reason))
    present, absent = machine.present(peers(arguments.candidates))
    frameworks = [jax]
    if present:
        platform = device["platform"]
        theirs = stack.enter_context(started("torch", TORCH, shown, platform, patience))
        torch = Framework(theirs, TORCH, present)
        try:
            device |= torch.call("describe", platform)
            frameworks.append(torch)
        except Declined as reason:
            absent |= dict.fromkeys(present, str(reason))
    missing = "; ".join(f"{name}: {reason}" for name, reason in absent.items())
    if absent and arguments.asked:
        parser.error(f"--candidates: {missing}")
    if absent:
        print(f"left out: {missing}")
    return frameworks, {**device, "absent": absent}


def packages() -> list[str]:
    """Name the packages whose versions make a measurement of ours."""
    plugins, _ = machine.present({name: Peer(name, (name,)) for name in PLUGINS})
    return [*PEERS["ours"].packages, *plugins]


def peers(candidates: Iterable[str]) -> dict[str, Any]:
    """Return the candidates that are not made in JAX, with the packages that they need."""
    return {name: PEERS[name] for name in report.TORCH if name in candidates}
