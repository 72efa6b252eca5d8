"""PyTorch's layers on its CUDA device (or the CPU, for trying them); runs in a worker.

On a GPU a call is a CUDA graph of the layer, launched at once as XLA launches a program, with
cuDNN's fastest algorithms (`cudnn.benchmark`) and TF32 allowed, as it is in jax.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks import timing, worker
from benchmarks.case import Case, Operands
from benchmarks.device import calls, sampling
from benchmarks.peers import in_torch, torch_ncl, torch_nlc
from benchmarks.worker import Program
from benchmarks.workloads import Workload

DEVICES = {"cpu": "cpu", "gpu": "cuda"}
MODULES = {"torch_ncl": torch_ncl, "torch_nlc": torch_nlc}
WARM_UPS = 3

# conv2d over channels-last data, seen with PyTorch 2.13 where the processor has AVX512_BF16.
HANGS = ("cpu", "bfloat16", "torch_nlc")


def describe(platform: str) -> dict[str, Any]:
    """Tell what the device is.

    Raises:
        NotImplementedError: PyTorch has none.
    """
    if platform not in DEVICES:
        raise NotImplementedError(f"PyTorch has no {platform} here")
    if platform == "cpu":
        return {"torch_device": "cpu"}
    if not torch.cuda.is_available():
        raise NotImplementedError(f"PyTorch {torch.__version__} finds no CUDA device here")
    return {
        "torch_device": torch.cuda.get_device_name(),
        "torch_cuda": torch.version.cuda,
        "torch_cudnn": torch.backends.cudnn.version(),
    }


def probe(platform: str) -> None:
    """Compute something; see `in_jax.probe`."""
    ones = torch.ones((8, 8), device=DEVICES[platform])
    if float((ones @ ones).sum()) != 8**3:
        raise ArithmeticError("a sum of ones is wrong")


def build(
    platform: str, workload: Workload, dtype: str, program: str, name: str
) -> dict[str, Program]:
    """Make one program of a peer; see `in_jax.build`.

    Args:
        platform: of the device.
        workload: the layer.
        dtype: of all operands.
        program: "forward" or "forward_backward".
        name: of `MODULES`.
    """
    if platform == "gpu":
        torch.cuda.empty_cache()  # The memory of the programs before these.
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    if (platform, dtype, name) == HANGS:
        raise NotImplementedError("on a CPU, in bfloat16, PyTorch may never return")
    case, ways = MODULES[name].ways_of(sampling.distinct(workload))
    count = sampling.copies(workload)
    try:
        operands = _operands(case, count, DEVICES[platform], dtype)
    except torch.OutOfMemoryError as error:
        raise NotImplementedError(worker.short(error)) from None
    function = in_torch.functions(operands)[program]
    return {name: _fastest(function, ways, platform, case, count)}


@functools.lru_cache(maxsize=2)  # For each layout; both ways of it read the same arrays.
def _operands(case: Case, count: int, device: str, dtype: str) -> Operands[torch.Tensor]:
    drawn = Operands(
        *(torch.from_numpy(array).to(device, getattr(torch, dtype)) for array in case.operands())
    )
    x, dy = (tensor.repeat(count, 1, 1) for tensor in (drawn.x, drawn.dy))
    return drawn._replace(x=x, dy=dy)


def _fastest(
    function: Callable[[in_torch.Layer], in_torch.Tensors],
    ways: dict[str, in_torch.Layer],
    platform: str,
    case: Case,
    count: int,
) -> Program:
    """Make the program of the fastest way, and name the way in its facts.

    Raises:
        NotImplementedError: no way has a kernel for these operands, or fits into the memory.
        RuntimeError: no way works.
    """

    def read(results: in_torch.Tensors) -> dict[str, np.ndarray]:
        wide = [tensor.float() for tensor in results]
        least, greatest = (
            lambda tiles, take=take: take(tiles, 0).cpu().numpy()
            for take in (torch.amin, torch.amax)
        )
        return sampling.read(case, count, wide, least, greatest)

    made, failures, declines = {}, {}, True
    for name, layer in ways.items():
        try:
            start, wait = _calls(functools.partial(function, layer), platform)
            made[name] = calls.program(start, wait, read, {"way": name})
        except RuntimeError as error:
            failures[name] = worker.short(error)
            declines &= isinstance(error, (NotImplementedError, torch.OutOfMemoryError))
    if not made:
        told = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise (NotImplementedError if declines else RuntimeError)(told)
    fastest = made[timing.fastest({name: each.run for name, each in made.items()})]
    return dataclasses.replace(fastest, facts={**fastest.facts, "failures": failures})


def _calls(
    function: Callable[[], in_torch.Tensors], platform: str
) -> tuple[Callable[[], None], Callable[[], in_torch.Tensors]]:
    """Return what starts a call, and what waits for all and returns the results."""
    if platform == "gpu":
        return _graph(function)
    results: in_torch.Tensors = ()

    def start() -> None:
        nonlocal results
        results = function()

    return start, lambda: results


def _graph(
    function: Callable[[], in_torch.Tensors],
) -> tuple[Callable[[], None], Callable[[], in_torch.Tensors]]:
    """Capture a CUDA graph, after calls on a stream of their own that let cuDNN choose."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            function()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function()

    def wait() -> in_torch.Tensors:
        torch.cuda.synchronize()
        return results

    return graph.replay, wait
