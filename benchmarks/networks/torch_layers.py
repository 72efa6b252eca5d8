"""The layers of the networks in PyTorch, found by their names."""

from typing import ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.networks.description import Description, Layer

# What PyTorch calls the weights.
NAMES = {
    "depthwise_kernel": "weight",
    "kernel": "weight",
    "scale": "weight",
    "negative_slope": "weight",
    "bias": "bias",
}
SEPARABLE_NAMES = {
    "depthwise_kernel": "depthwise.weight",
    "pointwise_kernel": "pointwise.weight",
}


class Same(nn.Conv1d):
    """A convolution padded by TensorFlow's rule: it may need one zero more on the right."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it: (B, C, L) -> (B, F, output length)."""
        (K,), (S,), (D,), L = self.kernel_size, self.stride, self.dilation, x.shape[-1]
        zeros = max((-(-L // S) - 1) * S + D * (K - 1) + 1 - L, 0)
        if zeros % 2:
            x = functional.pad(x, (0, 1))
        return functional.conv1d(x, self.weight, self.bias, S, zeros // 2, D, self.groups)


def convolution(of: Layer, filters: int, groups: int = 1) -> Same:
    """Make a convolution."""
    return Same(
        of.channels,
        filters,
        of.kernel_size,
        of.strides,
        dilation=of.dilation_rate,
        groups=groups,
        bias=of.use_bias,
    )


class Separable(nn.Module):
    """A depthwise convolution and a pointwise one."""

    def __init__(self, of: Layer):
        super().__init__()
        self.depthwise = convolution(of, of.channels, of.channels)
        self.pointwise = nn.Conv1d(of.channels, of.filters, 1, bias=of.use_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply both: (B, C, L) -> (B, F, output length)."""
        return self.pointwise(self.depthwise(x))


def make(of: Layer, is_channels_last: bool) -> nn.Module:
    """Make a layer; the dense ones of networks with channels last are `nn.Linear`."""
    C, F = of.channels, of.filters
    match of.kind:
        case "separable":
            return Separable(of)
        case "depthwise":
            return convolution(of, C, C)
        case "conv":
            return convolution(of, F)
        case "dense" if is_channels_last:
            return nn.Linear(C, F, of.use_bias)
        case "dense":
            return nn.Conv1d(C, F, 1, bias=of.use_bias)
        case "batch_norm":  # PyTorch's momentum is the weight of the new value.
            return nn.BatchNorm1d(C, of.epsilon, 1 - of.momentum)
        case "layer_norm":
            return nn.LayerNorm(C, of.epsilon)
        case "global_norm":
            return nn.GroupNorm(1, C, of.epsilon)
    return nn.PReLU()


class Network(nn.Module):
    """A network whose layers are found by their names."""

    is_channels_last: ClassVar[bool] = False

    def __init__(self, description: Description):
        super().__init__()
        self.layers = nn.ModuleDict(
            {name: make(of, self.is_channels_last) for name, of in description.layers().items()}
        )

    def run(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Apply a layer."""
        return self.layers[name](x)

    @torch.no_grad()
    def load(self, weights: dict[str, np.ndarray]) -> None:
        """Take these weights; every weight has its place."""
        parameters = dict(self.layers.named_parameters())
        for path, value in weights.items():
            layer, _, name = path.rpartition("/")
            is_separable = isinstance(self.layers[layer], Separable)
            theirs = (SEPARABLE_NAMES if is_separable else NAMES)[name]
            parameter = parameters.pop(f"{layer}.{theirs}")
            parameter.copy_(torch.tensor(value.T.copy()).reshape(parameter.shape))
        if parameters:
            raise ValueError(f"weights must name every parameter, got none for {set(parameters)}")
