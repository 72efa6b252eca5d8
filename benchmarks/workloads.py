"""Layers of published networks and of users' reports, with their sources in workloads.csv."""

import csv
import pathlib
from typing import NamedTuple

from flax_sepconv.ops import geometry
from flax_sepconv.ops.arguments import choice
from flax_sepconv.ops.geometry import PADDINGS, ZeroPadding

TABLE = pathlib.Path(__file__).with_name("workloads.csv")

# Inputs are kept within so many elements by cutting the batch (8 MiB in float32).
ELEMENTS = 2**21

# One layer of each kind: short and long kernels, dilation, stride, multipliers, small and wide.
SELECTION = (
    "conformer_k31-0",
    "mamba1_k4-0",
    "jax13800_k5-0",
    "quartznet_b7_9-0",
    "convtasnet-3",
    "matchbox_b2-0",
    "lite-1",
    "lite-0",
    "quartznet_c1-0",
    "quartznet_c2-0",
    "litemv_basicmotions-0",
    "litemv_japanesevowels-3",
    "eegnet_sep-0",
    "keras_bench-0",
)


class Workload(NamedTuple):
    """One layer.

    `filters` is 0 where the source has a depthwise stage alone; `cpu_batch` is 0 where the size of
    the input decides the batch to measure with.
    """

    name: str
    batch: int
    length: int
    channels: int
    filters: int
    kernel_size: int
    strides: int
    dilation_rate: int
    depth_multiplier: int
    padding: ZeroPadding
    cpu_batch: int
    source: str

    @property
    def joined(self) -> int:
        """C*M, the channels between the two stages."""
        return self.channels * self.depth_multiplier

    @property
    def steps(self) -> int:
        """The number of output steps."""
        return self._geometry.output_length

    @property
    def pads(self) -> tuple[int, int]:
        """The zeros before the first and after the last input step."""
        return self._geometry.pad_low, max(self._geometry.pad_high, 0)

    @property
    def _geometry(self) -> geometry.Geometry:
        return geometry.resolve(
            self.length, self.kernel_size, self.strides, self.dilation_rate, self.padding
        )

    def within(self, elements: int) -> "Workload":
        """Return the workload with the batch to measure with on a small machine.

        That is `cpu_batch` where it is given, else as much as keeps the input within so many
        elements.
        """
        fitting = self.cpu_batch or max(elements // (self.length * self.channels), 1)
        return self._replace(batch=min(self.batch, fitting))

    def __str__(self) -> str:
        filters = f"->{self.filters}" if self.filters else ""
        shape = f"B{self.batch} L{self.length} C{self.channels}{filters} K{self.kernel_size}"
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
        texts = ("name", "padding", "source")
        sizes = {key: int(row[key] or 0) for key in Workload._fields if key not in texts}
        workloads.append(
            Workload(
                name=f"{row['name']}-{number}",
                padding=choice("padding", row["padding"], PADDINGS),
                source=row["source"],
                **sizes,
            )
        )
    return workloads
