"""What the data of a run were, so that it is not continued with others."""

import dataclasses
import hashlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a file of a data set holds: its counts, and digests of all labels and all numbers."""

    series: int
    channels: int
    longest: int
    labels: str
    values: str

    @classmethod
    def of(cls, series: list[np.ndarray], labels: list[str]) -> "Contents":
        """Describe series (L, C) and their labels."""
        values = hashlib.sha256()
        for one in series:
            values.update(f"{one.shape}\n".encode())
            values.update(one.astype("<f8").tobytes())
        names = hashlib.sha256("\n".join(labels).encode())
        longest = max(map(len, series))
        return cls(len(series), series[0].shape[1], longest, names.hexdigest(), values.hexdigest())

    def differences(self, now: "Contents", file: str) -> list[str]:
        """Say what of a file is not as it was."""
        counts = [
            f"{file}: {name} was {then} and is now {getattr(now, name)}"
            for name in ("series", "channels", "longest")
            if (then := getattr(self, name)) != getattr(now, name)
        ]
        other = [name for name in ("labels", "values") if getattr(self, name) != getattr(now, name)]
        return counts or ([f"{file}: other {' and '.join(other)} than before"] if other else [])
