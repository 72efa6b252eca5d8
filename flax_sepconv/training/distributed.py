"""Several processes as one run: how they meet, what they tell one another, and how they end.

Where there is one process nothing here does anything. The first process alone writes and speaks;
the others say nothing but errors.
"""

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from flax_sepconv.training import console
from flax_sepconv.training.settings import UserError

# A process that has not been heard of for so many seconds is lost, and the others end.
_HEARTBEAT = 30

# What the libraries below say where a process is lost.
_LOSS = re.compile(
    r"gloo|nccl|coordination|heartbeat|socket closed|UNAVAILABLE|DEADLINE_EXCEEDED", re.IGNORECASE
)


class Group(NamedTuple):
    """Which process of how many this is; what is None is to be found in the environment."""

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


class LostProcessError(Exception):
    """Another process of the run does not answer any more."""


class TogetherError(UserError):
    """Something only the caller can mend, of which all processes know."""

    together = True


def _integer(name: str, environment: Mapping[str, str]) -> int | None:
    text = environment.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise UserError(f"{name} must be an integer >= 0, got {text!r}")
    return int(text)


def _counts_several(name: str, environment: Mapping[str, str]) -> bool:
    return environment.get(name, "").isdecimal() and int(environment[name]) > 1


def is_announced(environment: Mapping[str, str]) -> bool:
    """Return whether a cluster that JAX knows started this process as one of several."""
    slurm = all(f"SLURM_{name}" in environment for name in ("JOB_ID", "STEP_NODELIST", "PROCID"))
    tpu = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES", "")
    return (
        (slurm and _counts_several("SLURM_NTASKS", environment))
        or _counts_several("OMPI_COMM_WORLD_SIZE", environment)
        or {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environment.keys()
        or "," in tpu
    )


def group_of(given: Group, environment: Mapping[str, str]) -> Group | None:
    """Return which process this is, by the command line and then by the environment.

    Returns:
      A group, complete or to be completed by what JAX finds of a cluster; None: there is one
      process.

    Raises:
      UserError: they tell a part of it, or what cannot be.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    flags = ("--coordinator", "--processes", "--process")
    coordinator = given.coordinator or environment.get(names[0])
    numbers = [
        _integer(name, environment) if value is None else value
        for name, value in zip(names[1:], given[1:], strict=True)
    ]
    group = Group(coordinator, *numbers)
    if group.processes == 1 and coordinator is None:
        return None
    missing = [
        f"{flag} ({name})"
        for flag, name, value in zip(flags, names, group, strict=True)
        if value is None
    ]
    if missing:
        if is_announced(environment):
            return group
        if len(missing) == len(group):
            return None
        raise UserError(f"several processes need {' and '.join(missing)} too")
    assert group.coordinator is not None
    assert group.processes is not None
    assert group.process is not None
    if not re.fullmatch(r".+:\d+", group.coordinator):
        raise UserError(f"--coordinator must be HOST:PORT, got {group.coordinator!r}")
    if group.processes < 1:
        raise UserError(f"--processes must be > 0, got {group.processes}")
    if not 0 <= group.process < group.processes:
        raise UserError(
            f"--process must be in [0, --processes), got {group.process} of {group.processes}"
        )
    return group


def _meet(group: Group) -> None:
    console.keep_stdout()  # gloo tells of each connection there
    # It would take SIGTERM for itself; `stop` notes signals.
    jax.config.update("jax_enable_preemption_service", False)
    detect = "deactivate" if None not in group else None
    try:
        jax.distributed.initialize(
            *group, cluster_detection_method=detect, heartbeat_timeout_seconds=_HEARTBEAT
        )
    except Exception as error:  # of what is below it, and of what looks for clusters
        said = " ".join(str(error).split())[:200]
        raise UserError(f"the processes of the run cannot meet: {said}") from error


def is_first() -> bool:
    """Return whether this process is the one that writes."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def are_several() -> bool:
    """Return whether the run has several processes."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


@contextlib.contextmanager
def meeting(given: Group) -> Iterator[None]:
    """Meet the other processes of a run, if there are any, and part from them at its end.

    An exception with the attribute `together` is raised in all of them, and so no reason to leave
    the others alone. After any other one only the end of the process is left: `leave`.

    Raises:
      LostProcessError: one of them does not answer any more.
      UserError: they cannot meet.
    """
    group = group_of(given, os.environ)
    if group is None:
        yield
        return
    _meet(group)
    console.mute(not is_first())
    together = False
    try:
        yield
        together = True
    except Exception as error:
        together = getattr(error, "together", False)
        console.mute(together and not is_first())
        said = " ".join(str(error).split())[:200]
        if not together and _LOSS.search(said):
            raise LostProcessError(f"another process of the run was lost ({said})") from error
        if isinstance(error, UserError) and not together and not is_first():
            raise UserError(f"process {jax.process_index()}: {error}") from error
        raise
    finally:
        if together:
            jax.distributed.shutdown()  # waits for the others


def leave(status: int) -> NoReturn:
    """End the process, and do not wait for others that may wait for this one."""
    if jax.distributed.is_initialized():
        os._exit(status)
    sys.exit(status)


def gather(text: str) -> list[str]:
    """Return the texts of all processes; all of them call this."""
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    rows = np.zeros(max(sizes.max(), 1), np.uint8)
    rows[: len(data)] = data
    gathered = multihost_utils.process_allgather(rows)
    return [row[:size].tobytes().decode() for row, size in zip(gathered, sizes, strict=True)]


def share(tree: Any) -> Any:
    """Return the tree of arrays that the first process has, bit by bit; all have one like it."""
    if not are_several():
        return tree
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    shared = multihost_utils.broadcast_one_to_all(
        [np.frombuffer(leaf.tobytes(), np.uint8) for leaf in leaves]
    )
    found = [
        np.frombuffer(data.tobytes(), leaf.dtype).reshape(leaf.shape)
        for data, leaf in zip(shared, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, found)


def first_says(answer: bool) -> bool:
    """Return the answer of the first process, which alone need see the folder of a run."""
    return gather("yes" if answer else "")[0] == "yes" if are_several() else answer


def share_path(path: Path) -> Path:
    """Return the path that the first process has: its default tells the time."""
    return Path(gather(str(path))[0]) if are_several() else path


@contextlib.contextmanager
def agreement() -> Iterator[None]:
    """Raise a `UserError` of one process in all of them, when all have come to the end.

    Raises:
      TogetherError: one was raised in some process.
    """
    said = ""
    try:
        yield
    except UserError as error:
        if not are_several():
            raise
        said = str(error)
    if are_several():
        for index, text in enumerate(gather(said)):
            if text:
                raise TogetherError(f"process {index}: {text}" if index else text)


def check_same(asked: Mapping[str, Any]) -> None:
    """Check that all processes were asked the same, given as names and values.

    Raises:
      UserError: they were not.
    """
    if not are_several():
        return
    first, *others = map(json.loads, gather(json.dumps(asked)))
    for index, other in enumerate(others, 1):
        for name in first:
            if first[name] != other.get(name):
                raise TogetherError(
                    f"all processes must be asked the same: {name} is {first[name]!r} in process "
                    f"0 and {other.get(name)!r} in process {index}"
                )
