"""The pointwise matmuls alone, without bias: what no separable layer on JAX can do without.

Forward is h @ w; forward and backward are h @ w, dy @ w^T and h^T @ dy. XLA's speed depends on how
they are written; at each workload the fastest way is taken, and named in the facts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from benchmarks import timing
from benchmarks.case import Case, Operands
from benchmarks.peers import in_jax
from benchmarks.worker import Program
from benchmarks.workloads import Workload

Array = jax.Array
Arrays = tuple[Array, ...]
Ways = Mapping[str, Callable[..., Arrays]]

RESULTS = ("y", "dx", "d_pointwise_kernel")


def operands(workload: Workload) -> Operands:
    """Draw the depthwise stage's output in the place of x, and the rest as for the layer."""
    single_tap = workload._replace(
        length=workload.steps,
        channels=workload.joined,
        depth_multiplier=1,
        kernel_size=1,
        strides=1,
    )
    return Case(single_tap).operands()


def build(workload: Workload) -> dict[str, Program]:
    """Compile the matmuls for a workload in every way, and keep the fastest."""
    drawn = operands(workload)
    h, w, dy = map(jax.device_put, (drawn.x, drawn.pointwise_kernel[0], drawn.dy))
    return {
        "forward": _fastest(FORWARD, [h, w]),
        "forward_backward": _fastest(FORWARD_BACKWARD, [h, w, dy]),
    }


def _fastest(ways: Ways, operands: list[Array]) -> Program:
    programs = {name: in_jax.program(way, operands, _read) for name, way in ways.items()}
    name = timing.fastest({name: program.run for name, program in programs.items()})
    return Program(programs[name].run, _read, {**programs[name].facts, "way": name})


def _read(result: Sequence[Any]) -> dict[str, np.ndarray]:
    arrays = dict(zip(RESULTS, map(np.asarray, result), strict=False))
    if "d_pointwise_kernel" in arrays:
        arrays["d_pointwise_kernel"] = arrays["d_pointwise_kernel"][None]
    return arrays


def _rows(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1])


def _flat(h: Array, w: Array) -> Arrays:
    return ((_rows(h) @ w).reshape(*h.shape[:2], -1),)


def _nested(h: Array, w: Array) -> Arrays:
    return (h @ w,)


def _transposed(h: Array, w: Array) -> Arrays:
    return ((w.T @ _rows(h).T).T.reshape(*h.shape[:2], -1),)


def _all_nested(h: Array, w: Array, dy: Array) -> Arrays:
    return h @ w, dy @ w.T, lax.dot_general(h, dy, (((0, 1), (0, 1)), ((), ())))


def _all_flat(h: Array, w: Array, dy: Array) -> Arrays:
    dh = (_rows(dy) @ w.T).reshape(h.shape)
    return *_flat(h, w), dh, _rows(h).T @ _rows(dy)


def _all_kernel_transposed(h: Array, w: Array, dy: Array) -> Arrays:
    y, dh, _ = _all_flat(h, w, dy)
    return y, dh, (_rows(dy).T @ _rows(h)).T


def _all_copied(h: Array, w: Array, dy: Array) -> Arrays:
    """Let no matmul read its operand against the grain."""
    h_rows, w_columns = lax.optimization_barrier((_rows(h).T, w.T))
    return *_flat(h, w), (_rows(dy) @ w_columns).reshape(h.shape), h_rows @ _rows(dy)


def _autodiff(h: Array, w: Array, dy: Array) -> Arrays:
    y, pull_back = jax.vjp(lambda h, w: h @ w, h, w)
    return y, *pull_back(dy)


FORWARD: Ways = {"flat": _flat, "nested": _nested, "transposed": _transposed}
FORWARD_BACKWARD: Ways = {
    "flat": _all_flat,
    "nested": _all_nested,
    "kernel transposed": _all_kernel_transposed,
    "copied": _all_copied,
    "autodiff": _autodiff,
}
