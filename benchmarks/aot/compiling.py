"""One program compiled for a target, and what its compiler tells; runs in the target's process."""

import pathlib
import shutil
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from benchmarks import candidates, roofline
from benchmarks.aot import bundles, hlo, traffic
from benchmarks.aot.targets import TARGETS
from benchmarks.case import shapes
from benchmarks.peers import in_jax
from benchmarks.workloads import Workload


def measure(
    target: str, folder: pathlib.Path, workload: Workload, dtype: str, candidate: str, program: str
) -> dict[str, Any]:
    """Compile and count.

    Args:
        target: a name of `TARGETS`.
        folder: where the listings of this process go; it is emptied before.
        workload: the layer.
        dtype: of all operands.
        candidate: one of `candidates.CANDIDATES`.
        program: "forward" or "forward_backward".

    Raises:
        NotImplementedError: the candidate declines, or its program does not fit into the device.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    device = SingleDeviceSharding(TARGETS[target].device())
    function = in_jax.functions(candidates.layer_of(candidate, workload))[program]
    operands = [
        jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=device) for shape in shapes(workload)
    ]
    start = time.perf_counter()
    lowered = jax.jit(function).lower(*operands[: 4 if program == "forward" else 5])
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise NotImplementedError("it does not fit into the device's memory") from None
        raise
    seconds = time.perf_counter() - start
    operations = traffic.operations(hlo.parse(str(compiled.as_text())))
    memory = compiled.memory_analysis()
    counts = roofline.counts(workload, jnp.dtype(dtype).itemsize)[program]
    flops = counts["depthwise_flops"] + counts["pointwise_flops"]
    facts = sums(target, operations, bundles.dumped(folder))
    # Where no listing tells what is issued, the matrix units' best rate is a bound too.
    at_peak = 0 if TARGETS[target].gigahertz else 1e-6 * flops / TARGETS[target].teraflops
    return {
        **facts,
        "roof_microseconds": max(facts["roof_microseconds"], at_peak),
        "ideal_bytes": counts["bytes"],
        "flops": flops,
        "temporary_bytes": memory.temp_size_in_bytes if memory else None,
        "compile_seconds": seconds,
    }


def sums(
    target: str, operations: list[traffic.Operation], issued: dict[str, int]
) -> dict[str, Any]:
    """Add up the operations: bytes, launches, and for a TPU the roof time and the largest parts."""
    bandwidth = TARGETS[target].gigabytes_per_second
    clock = TARGETS[target].gigahertz
    rows = []
    for operation in operations:
        moved = operation.read + operation.written
        microseconds = 1e-3 * moved / bandwidth
        cycles = issued.get(operation.name, 0)
        if clock:
            microseconds = max(microseconds, 1e-3 * cycles / clock)
        rows.append((operation.name, operation.launches, moved, cycles, microseconds))
    total = sum(row[1] * row[4] for row in rows)
    return {
        "bytes": sum(row[1] * row[2] for row in rows),
        "launches": sum(row[1] for row in rows),
        "roof_microseconds": total,
        "operations": sorted(rows, key=lambda row: -row[1] * row[4])[:12],
    }
