"""Layers of published networks and of users' reports, with their sources in workloads.csv."""

import csv
import pathlib
from typing import Any, NamedTuple

from flax_sepconv import geometry

TABLE = pathlib.Path(__file__).with_name("workloads.csv")

# One layer of each kind: short and long kernels, dilation, stride, multipliers, small and wide.
SELECTION = (
    "quartznet_c1-0",
    "quartznet_b7_9-1",
    "quartznet_c2-0",
    "matchbox_b2-0",
    "citrinet_pro-0",
    "convtasnet-3",
    "conformer_m-0",
    "mamba1-0",
    "lite-0",
    "litemv_japanesevowels-3",
    "eegnet_sep-0",
    "keras_bench-0",
)


class Workload(NamedTuple):
    """One layer; `filters` is None where the source has a depthwise stage alone."""

    name: str
    batch: int
    length: int
    channels: int
    filters: int | None
    kernel_size: int
    strides: int
    dilation_rate: int
    depth_multiplier: int
    padding: str
    source: str

    def within(self, elements: int) -> "Workload":
        """Return the workload with as large a batch as keeps the input within so many elements."""
        fitting = max(elements // (self.length * self.channels), 1)
        return self._replace(batch=min(self.batch, fitting))

    @property
    def steps(self) -> int:
        """The number of output steps."""
        return geometry.output_length(
            self.length, self.kernel_size, self.strides, self.dilation_rate, self.padding
        )

    def __str__(self) -> str:
        shape = f"B{self.batch} L{self.length} C{self.channels} K{self.kernel_size}"
        rest = f" S{self.strides} D{self.dilation_rate} M{self.depth_multiplier} {self.padding}"
        return shape + rest


def load() -> list[Workload]:
    """Read the table; layers of one network are numbered."""
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    seen: dict[str, int] = {}
    workloads = []
    for row in rows:
        number = seen.get(row["name"], 0)
        seen[row["name"]] = number + 1
        values: dict[str, Any] = {"name": f"{row['name']}-{number}"}
        for key in Workload._fields[1:]:
            text = row[key]
            is_size = key not in ("padding", "source")
            values[key] = (int(text) if text else None) if is_size else text
        workloads.append(Workload(**values))
    return workloads
