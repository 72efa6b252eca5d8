"""The networks in PyTorch: eager, and channels first.

`torch.compile` and a channels-last layout were tried on both networks with PyTorch 2.13 and were no
faster.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.networks import trial
from benchmarks.networks.description import ADAM, Convolution, Description, numbers
from benchmarks.networks.lite import Lite, fixed_filters
from benchmarks.networks.quartznet import QuartzNet
from benchmarks.worker import Program

# What PyTorch calls the weights.
NAMES = {
    "depthwise_kernel": "depthwise.weight",
    "pointwise_kernel": "pointwise.weight",
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
}


class Same(nn.Conv1d):
    """A convolution padded by TensorFlow's rule: it may need one zero more on the right."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it: (B, C, L) -> (B, F, output length)."""
        (K,), (S,), (D,), L = self.kernel_size, self.stride, self.dilation, x.shape[-1]
        zeros = max((-(-L // S) - 1) * S + D * (K - 1) + 1 - L, 0)
        if zeros % 2:
            x = functional.pad(x, (0, 1))
        return functional.conv1d(x, self.weight, None, S, zeros // 2, D, self.groups)


def convolution(of: Convolution) -> nn.Module:
    """Make a convolution."""
    C, F, K, S, D = of.channels, of.filters, of.kernel_size, of.strides, of.dilation_rate
    if not of.is_separable:
        return Same(C, F, K, S, dilation=D, bias=False)
    layer = nn.Sequential()
    layer.add_module("depthwise", Same(C, C, K, S, dilation=D, groups=C, bias=False))
    layer.add_module("pointwise", nn.Conv1d(C, F, 1, bias=False))
    return layer


class Network(nn.Module):
    """A network whose layers are found by their names."""

    def __init__(self, description: Description):
        super().__init__()
        self.momentum, self.epsilon = description.momentum, description.epsilon
        self.layers = nn.ModuleDict()

    def add_norm(self, name: str, channels: int) -> None:
        """Add a batch normalisation; PyTorch's momentum is the weight of the new value."""
        self.layers[name] = nn.BatchNorm1d(channels, self.epsilon, 1 - self.momentum)

    def add(self, of: Convolution) -> None:
        """Add a convolution and the normalisation after it."""
        self.layers[of.name] = convolution(of)
        self.add_norm(f"{of.name}_norm", of.filters)

    def apply_normalized(self, of: Convolution, x: torch.Tensor) -> torch.Tensor:
        """Apply both."""
        return self.layers[f"{of.name}_norm"](self.layers[of.name](x))


class LiteNetwork(Network):
    """LITE."""

    def __init__(self, description: Lite):
        super().__init__(description)
        self.description = description
        self.register_buffer("bank", torch.tensor(fixed_filters().T.copy()))
        for of in description.parallel:
            self.layers[of.name] = convolution(of)
        self.add_norm("parallel_norm", description.parallel_channels)
        for of in description.separable:
            self.add(of)
        self.layers["head"] = nn.Linear(description.filters, description.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, classes)."""
        K = self.bank.shape[-1]
        fixed = functional.conv1d(functional.pad(x, ((K - 1) // 2, K // 2)), self.bank)
        parallel = [self.layers[of.name](x) for of in self.description.parallel]
        x = torch.cat([*parallel, functional.relu(fixed)], dim=1)
        x = functional.relu(self.layers["parallel_norm"](x))
        for of in self.description.separable:
            x = functional.relu(self.apply_normalized(of, x))
        return self.layers["head"](x.mean(dim=2))


class QuartzNetNetwork(Network):
    """QuartzNet."""

    def __init__(self, description: QuartzNet):
        super().__init__(description)
        self.description = description
        self.add(description.prologue)
        for block in description.blocks:
            for of in (*block.convolutions, block.residual):
                self.add(of)
        for of in description.epilogue:
            self.add(of)
        self.layers["head"] = nn.Conv1d(of.filters, description.classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, classes, frames)."""
        x = functional.relu(self.apply_normalized(self.description.prologue, x))
        for block in self.description.blocks:
            y = x
            *inner, last = block.convolutions
            for of in inner:
                y = functional.relu(self.apply_normalized(of, y))
            y = self.apply_normalized(last, y)
            x = functional.relu(y + self.apply_normalized(block.residual, x))
        for of in self.description.epilogue:
            x = functional.relu(self.apply_normalized(of, x))
        return self.layers["head"](x)


NETWORKS: dict[type, Callable[[Any], Network]] = {Lite: LiteNetwork, QuartzNet: QuartzNetNetwork}


@torch.no_grad()
def load(network: Network, weights: dict[str, np.ndarray]) -> None:
    """Give the network these weights; every weight has its place."""
    parameters = dict(network.layers.named_parameters())
    for path, value in weights.items():
        layer, name = path.split("/")
        parameter = parameters.pop(f"{layer}.{NAMES.get(name, name)}")
        parameter.copy_(torch.tensor(value.T.copy()).reshape(parameter.shape))
    if parameters:
        raise ValueError(f"weights must name every parameter, got none for {sorted(parameters)}")


def build(description: Description) -> dict[str, Program]:
    """Build the programs of a network."""
    start = numbers(description)
    x = torch.tensor(start.inputs.transpose(0, 2, 1).copy())
    labels = torch.tensor(start.labels, dtype=torch.int64)
    network = NETWORKS[type(description)](description)
    load(network, start.weights)
    betas = ADAM["beta_1"], ADAM["beta_2"]
    optimizer = torch.optim.Adam(
        network.parameters(), description.learning_rate, betas, ADAM["epsilon"], fused=True
    )

    def run_step() -> tuple[torch.Tensor, torch.Tensor]:
        network.train()
        logits = network(x)
        loss = functional.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach(), channels_last(logits.detach())

    @torch.no_grad()
    def run_predict() -> torch.Tensor:
        network.eval()
        return channels_last(network(x))

    parameters = sum(parameter.numel() for parameter in network.parameters())
    return trial.programs(run_step, run_predict, {"parameters": parameters})


def channels_last(logits: torch.Tensor) -> torch.Tensor:
    """Put the classes last, as the other frameworks do."""
    return logits.movedim(1, -1)
