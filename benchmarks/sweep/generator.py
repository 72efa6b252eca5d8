"""Draw layers at random: first their kinds, then their sizes.

The kinds and their ranges are those of the published networks in `workloads.csv`; between the ends
of a range sizes are drawn evenly on a logarithmic scale, as multiples of what such networks have.
Every kind comes once before any comes twice, so that as many layers as there are kinds cover all.
A seed gives the same layers on every machine.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.workloads import Workload
from flax_sepconv.ops.geometry import ZeroPadding

# A layer has at most so many multiply-adds, and so many elements an array (280 MB in float32).
# The batch is cut to that; where a single series is too much, the sizes are drawn anew.
MULTIPLY_ADDS = 2.5e9
ELEMENTS = 70e6


class Range(NamedTuple):
    """Sizes from low to high, both included, that are multiples of `step`."""

    low: int
    high: int
    step: int = 1

    def draw(self, rng: random.Random) -> int:
        """Draw evenly between the logarithms of the ends."""
        size = self.low * (self.high / self.low) ** rng.random()
        return min(max(round(size / self.step) * self.step, self.low), self.high)


ONE = Range(1, 1)


class Kind(NamedTuple):
    """The ranges of layers that one kind of network has; `filters` None is as many as channels."""

    source: str
    batch: Range
    length: Range
    channels: Range
    filters: Range | None
    kernel_size: Range
    strides: Range = ONE
    dilation_rate: Range = ONE
    depth_multiplier: Range = ONE
    paddings: tuple[ZeroPadding, ...] = ("same",)


KINDS = {
    "first": Kind(
        "first layers over raw series: few channels in, many out (LITEMV, XceptionTime, UEA)",
        batch=Range(64, 64),
        length=Range(200, 2000),
        channels=Range(3, 12),
        filters=Range(64, 512, 32),
        kernel_size=Range(5, 31),
    ),
    "first_wide": Kind(
        "the same over long series, whose outputs are hundreds of megabytes",
        batch=Range(64, 64),
        length=Range(1000, 2000),
        channels=Range(3, 12),
        filters=Range(256, 512, 32),
        kernel_size=Range(5, 31),
    ),
    "block": Kind(
        "wide blocks of speech encoders, mostly matrix products (QuartzNet, Citrinet, Conformer)",
        batch=Range(4, 32),
        length=Range(200, 1700),
        channels=Range(256, 1024, 16),
        filters=Range(256, 1024, 16),
        kernel_size=Range(3, 87),
    ),
    "few_rows": Kind(
        "one short prompt of a state-space model, very wide (Mamba, RecurrentGemma)",
        batch=ONE,
        length=Range(128, 128),
        channels=Range(1024, 4096, 32),
        filters=None,
        kernel_size=Range(4, 4),
        paddings=("causal",),
    ),
    "strided": Kind(
        "layers that shorten a sequence (QuartzNet C1, Citrinet, Keras' examples)",
        batch=Range(8, 32),
        length=Range(200, 2048),
        channels=Range(48, 512, 8),
        filters=Range(64, 512, 16),
        kernel_size=Range(5, 39),
        strides=Range(2, 3),
        paddings=("same", "valid"),
    ),
    "dilated": Kind(
        "stacks whose dilation grows (GPN, VITS, QuartzNet C2)",
        batch=Range(8, 64),
        length=Range(200, 1024),
        channels=Range(32, 512, 16),
        filters=Range(32, 512, 16),
        kernel_size=Range(3, 29),
        dilation_rate=Range(2, 8),
        paddings=("same", "causal"),
    ),
    "multiplied": Kind(
        "several depthwise filters a channel (Keras' layer benchmark, EEGNet)",
        batch=Range(8, 64),
        length=Range(64, 1024),
        channels=Range(12, 128),
        filters=Range(16, 256, 8),
        kernel_size=Range(3, 31),
        depth_multiplier=Range(2, 4),
        paddings=("same", "valid", "causal"),
    ),
    "short": Kind(
        "short series, also shorter than the kernel (LITEMV on JapaneseVowels, EEGNet)",
        batch=Range(64, 128),
        length=Range(16, 64),
        channels=Range(12, 300),
        filters=Range(16, 64, 8),
        kernel_size=Range(8, 40),
    ),
    "long": Kind(
        "long sequences with few taps (Conv-TasNet, Vocos, causal-conv1d)",
        batch=Range(1, 8),
        length=Range(3000, 16384),
        channels=Range(64, 512, 32),
        filters=Range(64, 512, 32),
        kernel_size=Range(3, 7),
        paddings=("same", "causal"),
    ),
    "separator": Kind(
        "dilated stacks over long frames (Conv-TasNet)",
        batch=Range(1, 8),
        length=Range(2000, 4000),
        channels=Range(256, 512, 64),
        filters=Range(64, 256, 32),
        kernel_size=Range(3, 3),
        dilation_rate=Range(1, 8),
        paddings=("same", "causal"),
    ),
    "narrow": Kind(
        "narrow layers over medium series (LITE, XceptionTime, MatchboxNet)",
        batch=Range(64, 128),
        length=Range(100, 256),
        channels=Range(16, 128),
        filters=Range(16, 128, 8),
        kernel_size=Range(9, 39),
    ),
    "causal": Kind(
        "causal mixers (Mamba, Hyena, the decoder of the Evolved Transformer)",
        batch=Range(1, 16),
        length=Range(256, 2048),
        channels=Range(256, 2048, 64),
        filters=Range(256, 1024, 64),
        kernel_size=Range(3, 11),
        paddings=("causal",),
    ),
    "last": Kind(
        "many channels into few filters (Keras' layer benchmark, TensorFlow's page)",
        batch=Range(4, 64),
        length=Range(28, 512),
        channels=Range(28, 256),
        filters=Range(3, 32),
        kernel_size=Range(3, 16),
        paddings=("valid",),
    ),
}


def draw(seed: int, count: int) -> list[Workload]:
    """Draw so many layers.

    Example:
        >>> [str(layer) for layer in draw(0, 2)] == [str(layer) for layer in draw(0, 3)][:2]
        True
        >>> len({kind_of(layer) for layer in draw(0, len(KINDS))}) == len(KINDS)
        True
    """
    rng = random.Random(seed)
    kinds = _turns(rng)
    return [_layer(rng, next(kinds), number) for number in range(count)]


def kind_of(workload: Workload) -> str:
    """Return the kind of a layer that was drawn."""
    return workload.name.rpartition("-")[0]


def multiply_adds(workload: Workload) -> int:
    """Count both stages' multiply-adds, forward."""
    w = workload
    return int(w.batch * w.steps * w.joined * (w.kernel_size + w.filters))


def largest(workload: Workload) -> int:
    """Return the elements of the largest array: the input, either stage's output, the weights."""
    w = workload
    series = max(w.length * w.channels, w.steps * w.joined, w.steps * w.filters)
    return max(w.batch * series, w.joined * w.filters)


def _turns(rng: random.Random) -> Iterator[str]:
    """Yield all kinds in a random order, and again in another."""
    while True:
        yield from sorted(KINDS, key=lambda kind: rng.random())


def _layer(rng: random.Random, name: str, number: int) -> Workload:
    kind = KINDS[name]
    while True:
        channels = kind.channels.draw(rng)
        drawn = Workload(
            name=f"{name}-{number}",
            batch=kind.batch.draw(rng),
            length=kind.length.draw(rng),
            channels=channels,
            filters=kind.filters.draw(rng) if kind.filters else channels,
            kernel_size=kind.kernel_size.draw(rng),
            strides=kind.strides.draw(rng),
            dilation_rate=kind.dilation_rate.draw(rng),
            depth_multiplier=kind.depth_multiplier.draw(rng),
            padding=kind.paddings[int(rng.random() * len(kind.paddings))],
            cpu_batch=0,
            source=kind.source,
        )
        reach = drawn.dilation_rate * (drawn.kernel_size - 1) + 1
        if drawn.padding == "valid" and reach > drawn.length:
            continue
        single = drawn._replace(batch=1)
        fitting = min(MULTIPLY_ADDS // multiply_adds(single), ELEMENTS // largest(single))
        if fitting >= 1:
            return drawn._replace(batch=min(drawn.batch, int(fitting)))
