"""What is measured: layers with their numbers, by default of published networks."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from flax_sepconv.ops import geometry as geometry_lib
from flax_sepconv.ops.choices.classes import LAYER_PROGRAMS, Program, ShapeClass, classify
from flax_sepconv.ops.contraction import CONTRACTIONS
from flax_sepconv.ops.geometry import Geometry, PaddingRule
from flax_sepconv.ops.limits import Limit
from flax_sepconv.ops.tuning import definition
from flax_sepconv.ops.tuning.definition import RESULTS, Arrays

STAGE_PROGRAMS: tuple[Program, ...] = tuple(CONTRACTIONS.values())
# What a program returns, in order.
PARTS: dict[Program, tuple[str, ...]] = {
    "forward": RESULTS[:1],
    "forward_backward": RESULTS,
    "output": ("y",),
    "input_gradient": ("dx",),
    "kernel_gradient": ("d_depthwise_kernel",),
}


class Problem(NamedTuple):
    """A layer, B L C and so on; without filters it is the depthwise stage alone.

    Attributes:
        limits: "whole", or "lengths": every second sequence ends before its row does.
    """

    batch: int
    length: int
    channels: int
    filters: int
    kernel_size: int
    strides: int = 1
    dilation_rate: int = 1
    depth_multiplier: int = 1
    padding: PaddingRule = "same"
    limits: Limit = "whole"

    def __str__(self) -> str:
        filters = f"->{self.filters}" if self.filters else ""
        limits = "" if self.limits == "whole" else f" {self.limits}"
        zeros = self.padding
        padding = zeros if isinstance(zeros, str) else f"{zeros[0]},{zeros[1]}"
        return (
            f"B{self.batch} L{self.length} C{self.channels}{filters} K{self.kernel_size} "
            f"S{self.strides} D{self.dilation_rate} M{self.depth_multiplier} {padding}{limits}"
        )

    @property
    def joined(self) -> int:
        """C*M, the channels between the two stages."""
        return self.channels * self.depth_multiplier

    @property
    def steps(self) -> int:
        """The number of output steps."""
        return self.geometry.output_length

    @property
    def pads(self) -> tuple[int, int]:
        """The zeros before the first and after the last input step."""
        return self.geometry.pad_low, max(self.geometry.pad_high, 0)

    @property
    def geometry(self) -> Geometry:
        """Which input step meets which output step."""
        return geometry_lib.resolve(
            self.length, self.kernel_size, self.strides, self.dilation_rate, self.padding
        )

    @property
    def programs(self) -> tuple[Program, ...]:
        """The programs that there are of it."""
        return LAYER_PROGRAMS if self.filters else STAGE_PROGRAMS

    @property
    def distinct(self) -> "Problem":
        """The problem of the different sequences: two, where copies of them make the batch."""
        return self._replace(batch=1 if self.batch % 2 else 2)

    @property
    def copies(self) -> int:
        """How often the batch holds each different sequence."""
        return self.batch // self.distinct.batch

    @property
    def lengths(self) -> tuple[int, ...] | None:
        """The lengths of the different sequences, or None: they are whole."""
        if self.limits == "whole":
            return None
        least = geometry_lib.least_length(self.kernel_size, self.dilation_rate, self.padding)
        short = max(3 * self.length // 5, min(least, self.length))
        return (short,) if self.batch % 2 else (self.length, short)

    def of(self, program: Program, dtype: str) -> ShapeClass:
        """Return the class that a row about it is for."""
        made = classify(
            program,
            limits=self.limits,
            dtype=dtype,
            sizes=(self.batch, self.length, self.channels, self.filters),
            kernel=(self.kernel_size, self.strides, self.dilation_rate, self.depth_multiplier),
        )
        assert made is not None
        return made

    def operands(self, dtype: str) -> list[np.ndarray]:
        """Draw x, both kernels, the bias and the cotangent, all results of the order of one.

        x and the cotangent are of the different sequences; behind the end of one x is NaN.
        """
        return [each.copy() for each in _operands(self.distinct, dtype)]

    def expected(self, dtype: str) -> Arrays:
        """Compute the results for the different sequences in NumPy float64."""
        return _expected(self.distinct, self.lengths, dtype)


@functools.lru_cache(maxsize=1)
def _operands(problem: Problem, dtype: str) -> list[np.ndarray]:
    p, rng = problem, np.random.default_rng(0)
    filters = p.filters or p.joined
    shapes_and_terms = (
        ((p.batch, p.length, p.channels), 1),
        ((p.kernel_size, p.channels, p.depth_multiplier), p.kernel_size),
        ((1, p.joined, filters), p.joined),
        ((filters,), 1),
        ((p.batch, p.steps, filters), 1),
    )
    drawn = [
        rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(terms))
        for shape, terms in shapes_and_terms
    ]
    for row, length in enumerate(p.lengths or ()):
        drawn[0][row, length:] = np.nan
    return [each.astype(jnp.dtype(dtype)) for each in drawn]


@functools.lru_cache(maxsize=1)  # All lowerings are compared with the same.
def _expected(problem: Problem, lengths: tuple[int, ...] | None, dtype: str) -> Arrays:
    operands = _operands(problem, dtype)
    if not problem.filters:
        x, kernel, _, _, dh = operands
        return definition.depthwise(problem, x, kernel, dh)
    if lengths is not None:
        return definition.ragged(problem, operands, lengths)
    return definition.layer(problem, operands)


# Layers of published networks and of users' reports, at batches that accelerators are bought for:
# few taps and many, a stride, dilation, a multiplier, lengths that fill tiles and that do not.
ACCELERATOR_SUITE = (
    Problem(8, 1024, 512, 128, 5),
    Problem(2, 2048, 1536, 512, 4, padding="causal"),
    Problem(8, 1024, 256, 256, 31),
    Problem(32, 4096, 512, 512, 5),
    Problem(8, 2048, 1536, 1536, 4, padding="causal"),
    Problem(16, 2048, 256, 256, 5, strides=2),
    Problem(16, 2048, 128, 256, 4, depth_multiplier=2, padding="causal"),
    Problem(8, 2999, 512, 128, 3, dilation_rate=8),
    Problem(16, 512, 128, 128, 9),
    Problem(32, 209, 256, 256, 9),
    Problem(20, 256, 64, 3, 16, depth_multiplier=2, padding="valid"),
    Problem(32, 835, 512, 512, 87, dilation_rate=2),
)
# The like for a CPU, at batches of a small machine.
CPU_SUITE = (
    Problem(8, 1024, 256, 256, 31),
    Problem(2, 2048, 1536, 512, 4, padding="causal"),
    Problem(8, 1024, 512, 128, 5),
    Problem(4, 835, 256, 512, 51),
    Problem(2, 2999, 512, 128, 3, dilation_rate=8),
    Problem(128, 128, 64, 64, 15),
    Problem(64, 251, 113, 32, 20, dilation_rate=2),
    Problem(64, 251, 32, 32, 10, dilation_rate=4),
    Problem(19, 1670, 64, 256, 33, strides=2),
    Problem(1, 835, 512, 512, 87, dilation_rate=2),
    Problem(64, 100, 6, 32, 40),
    Problem(64, 29, 300, 32, 20, dilation_rate=2),
    Problem(64, 32, 16, 16, 16),
    Problem(20, 256, 64, 3, 16, depth_multiplier=2, padding="valid"),
)


def suite(platform: str) -> tuple[Problem, ...]:
    """Return what is measured where nothing else is asked for."""
    return CPU_SUITE if platform == "cpu" else ACCELERATOR_SUITE
