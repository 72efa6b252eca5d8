"""Slices of TPUs that need not be there.

The rate of a link is the published interconnect bandwidth of a chip over its ports (4 or 6), in one
direction. What is sent over it is told as a time of its own and is not part of the floor: a ring
that uses one link takes about so long, and the compiler may use more of them, or overlap.
"""

import pathlib
from typing import Any, NamedTuple

from benchmarks.aot.targets import TARGETS


class Slice(NamedTuple):
    """Chips of a kind of `aot.targets.TARGETS`; `shape` and `accelerator` are libtpu's names."""

    chip: str
    shape: str
    accelerator: str
    link_gigabytes_per_second: float

    @property
    def packages(self) -> tuple[str, ...]:
        """The distributions that hold the compiler, beside jax."""
        return TARGETS[self.chip].packages

    @property
    def title(self) -> str:
        """What it is."""
        return f"{TARGETS[self.chip].title}, {self.shape.partition(':')[2]}"

    def environment(self, folder: pathlib.Path) -> dict[str, str]:
        """Return what must be set before jax is imported; listings go to the folder."""
        return TARGETS[self.chip]._replace(accelerator=self.accelerator).environment(folder)

    def topology(self) -> Any:
        """Return the devices to compile for; in a process with this environment."""
        from jax.experimental import topologies

        return topologies.get_topology_desc(platform="tpu", topology_name=self.shape)


SLICES = {
    "v5e": Slice("v5e", "v5e:2x4", "v5litepod-8", 50),
    "v5p": Slice("v5p", "v5p:2x2x2", "v5p-16", 100),
}
