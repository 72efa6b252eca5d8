"""Ways to divide a layer over devices, and the fewest bytes that each lets a device receive."""

from collections.abc import Mapping
from typing import NamedTuple

from jax.sharding import PartitionSpec as P

from benchmarks.case import Operands, shapes
from benchmarks.workloads import Workload

Axes = tuple[str, ...]


class Division(NamedTuple):
    """How the operands of the layer are divided; results are divided as what they belong to.

    Attributes:
        title: what is divided.
        axes: of the mesh. Of two, the first has 2 devices and the second the rest.
        specs: of the operands; that of dy is that of y too.
    """

    title: str
    axes: Axes
    specs: Operands[P]

    def sizes(self, devices: int) -> tuple[int, ...]:
        """Return the shape of the mesh."""
        return (devices,) if len(self.axes) == 1 else (2, devices // 2)

    def fits(self, workload: Workload, devices: int) -> bool:
        """Tell whether each device gets as much as every other."""
        if devices < 2 ** len(self.axes):
            return False
        sizes = dict(zip(self.axes, self.sizes(devices), strict=True))
        return all(
            size % sizes[axis] == 0
            for shape, spec in zip(shapes(workload), self.specs, strict=True)
            for size, axis in zip(shape, spec, strict=False)
            if axis is not None
        )


_BATCH, _LENGTH, _LANES = P("data"), P(None, "sequence"), P(None, None, "tensor")
DIVISIONS = {
    "data": Division("batch", ("data",), Operands(_BATCH, P(), P(), P(), _BATCH)),
    "sequence": Division("length", ("sequence",), Operands(_LENGTH, P(), P(), P(), _LENGTH)),
    "data+sequence": Division(
        "batch by 2, and length",
        ("data", "sequence"),
        Operands(P("data", "sequence"), P(), P(), P(), P("data", "sequence")),
    ),
    "tensor filters": Division(
        "pointwise kernel by filters", ("tensor",), Operands(P(), P(), _LANES, P("tensor"), _LANES)
    ),
    "tensor rows": Division(
        "pointwise kernel by rows, depthwise kernel and input by channels",
        ("tensor",),
        Operands(_LANES, P(None, "tensor"), P(None, "tensor"), P(), P()),
    ),
    "fsdp": Division(
        "batch, and both kernels by channels",
        ("data",),
        Operands(_BATCH, P(None, "data"), P(None, "data"), P(), _BATCH),
    ),
}
# The candidate that is ours on a mesh of explicit axes, JAX's default; all others are on meshes of
# automatic axes, where XLA divides as it likes what nobody says.
EXPLICIT = "explicit"
# One device: nothing is divided.
WHOLE = "whole"
_NOTHING = Division("nothing", ("data",), Operands(P(), P(), P(), P(), P()))


def named(name: str) -> Division:
    """Return a division, or the one of one device."""
    return _NOTHING if name == WHOLE else DIVISIONS[name]


def fewest(workload: Workload, name: str, devices: int, program: str, itemsize: int) -> float:
    """Return the bytes that a device must receive at least, counted as `collectives` does.

    A depthwise kernel that is not divided counts with a multiplier of 1 only.
    """
    if name == WHOLE:
        return 0.0
    w, backward = workload, program == "forward_backward"
    division = DIVISIONS[name]
    sizes: Mapping[str, int] = dict(zip(division.axes, division.sizes(devices), strict=True))
    share = (devices - 1) / devices
    kernels = w.kernel_size * w.joined + w.joined * w.filters
    if name == "tensor filters":
        # h, or x, has a part of its gradient on each device.
        elements = 2 * share * w.batch * w.length * w.channels if backward else 0.0
    elif name == "tensor rows":
        elements = 2 * share * w.batch * w.steps * w.filters
    elif name == "fsdp":
        elements = share * kernels * (2 if backward else 1)
        elements += 2 * share * w.filters if backward else 0
    else:
        elements = 2 * share * (kernels + w.filters) if backward else 0.0
        if sizes.get("sequence", 1) > 1:
            halo = reach(w.kernel_size, w.strides, w.dilation_rate)
            rows = w.batch // sizes.get("data", 1)
            elements += halo * rows * w.channels
            elements += halo // w.strides * rows * w.joined if backward else 0
    return itemsize * elements


def reach(kernel_size: int, strides: int, dilation_rate: int) -> int:
    """Return how many input steps of its neighbours a device needs for its output steps."""
    return max(dilation_rate * (kernel_size - 1) + 1 - strides, 0)
