"""What the peers on PyTorch share: two eager programs around a function of tensors."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional

from benchmarks import timing
from benchmarks.case import Case
from benchmarks.worker import Program

Layer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Tensors = tuple[torch.Tensor, ...]


def programs(case: Case, ways: dict[str, Layer], dtype: str = "float32") -> dict[str, Program]:
    """Make the layer, and the layer with all its gradients, in the fastest of several ways.

    Args:
        case: the workload in the layer's layouts.
        ways: name -> (x, depthwise_kernel, pointwise_kernel, bias) -> y. The fastest way of each
            program is taken, and named in the facts.
        dtype: of all operands.
    """

    def read(result: Tensors) -> dict[str, np.ndarray]:
        return case.read([tensor.float() for tensor in result])

    made = {}
    wanted = getattr(torch, dtype)
    operands = [torch.from_numpy(array).to(wanted) for array in case.operands()]
    for name, function in functions(operands).items():
        runs = {way: functools.partial(function, layer) for way, layer in ways.items()}
        way = timing.fastest(runs)
        facts = {"compile_seconds": None, "memory_bytes": None, "way": way}
        made[name] = Program(runs[way], read, facts)
    return made


def functions(operands: Sequence[torch.Tensor]) -> dict[str, Callable[[Layer], Tensors]]:
    """Make the two functions of a layer, for operands that end in dy."""
    *arguments, dy = operands
    for tensor in arguments:
        tensor.requires_grad_()

    def forward(layer: Layer) -> Tensors:
        with torch.inference_mode():
            return (layer(*arguments),)

    def forward_backward(layer: Layer) -> Tensors:
        y = layer(*arguments)
        return y.detach(), *torch.autograd.grad(y, arguments, dy)

    return {"forward": forward, "forward_backward": forward_backward}


def padded(x: torch.Tensor, pads: tuple[int, int]) -> tuple[torch.Tensor, int]:
    """Return x, and the padding that a convolution can add by itself: the same at both ends.

    Unequal zeros at the ends of the last axis are put there first.
    """
    low, high = pads
    return (x, low) if low == high else (functional.pad(x, pads), 0)
