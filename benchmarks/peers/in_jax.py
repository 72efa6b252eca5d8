"""What the peers on JAX share: two compiled programs around a function of arrays."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.case import Case
from benchmarks.worker import Program

Layer = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def programs(case: Case, layer: Layer, dtype: str = "float32") -> dict[str, Program]:
    """Compile the layer, and the layer with all its gradients.

    Args:
        case: the workload in the layer's layouts.
        layer: (x, depthwise_kernel, pointwise_kernel, bias) -> y.
        dtype: of all operands.
    """
    operands = [jax.device_put(array.astype(dtype, copy=False)) for array in case.operands()]
    return {
        name: program(function, operands[: 4 if name == "forward" else 5], case.read)
        for name, function in functions(layer).items()
    }


def functions(layer: Layer) -> dict[str, Callable[..., tuple[jax.Array, ...]]]:
    """Make the two functions of a layer's arguments, and of dy where gradients are asked for."""

    def forward(*arguments: jax.Array) -> tuple[jax.Array, ...]:
        return (layer(*arguments),)

    def forward_backward(*arguments_and_dy: jax.Array) -> tuple[jax.Array, ...]:
        *arguments, dy = arguments_and_dy
        y, pull_back = jax.vjp(layer, *arguments)
        return y, *pull_back(dy)

    return {"forward": forward, "forward_backward": forward_backward}


def program(function: Callable[..., Any], operands: list[jax.Array], read: Any) -> Program:
    """Compile a function for operands that are on the device."""
    _warm_up()
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*operands).compile()
    seconds = time.perf_counter() - start
    return Program(
        run=lambda: jax.block_until_ready(compiled(*operands)),
        read=read,
        facts={"compile_seconds": seconds, "memory_bytes": _memory(compiled)},
    )


@functools.cache
def _warm_up() -> None:
    """Keep what only the first compilation of a process has to do out of the times."""
    jax.jit(lambda x: x @ x).lower(jax.numpy.ones((2, 2))).compile()


def _memory(compiled: Any) -> int | None:
    """Return the bytes of arguments, results and temporaries, which all exist at once."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )
