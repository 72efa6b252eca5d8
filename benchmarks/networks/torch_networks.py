"""The networks in PyTorch: eager, and channels first where nothing else is usual.

`torch.compile` and a channels-last layout were tried on LITE and QuartzNet with PyTorch 2.13 and
were no faster.
"""

from typing import Any

import torch
from torch.nn import functional

from benchmarks.networks import trial
from benchmarks.networks.conformer import Conformer
from benchmarks.networks.conv_tasnet import ConvTasNet
from benchmarks.networks.description import ADAM, Description, numbers
from benchmarks.networks.lite import Lite
from benchmarks.networks.quartznet import QuartzNet
from benchmarks.networks.torch_layers import Network
from benchmarks.worker import Program


class LiteNetwork(Network):
    """LITE."""

    def __init__(self, description: Lite):
        super().__init__(description)
        from examples.lite import fixed_filters

        self.register_buffer("bank", torch.tensor(fixed_filters().T.copy()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits: (B, L, 1) -> (B, classes)."""
        x, K = x.mT, self.bank.shape[-1]
        fixed = functional.conv1d(functional.pad(x, ((K - 1) // 2, K // 2)), self.bank)
        parallel = [self.run(f"parallel{i}", x) for i in range(3)]
        x = torch.cat([*parallel, functional.relu(fixed)], dim=1)
        x = functional.relu(self.run("parallel_norm", x))
        for name in ("separable0", "separable1"):
            x = functional.relu(self.run(f"{name}_norm", self.run(name, x)))
        return self.run("head", x.mean(dim=2, keepdim=True))[..., 0]


class QuartzNetNetwork(Network):
    """QuartzNet."""

    def __init__(self, description: QuartzNet):
        super().__init__(description)
        self.blocks, self.repeats = description.blocks, description.repeats

    def convolve(self, block: str, r: int, x: torch.Tensor) -> torch.Tensor:
        """Apply a convolution of a block, and its normalisation."""
        return self.run(f"{block}/norm{r}", self.run(f"{block}/conv{r}", x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits: (B, L, C) -> (B, frames, classes)."""
        x = functional.relu(self.convolve("prologue", 0, x.mT))
        for block in self.blocks:
            y = x
            for r in range(self.repeats - 1):
                y = functional.relu(self.convolve(block, r, y))
            y = self.convolve(block, self.repeats - 1, y)
            x = self.run(f"{block}/residual_norm", self.run(f"{block}/residual", x))
            x = functional.relu(y + x)
        x = functional.relu(self.convolve("epilogue", 0, x))
        x = functional.relu(self.run("wide_norm", self.run("wide", x)))
        return self.run("head", x).mT


class ConformerNetwork(Network):
    """Conformer; its steps lie before its channels, but for the depthwise convolution."""

    is_channels_last = True

    def __init__(self, description: Conformer):
        super().__init__(description)
        self.blocks, self.heads = description.blocks, description.heads

    def feed(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Apply half a feed-forward module."""
        y = self.run(f"{name}/expand", self.run(f"{name}/norm", x))
        return x + 0.5 * self.run(f"{name}/project", functional.silu(y))

    def attend(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Apply the attention."""
        y = self.run(f"{name}/norm", x)
        q, k, v = (
            self.run(f"{name}/{each}", y).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for each in ("query", "key", "value")
        )
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.run(f"{name}/out", y)

    def convolve(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Apply the convolution module."""
        y = functional.glu(self.run(f"{name}/expand", self.run(f"{name}/norm", x)))
        y = self.run(f"{name}/depthwise_norm", self.run(f"{name}/depthwise", y.mT))
        return x + self.run(f"{name}/project", functional.silu(y).mT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits: (B, L, C) -> (B, L, classes)."""
        x = self.run("input", x)
        for b in range(self.blocks):
            x = self.feed(f"block{b}/feed0", x)
            x = self.convolve(f"block{b}/convolution", self.attend(f"block{b}/attention", x))
            x = self.run(f"block{b}/norm", self.feed(f"block{b}/feed1", x))
        return self.run("head", x)


class ConvTasNetNetwork(Network):
    """Conv-TasNet."""

    def __init__(self, description: ConvTasNet):
        super().__init__(description)
        self.description = description

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the voices: (B, samples) -> (B, sources, samples)."""
        samples, hop = x.shape[-1], self.description.window // 2
        wave = functional.pad(x[:, None], (hop, hop + -samples % hop))
        frames = functional.conv1d(wave, self.layers["encoder"].weight.mT, stride=hop)
        y = self.run("separator/bottleneck", self.run("separator/norm", frames))
        skips = []
        for block in self.description.block_names:
            h = y
            for stage in ("expand", "depthwise"):
                h = self.run(f"{block}/{stage}_prelu", self.run(f"{block}/{stage}", h))
                h = self.run(f"{block}/{stage}_norm", h)
            y = y + self.run(f"{block}/residual", h)
            skips.append(self.run(f"{block}/skip", h))
        total = self.run("separator/masks_prelu", sum(skips))
        masks = torch.sigmoid(self.run("separator/masks", total))
        masks = masks.unflatten(1, (self.description.sources, -1))
        masked = (masks * frames[:, None]).flatten(0, 1)
        basis = self.layers["decoder"].weight.permute(1, 2, 0)
        voices = functional.conv_transpose1d(masked, basis, stride=hop)
        return voices[..., hop : hop + samples].reshape(len(x), -1, samples)


NETWORKS: dict[type, Any] = {
    Lite: LiteNetwork,
    QuartzNet: QuartzNetNetwork,
    Conformer: ConformerNetwork,
    ConvTasNet: ConvTasNetNetwork,
}


def loss_of(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of classes, or the mean square of what is missing."""
    if targets.is_floating_point():
        return functional.mse_loss(outputs, targets)
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def build(description: Description) -> dict[str, Program]:
    """Build the programs of a network."""
    start = numbers(description)
    x, targets = torch.tensor(start.inputs), torch.tensor(start.targets)
    if not targets.is_floating_point():
        targets = targets.long()
    network = NETWORKS[type(description)](description)
    network.load(start.weights)
    betas = ADAM["beta_1"], ADAM["beta_2"]
    optimizer = torch.optim.Adam(
        network.parameters(), description.learning_rate, betas, ADAM["epsilon"], fused=True
    )

    def run_step() -> tuple[torch.Tensor, torch.Tensor]:
        network.train()
        outputs = network(x)
        loss = loss_of(outputs, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach(), outputs.detach()

    @torch.no_grad()
    def run_predict() -> torch.Tensor:
        network.eval()
        return network(x)

    parameters = sum(parameter.numel() for parameter in network.parameters())
    return trial.programs(run_step, run_predict, {"parameters": parameters})
