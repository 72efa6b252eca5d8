"""How fast the device copies and multiplies, and what part of it a program reaches."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import roofline, timing
from benchmarks.device import in_jax
from benchmarks.worker import Program, Worker
from benchmarks.workloads import Workload


class Sizes(NamedTuple):
    """Of the copied array, in MiB, and of the sides of the square matrices."""

    copy: int
    matmuls: tuple[int, ...]


# The copy is larger than any on-chip memory.
SIZES = {
    "cpu": Sizes(64, (512, 1024)),
    "gpu": Sizes(512, (4096, 8192)),
    "tpu": Sizes(512, (4096, 8192)),
}


def build(platform: str, dtype: str) -> dict[str, Program]:
    """Compile the copy and the matmuls; a task for a worker."""
    sizes, device = SIZES[platform], in_jax.device_of(platform)

    def program(function: Any, *shape: int) -> Program:
        drawn = jax.random.normal(jax.random.key(0), shape, jnp.dtype(dtype))
        return in_jax.compiled(function, (jax.device_put(drawn, device),), lambda results: {})

    length = sizes.copy * 2**20 // jnp.dtype(dtype).itemsize
    matmuls = {f"matmul {side}": program(lambda x: (x @ x,), side, side) for side in sizes.matmuls}
    # Its sign keeps the copy from being left out.
    return {"copy": program(lambda x: (-x,), length), **matmuls}


def measure(worker: Worker, platform: str, dtype: str, seconds: float) -> dict[str, float]:
    """Measure both rates of the device in a dtype."""
    facts = worker.load("benchmarks.device.ceilings:build", platform, dtype)
    clocks = {name: functools.partial(worker.times, name) for name in facts}
    medians = timing.medians(timing.interleaved(clocks, seconds))
    worker.drop()
    each = {name: seconds / facts[name]["calls"] for name, seconds in medians.items()}
    sizes = SIZES[platform]
    return {
        "copy_gigabytes_per_second": 2e-9 * sizes.copy * 2**20 / each["copy"],
        "matmul_teraflops": max(2e-12 * side**3 / each[f"matmul {side}"] for side in sizes.matmuls),
    }


def achieved(
    workload: Workload,
    dtype: str,
    program: str,
    milliseconds: float,
    ceilings: Mapping[str, float],
) -> dict[str, float]:
    """Tell the rates of a program: of the bytes it must move, of all operations of both stages."""
    counts = roofline.counts(workload, jnp.dtype(dtype).itemsize)[program]
    gigabytes = 1e-6 * counts["bytes"] / milliseconds
    teraflops = 1e-9 * (counts["depthwise_flops"] + counts["pointwise_flops"]) / milliseconds
    return {
        "gigabytes_per_second": gigabytes,
        "teraflops": teraflops,
        "of_copy": gigabytes / ceilings["copy_gigabytes_per_second"],
        "of_matmul": teraflops / ceilings["matmul_teraflops"],
    }
