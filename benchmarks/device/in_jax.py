"""The candidates on JAX, compiled for one device; runs in a worker.

A call writes into the memory of the results of the call before, which are donated to it: calls
follow one another without a copy, and nothing is allocated between them but temporaries.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
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

# The memories that a kernel divides by itself, as compilers name them.
ON_CHIP = ("vmem", "smem", "shared memory", "scoped")


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


def probe(platform: str | None) -> None:
    """Compute something, as any sound process can."""
    ones = jax.device_put(np.ones((8, 8), np.float32), device_of(platform))
    if float((ones @ ones).sum()) != 8**3:
        raise ArithmeticError("a sum of ones is wrong")


def build(
    platform: str, workload: Workload, dtype: str, program: str, name: str
) -> dict[str, Program]:
    """Compile one program of a candidate, under the candidate's name.

    Args:
        platform: of the device.
        workload: the layer.
        dtype: of all operands.
        program: "forward" or "forward_backward".
        name: of `candidates.CANDIDATES`.

    Raises:
        NotImplementedError: the candidate declines, or does not fit into the memory.
    """
    case, count = Case(sampling.distinct(workload)), sampling.copies(workload)
    with fitting():
        drawn = _operands(case, count, dtype, platform)
    operands = drawn[: 4 if program == "forward" else 5]

    def read(results: Arrays) -> dict[str, np.ndarray]:
        wide = [array.astype(jnp.float32) for array in results]
        least, greatest = (
            lambda tiles, take=take: np.asarray(take(tiles, 0)) for take in (jnp.min, jnp.max)
        )
        return sampling.read(case, count, wide, least, greatest)

    layer = candidates.layer_of(name, workload)
    return {name: compiled(in_jax.functions(layer)[program], operands, read)}


@functools.lru_cache(maxsize=1)  # All candidates read the same arrays.
def _operands(case: Case, count: int, dtype: str, platform: str) -> Operands[jax.Array]:
    device, narrow = device_of(platform), jnp.dtype(dtype)
    drawn = Operands(*(jax.device_put(each.astype(narrow), device) for each in case.operands()))
    x, dy = (jnp.tile(array, (count, 1, 1)) for array in (drawn.x, drawn.dy))
    return drawn._replace(x=x, dy=dy)


def compiled(
    function: Callable[..., Arrays],
    operands: Arrays,
    read: Callable[[Arrays], dict[str, np.ndarray]],
) -> Program:
    """Compile a function and warm it up.

    Raises:
        NotImplementedError: the function declines, or does not fit.
    """
    with fitting():
        results = tuple(
            jnp.zeros(result.shape, result.dtype, device=operands[0].device)
            for result in jax.eval_shape(function, *operands)
        )
        begin = time.perf_counter()
        lowered = donating(function).lower(operands, results)
        call = lowered.compile()
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
    """Take a lack of the device's memory for an answer: NotImplementedError.

    A kernel that asks for more than there is on the chip is at fault itself.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text or any(each in text.lower() for each in ON_CHIP):
            raise
        reason = text.partition("\n")[0][:200]
        raise NotImplementedError(f"it does not fit beside the others: {reason}") from None


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
