"""Shapes and settings that every lowering must get right."""

from typing import NamedTuple

import numpy as np

from flax_sepconv.ops import lowerings
from flax_sepconv.ops.context import Context

# Those that this machine has: the native one takes a C++ compiler to build.
LOWERINGS = tuple(
    name for name, module in lowerings.LOWERINGS.items() if module.declines(Context("cpu")) is None
)


class Case(NamedTuple):
    B: int
    L: int
    C: int
    K: int
    M: int = 1
    S: int = 1
    D: int = 1
    padding: str | tuple[int, int] = "same"

    @property
    def id(self) -> str:
        return (
            f"{self.padding}-B{self.B}-L{self.L}-C{self.C}-K{self.K}-M{self.M}-S{self.S}-D{self.D}"
        )

    @property
    def settings(self) -> dict:
        return {"strides": self.S, "dilation_rate": self.D, "padding": self.padding}

    @property
    def oracle(self) -> dict:
        return {"S": self.S, "D": self.D, "padding": self.padding}

    def arrays(self, dtype=np.float64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Draw x and the depthwise kernel."""
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((self.B, self.L, self.C))
        k = rng.standard_normal((self.K, self.C, self.M))
        return x.astype(dtype), k.astype(dtype)


CASES = (
    Case(2, 11, 3, 4),
    Case(2, 11, 3, 4, M=5),
    Case(2, 12, 3, 5, S=2),
    Case(2, 13, 3, 4, M=2, S=3),
    Case(3, 11, 2, 4, D=3),
    Case(2, 11, 3, 4, padding="valid"),
    Case(2, 13, 4, 3, M=2, S=2, padding="valid"),
    Case(2, 15, 3, 4, M=2, D=2, padding="valid"),
    Case(2, 16, 3, 4, S=3, D=2, padding="valid"),
    Case(2, 9, 3, 4, M=2, padding="causal"),
    Case(2, 10, 3, 4, S=2, padding="causal"),
    Case(2, 10, 3, 4, M=2, D=3, padding="causal"),
    Case(2, 11, 3, 4, M=2, padding=(5, 1)),
    Case(2, 12, 3, 4, S=2, padding=(1, 7)),
    Case(2, 10, 4, 3, S=3, D=2, padding=(9, 8)),
    Case(2, 11, 3, 4, M=2, D=2, padding="circular"),
    Case(2, 12, 3, 5, S=2, padding="reflect"),
    Case(2, 11, 3, 2, M=2, S=4, D=3),
    Case(2, 7, 3, 1, M=2, S=2),
    Case(2, 1, 3, 4, M=2),
    Case(2, 1, 3, 4, padding="causal"),
    Case(2, 3, 4, 7, D=2),
    Case(2, 3, 4, 8, padding="causal"),
    Case(1, 5, 1, 3, S=7),
    Case(0, 5, 3, 4, M=2),
)
