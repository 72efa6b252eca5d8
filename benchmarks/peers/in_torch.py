"""What the peers on PyTorch share: two eager programs around a function of tensors."""

from collections.abc import Callable

import torch
from torch.nn import functional

from benchmarks import timing
from benchmarks.case import Case
from benchmarks.worker import Program

Layer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def programs(case: Case, ways: dict[str, Layer]) -> dict[str, Program]:
    """Make the layer, and the layer with all its gradients, in the fastest of several ways.

    Args:
        case: the workload in the layer's layouts.
        ways: name -> (x, depthwise_kernel, pointwise_kernel, bias) -> y. The fastest way of each
            program is taken, and named in the facts.
    """
    *arguments, dy = (torch.from_numpy(array) for array in case.operands())
    for tensor in arguments:
        tensor.requires_grad_()

    def forward(layer: Layer) -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            return (layer(*arguments),)

    def forward_backward(layer: Layer) -> tuple[torch.Tensor, ...]:
        y = layer(*arguments)
        return y.detach(), *torch.autograd.grad(y, arguments, dy)

    made = {}
    for function in (forward, forward_backward):
        runs = {name: _bound(function, layer) for name, layer in ways.items()}
        way = timing.fastest(runs)
        facts = {"compile_seconds": None, "memory_bytes": None, "way": way}
        made[function.__name__] = Program(runs[way], case.read, facts)
    return made


def padded(x: torch.Tensor, pads: tuple[int, int]) -> tuple[torch.Tensor, int]:
    """Return x, and the padding that a convolution can add by itself: the same at both ends.

    Unequal zeros at the ends of the last axis are put there first.
    """
    low, high = pads
    return (x, low) if low == high else (functional.pad(x, pads), 0)


def _bound(function: Callable[[Layer], tuple[torch.Tensor, ...]], layer: Layer) -> Callable:
    return lambda: function(layer)
