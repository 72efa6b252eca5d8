"""What a worker offers of a network: a training step, a prediction, and what a step takes."""

import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.worker import Program, hand_back

CLEAR = pathlib.Path("/proc/self/clear_refs")


def programs(
    step: Callable[[], tuple[Any, Any]],
    predict: Callable[[], Any],
    facts: Mapping[str, Any],
    *,
    is_memory_known: bool = True,
) -> dict[str, Program]:
    """Name the programs.

    "peak" returns the most memory that a step holds beside what stays from step to step;
    NaN where unknown.

    Args:
        step: train on the batch, once; returns the loss and the outputs before the update.
        predict: return the outputs by the running statistics.
        facts: "parameters", how many numbers the framework says it trains, and whatever else.
        is_memory_known: whether the framework hands memory back to the system between steps.
    """

    def peak() -> float:
        if not (is_memory_known and CLEAR.exists()):
            return math.nan
        before = settle()
        step()
        return status("VmHWM") - before

    return {
        "step": Program(step, read_step, facts),
        "predict": Program(predict, lambda outputs: {"outputs": np.asarray(outputs)}),
        "peak": Program(peak, lambda size: {"megabytes": np.asarray(size / 1e6)}),
    }


def read_step(result: tuple[Any, Any]) -> dict[str, np.ndarray]:
    """Make arrays of what a step returned."""
    loss, outputs = result
    return {"loss": np.asarray(loss), "outputs": np.asarray(outputs)}


def settle() -> float:
    """Hand free memory back to the system, let the peak start anew, return the resident bytes."""
    hand_back()
    CLEAR.write_text("5")
    return status("VmRSS")


def status(field: str) -> float:
    """Return a size of this process in bytes; Linux names and counts them in KiB."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * int(dict(line.split(":", 1) for line in lines)[field].split()[0])
