"""The layer on CPU devices, divided, as programs; runs in processes of its own."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding

from benchmarks import candidates
from benchmarks.aot import hlo, traffic
from benchmarks.case import Case
from benchmarks.peers import in_jax
from benchmarks.scaling import collectives
from benchmarks.scaling.divisions import EXPLICIT, named
from benchmarks.worker import Program
from benchmarks.workloads import Workload


def join(rank: int, count: int, port: int) -> None:
    """Take a core for this process, and meet the others; before anything asks for devices."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", count, rank)


def build(workload: Workload, division: str, names: Sequence[str]) -> dict[str, Program]:
    """Compile candidates, forward and with all gradients, for all devices that there are.

    The programs are named "division/candidate/program".
    """
    devices = jax.device_count()
    case = Case(workload)
    built = {}
    for name in names:
        kind = AxisType.Explicit if name == EXPLICIT else AxisType.Auto
        mesh, shardings = _shardings(division, kind)
        operands = [
            _placed(array, sharding)
            for array, sharding in zip(case.operands(), shardings, strict=True)
        ]
        *own, of_y = shardings
        functions = in_jax.functions(
            candidates.layer_of("selected" if name == EXPLICIT else name, workload)
        )
        for program, function in functions.items():
            given = operands[: 4 if program == "forward" else 5]
            results = (of_y, *(() if program == "forward" else own))
            start = time.perf_counter()
            with jax.set_mesh(mesh):
                compiled = jax.jit(function, out_shardings=results).lower(*given).compile()
            seconds = time.perf_counter() - start
            built[f"{division}/{name}/{program}"] = Program(
                run=_runner(compiled, given),
                read=lambda result: case.read([_whole(array) for array in result]),
                facts=_facts(compiled, devices) | {"compile_seconds": seconds},
            )
    return built


def _shardings(division: str, kind: AxisType) -> tuple[Mesh, list[NamedSharding]]:
    """Return a mesh of all devices, and how it divides the operands."""
    way = named(division)
    kinds = (kind,) * len(way.axes)
    mesh = jax.make_mesh(way.sizes(jax.device_count()), way.axes, axis_types=kinds)
    return mesh, [NamedSharding(mesh, spec) for spec in way.specs]


def _placed(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _whole(array: jax.Array) -> np.ndarray:
    """Return all of an array, also where other processes hold parts of it."""
    return cast(np.ndarray, multihost_utils.process_allgather(array, tiled=True))


def _runner(compiled: Any, operands: Sequence[jax.Array]) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(compiled(*operands))


def _facts(compiled: Any, devices: int) -> dict[str, Any]:
    """Tell what the program sends, and the memory that it takes beside operands and results."""
    module = hlo.parse(compiled.as_text())
    found = collectives.count(module, traffic.operations(module), devices)
    return {
        "sent": {kind: sent._asdict() for kind, sent in sorted(found.items())},
        "bytes": collectives.total(found),
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }
