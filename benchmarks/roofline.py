"""How fast the machine could be: bytes and floating-point operations against measured rates.

The bound of a program is the longer of two times. Traffic: everything it must read and write once,
with the depthwise output staying in the caches, at the bandwidth of copying about as many bytes.
Arithmetic: both stages' operations at the best rate of a matmul. No program of this machine can be
expected below it; it takes overlap for granted, and both cores busy all the time.
"""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from benchmarks.peers import in_jax
from benchmarks.worker import Program, Worker
from benchmarks.workloads import Workload

COPY_MEGABYTES = (1, 4, 16, 64, 256)
MATMUL_SIZES = (512, 1024, 2048)


def build() -> dict[str, Program]:
    """Make the programs that show the machine's rates; a task for a worker."""
    copies = {f"copy {size}": _copy(size * 2**20) for size in COPY_MEGABYTES}
    squares = {size: jax.numpy.ones((size, size)) for size in MATMUL_SIZES}
    matmuls = {
        f"matmul {size}": in_jax.program(lambda x: x @ x, [square], lambda result: {})
        for size, square in squares.items()
    }
    return {**copies, **matmuls}


def _copy(size: int) -> Program:
    """Copy so many bytes, one piece for each core."""
    pieces = os.cpu_count() or 1
    pool = ThreadPoolExecutor(pieces)
    sources = np.split(np.ones(size // pieces * pieces, np.uint8), pieces)
    targets = [np.zeros_like(source) for source in sources]
    return Program(lambda: list(pool.map(np.copyto, targets, sources)), lambda result: {})


def measure(samples: int = 9) -> dict[str, Any]:
    """Measure copies (bytes read and written per second) and matmuls (operations per second)."""
    with Worker("roofline") as worker:
        worker.load("benchmarks.roofline:build")
        best = functools.partial(_best, worker, samples)
        return {
            "copy_gigabytes_per_second": {
                str(size): 2e-9 * size * 2**20 / best(f"copy {size}") for size in COPY_MEGABYTES
            },
            "matmul_gigaflops": max(
                2e-9 * size**3 / best(f"matmul {size}") for size in MATMUL_SIZES
            ),
        }


def _best(worker: Worker, samples: int, program: str) -> float:
    worker.times(program, 2)
    return min(worker.times(program, samples))


def counts(workload: Workload, itemsize: int = 4) -> dict[str, dict[str, int]]:
    """Count the operations of each stage, and the bytes that the fused programs must move."""
    w = workload
    positions = w.batch * w.steps
    x, y = w.batch * w.length * w.channels, positions * w.filters
    weights = w.kernel_size * w.joined + w.joined * w.filters + w.filters
    forward = {
        "depthwise_flops": 2 * positions * w.joined * w.kernel_size,
        "pointwise_flops": 2 * positions * w.joined * w.filters,
        "bytes": itemsize * (x + weights + y),
    }
    # Each stage has two gradients of its own cost; x and y come back as dx and dy.
    both = {
        "depthwise_flops": 3 * forward["depthwise_flops"],
        "pointwise_flops": 3 * forward["pointwise_flops"],
        "bytes": 2 * forward["bytes"],
    }
    return {"forward": forward, "forward_backward": both}


def bounds(workload: Workload, rates: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the counts of each program with the milliseconds that they take at least."""
    bandwidths = rates["copy_gigabytes_per_second"]
    reports = {}
    for program, count in counts(workload).items():
        # A copy of n bytes moves 2 n.
        nearest = min(bandwidths, key=lambda size: abs(2 * int(size) * 2**20 - count["bytes"]))
        flops = count["depthwise_flops"] + count["pointwise_flops"]
        traffic = 1e-6 * count["bytes"] / bandwidths[nearest]
        arithmetic = 1e-6 * flops / rates["matmul_gigaflops"]
        reports[program] = {
            **count,
            "traffic_ms": traffic,
            "arithmetic_ms": arithmetic,
            "bound_ms": max(traffic, arithmetic),
        }
    return reports
