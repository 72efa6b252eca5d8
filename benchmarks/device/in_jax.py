"""The candidates on JAX, compiled for one device; runs in a worker.

A call writes into the memory of the results of the call before, which are donated to it: calls
follow one another without a copy, and nothing is allocated between them but temporaries.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import candidates
from benchmarks.case import Case, Operands
from benchmarks.device import calls, sampling
from benchmarks.peers import in_jax
from benchmarks.worker import Program
from benchmarks.workloads import Workload

Arrays = tuple[jax.Array, ...]


def device_of(platform: str | None) -> jax.Device:
    """Return the first device of a platform: that of the accelerator where none is named.

    Raises:
        NotImplementedError: it is not there.
    """
    try:
        device = jax.devices(platform)[0]
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise NotImplementedError(f"jax has no {platform or 'device'} here: {reason}") from None
    if platform is None and device.platform == "cpu":
        raise NotImplementedError("jax has only cpu here (a TPU or GPU needs jax's package for it)")
    return device


def describe(platform: str | None) -> dict[str, Any]:
    """Tell what the device is."""
    device = device_of(platform)
    limits = device.memory_stats() or {}
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "device_memory_bytes": limits.get("bytes_limit"),
    }


def build(
    platform: str, workload: Workload, dtype: str, program: str, names: Sequence[str]
) -> dict[str, Program]:
    """Compile one program of each candidate; what it declines is a fact "declined" of it.

    Args:
        platform: of the device.
        workload: the layer.
        dtype: of all operands.
        program: "forward" or "forward_backward".
        names: of `candidates.CANDIDATES`.
    """
    case, count = Case(sampling.distinct(workload)), sampling.copies(workload)
    with fitting():
        drawn = _operands(case, count, jnp.dtype(dtype), device_of(platform))
    operands = drawn[: 4 if program == "forward" else 5]

    def read(results: Arrays) -> dict[str, np.ndarray]:
        wide = [array.astype(jnp.float32) for array in results]
        least, greatest = (
            lambda tiles, take=take: np.asarray(take(tiles, 0)) for take in (jnp.min, jnp.max)
        )
        return sampling.read(case, count, wide, least, greatest)

    made = {}
    for name in names:
        try:
            layer = candidates.layer_of(name, workload)
            made[name] = compiled(in_jax.functions(layer)[program], operands, read)
        except NotImplementedError as reason:
            made[name] = calls.declined(str(reason))
    return made


def _operands(case: Case, count: int, dtype: Any, device: jax.Device) -> Operands[jax.Array]:
    drawn = Operands(*(jax.device_put(array.astype(dtype), device) for array in case.operands()))
    x, dy = (jnp.tile(array, (count, 1, 1)) for array in (drawn.x, drawn.dy))
    return drawn._replace(x=x, dy=dy)


def compiled(
    function: Callable[..., Arrays],
    operands: Arrays,
    read: Callable[[Arrays], dict[str, np.ndarray]],
) -> Program:
    """Compile a function and warm it up.

    Raises:
        NotImplementedError: the function declines, does not compile, or does not fit.
    """
    with fitting():
        results = tuple(
            jnp.zeros(result.shape, result.dtype, device=operands[0].device)
            for result in jax.eval_shape(function, *operands)
        )
        begin = time.perf_counter()
        lowered = donating(function).lower(operands, results)
        try:
            call = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            raise NotImplementedError(f"it does not compile: {_short(error)}") from None
        facts = {
            "compile_seconds": time.perf_counter() - begin,
            "temporary_bytes": _temporary_bytes(call),
        }

        def start() -> None:
            nonlocal results
            results = call(operands, results)

        return calls.program(start, lambda: jax.block_until_ready(results), read, facts)


@contextlib.contextmanager
def fitting() -> Iterator[None]:
    """Take a lack of memory for an answer: NotImplementedError."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise NotImplementedError(f"it does not fit beside the others: {_short(error)}") from None


def _temporary_bytes(call: Any) -> int | None:
    memory = call.memory_analysis()
    return memory.temp_size_in_bytes if memory else None


def donating(function: Callable[..., Arrays]) -> Any:
    """Make (operands, results of an earlier call) -> results, in the memory of the earlier ones.

    Args:
        function: *operands -> results.
    """

    @functools.partial(jax.jit, donate_argnums=1, keep_unused=True)
    def call(operands: Arrays, results: Arrays) -> Arrays:
        return function(*operands)

    return call


def _short(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
