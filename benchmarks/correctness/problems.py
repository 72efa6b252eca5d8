"""What every lowering must get right: layers of all kinds, and those that users reported."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from benchmarks import reference
from benchmarks.case import Case, Operands
from benchmarks.workloads import Workload
from flax_sepconv.ops.geometry import ZeroPadding
from flax_sepconv.ops.tuning.definition import ROUNDING

# Of several layers on a CPU.
CPU_LENGTH = 128


class Problem(NamedTuple):
    """A layer with its numbers.

    Attributes:
        workload: its batch has different series. Without filters it is the depthwise stage alone.
        lengths: of the series, behind whose ends x is NaN; None where all are whole.
        layers: so many of them, one behind the other, each with weights of its own.
        copies: how often the batch is repeated, to be as large as in the report.
        report: where users said that such a layer fails on accelerators.
    """

    workload: Workload
    lengths: tuple[int, ...] | None = None
    layers: int = 1
    copies: int = 1
    report: str = ""

    def __str__(self) -> str:
        lengths = f" lengths {' '.join(map(str, self.lengths))}" if self.lengths else ""
        layers = f"{self.layers} layers of " if self.layers > 1 else ""
        copies = f" x{self.copies}" if self.copies > 1 else ""
        report = f" ({self.report})" if self.report else ""
        return f"{layers}{self.workload}{copies}{lengths}{report}"

    def on(self, platform: str) -> "Problem":
        """Return the problem as a device is to solve it: on a CPU no larger than need be."""
        if platform != "cpu":
            return self
        w = self.workload
        length = min(w.length, CPU_LENGTH) if self.layers > 1 else w.length
        return self._replace(workload=w._replace(length=length), copies=1)

    def operands(self, dtype: str) -> Operands[np.ndarray]:
        """Draw the numbers, rounded to the dtype, of both stages whether there are two or not."""
        w = self.workload
        x, *weights, dy = Case(w._replace(filters=w.filters or w.joined)).operands()
        if self.layers > 1:  # Each has the weights of the one before, moved by a channel.
            weights = [
                np.stack(
                    [np.roll(each, i, -1 if each.ndim == 1 else 1) for i in range(self.layers)]
                )
                for each in weights
            ]
        for row, length in enumerate(self.lengths or ()):
            x[row, length:] = np.nan
        return Operands(*(each.astype(jnp.dtype(dtype)) for each in (x, *weights, dy)))

    def expected(self, dtype: str) -> dict[str, np.ndarray]:
        """Compute the results in NumPy float64."""
        w, operands = self.workload, self.operands(dtype)
        if not w.filters:
            return reference.depthwise(w, operands.x, operands.depthwise_kernel, operands.dy)
        if self.lengths:
            return reference.ragged(w, operands, self.lengths)
        return (reference.stack if self.layers > 1 else reference.layer)(w, operands)

    def allowed(self, dtype: str, platform: str) -> dict[str, float]:
        """Return the errors that rounding explains; from layer to layer they add up as noise."""
        tolerances = reference.allowed(self.workload, ROUNDING[dtype][platform])
        return {name: value * self.layers**0.5 for name, value in tolerances.items()}


def errors(
    results: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> dict[str, float | str]:
    """Return the error of each result by name, "y forward" being another y; or what is off else."""
    found: dict[str, float | str] = {}
    for name, result in results.items():
        want = expected[name.partition(" ")[0]]
        if result.shape[1:] != want.shape:
            found[name] = f"has shape {result.shape[1:]} instead of {want.shape}"
            continue
        off = reference.error(result, want)
        found[name] = off if np.isfinite(off) else "is not finite"
    return found


def _layer(
    B: int,
    L: int,
    C: int,
    F: int,
    K: int,
    padding: ZeroPadding = "same",
    S: int = 1,
    D: int = 1,
    M: int = 1,
    **more: Any,
) -> Problem:
    return Problem(Workload("", B, L, C, F, K, S, D, M, padding, 0, ""), **more)


REPORTED = (
    _layer(2, 1024, 512, 512, 5, layers=12, copies=16, report="jax#13800"),
    *(
        _layer(2, 1024, 128, 0, 3, "causal", D=D, copies=16, report="jax#26266")
        for D in (1, 16, 256)
    ),
    _layer(2, 16, 4, 0, 3, S=2, M=4, report="jax#37922"),
)

# In the order of how telling they are, for runs that end before all are solved.
PROBLEMS = (
    _layer(2, 41, 32, 8, 5, "causal"),
    _layer(2, 40, 16, 24, 3),
    _layer(3, 37, 24, 16, 4, S=2),
    _layer(2, 300, 128, 136, 5),
    _layer(2, 50, 16, 20, 31),
    _layer(2, 48, 16, 24, 5, M=2),
    _layer(4, 45, 16, 24, 5, lengths=(45, 13, 0, 30)),
    *REPORTED,
    _layer(1, 64, 16, 32, 9, "valid", D=2),
    _layer(4, 128, 128, 64, 15),
    _layer(1, 33, 7, 5, 3, "valid", S=3, M=2),
    _layer(1, 200, 64, 60, 87, D=2),
    _layer(2, 19, 12, 10, 1, "valid"),
    _layer(2, 53, 9, 11, 6, "causal", S=2, D=3, M=3),
    _layer(3, 61, 128, 40, 4, "causal", lengths=(61, 7, 33)),
    _layer(3, 47, 16, 24, 5, S=2, lengths=(47, 20, 3)),
    _layer(3, 50, 10, 14, 4, "valid", D=3, lengths=(50, 9, 31)),  # One is too short for a step.
    _layer(2, 1531, 128, 12, 2, D=3),
    _layer(1, 603, 256, 130, 17, "valid", D=3),
)
