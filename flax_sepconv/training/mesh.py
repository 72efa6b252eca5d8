"""The devices of a run as one mesh, and what is divided over its axes.

- `data` divides the series of a batch.
- `sequence` divides the steps of the series.
- `model` divides the filters of every pointwise kernel, and of what the optimiser and the averages
  hold of it, where their number allows. All else is whole on every device.

The axes are "Auto": XLA divides what lies between, and a step computes what it computes on one
device, statistics of the whole batch included.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flax_sepconv.training.config import Config, MeshConfig, UserError
from flax_sepconv.training.data import WHOLE, Batch, Rows

_AXES = ("data", "sequence", "model")
_BATCH = {"inputs": PartitionSpec("data", "sequence")}  # all else of a batch: by series


class Placement:
    """Where the arrays of a run are; without a mesh on one device, where nothing is done to them.

    Attributes:
      shares: how many devices divide a batch.
      note: what is to be said of it, or "".
    """

    def __init__(self, mesh: Mesh | None = None, note: str = "") -> None:
        self._mesh, self.note = mesh, note
        self.shares = 1 if mesh is None else mesh.shape["data"]

    def _on(self, *axes: Any) -> NamedSharding:
        assert self._mesh is not None
        return NamedSharding(self._mesh, PartitionSpec(*axes))

    def of_state(self, tree: Any) -> Any:
        """Return the shardings of a tree of weights, or of all that a run holds of them."""

        def one(path: Any, leaf: Any) -> NamedSharding:
            assert self._mesh is not None
            name = getattr(path[-1], "key", None) if path else None
            if name == "pointwise_kernel" and leaf.shape[-1] % self._mesh.shape["model"] == 0:
                return self._on(*(None,) * (leaf.ndim - 1), "model")
            return self._on()

        return None if self._mesh is None else jax.tree_util.tree_map_with_path(one, tree)

    def whole(self) -> Any:
        """Return the sharding, or the prefix of a tree of them, of what every device has."""
        return None if self._mesh is None else self._on()

    def jit(self, function: Callable[..., Any], results: Any, donate: Any = ()) -> Any:
        """Return the function, jitted; its results have these shardings."""
        if self._mesh is None:
            return jax.jit(function, donate_argnums=donate)
        return jax.jit(function, out_shardings=results, donate_argnums=donate)

    def put(self, tree: Any) -> Any:
        """Return a tree that every process has, as arrays that are divided as they are to be."""

        def one(leaf: Any, sharding: NamedSharding) -> jax.Array:
            value = np.asarray(leaf)
            return jax.make_array_from_callback(
                value.shape, sharding, lambda index: np.array(value[index])
            )

        return tree if self._mesh is None else jax.tree.map(one, tree, self.of_state(tree))

    def fetch(self, tree: Any) -> Any:
        """Return a tree with all of each of its arrays on the host; all processes call this."""
        if self._mesh is None:
            return tree
        if jax.process_count() > 1:
            tree = jax.jit(lambda t: t, out_shardings=self._on())(tree)
        return jax.tree.map(np.array, tree)

    def rows(self, size: int) -> Rows:
        """Return which rows of a batch of `size` the devices of this process hold."""
        if self._mesh is None or jax.process_count() == 1:
            return WHOLE
        held = self._on("data").addressable_devices_indices_map((size,)).values()
        return np.unique(np.concatenate([np.arange(size)[index] for index in held]))

    def batch(self, part: Batch, size: int) -> Any:
        """Return a batch of `size` as arrays on the devices, from the rows that `rows` tells."""
        if self._mesh is None:
            return part
        shardings = {name: self._on(*_BATCH.get(name, ("data",))) for name in part}
        if jax.process_count() == 1:
            return jax.device_put(part, shardings)
        return {
            name: jax.make_array_from_process_local_data(
                shardings[name], values, (size, *values.shape[1:])
            )
            for name, values in part.items()
        }

    def divide(self, batch: Any) -> Any:
        """Say, inside a jitted function, how a batch is divided."""
        if self._mesh is None:
            return batch
        return {
            name: jax.lax.with_sharding_constraint(values, self._on(*_BATCH.get(name, ("data",))))
            for name, values in batch.items()
        }

    def largest(self) -> Callable[[int], jax.Array]:
        """Return a function of a number of each process; its result is the largest of them."""
        assert self._mesh is not None
        sharding = self._on(_AXES)
        count = len(sharding.addressable_devices)
        largest = jax.jit(lambda numbers: numbers.max(), out_shardings=self._on())
        arrays: dict[int, jax.Array] = {}

        def call(number: int) -> jax.Array:
            if number not in arrays:
                local = np.full(count, number, np.int32)
                arrays[number] = jax.make_array_from_process_local_data(sharding, local)
            result: jax.Array = largest(arrays[number])
            return result

        return call


def _refuse(setting: str, rule: str, value: Any) -> NoReturn:
    raise UserError(f"config.{setting} must {rule}, got {value}")


def _data_size(mesh: MeshConfig, series: int, parts: int, devices: int, processes: int) -> int:
    """Return how many devices divide a batch of `series`, which is taken in `parts`.

    Raises:
      UserError: something does not divide.
    """
    others = mesh.sequence * mesh.model
    if series % parts:
        _refuse("train.accumulation", f"divide the series of a batch, {series}", parts)
    micro = series // parts
    batch = f"the series of a {'micro ' * (parts > 1)}batch, {micro}"
    product = "mesh.sequence * config.mesh.model"
    if mesh.data == -1:
        if devices % others:
            _refuse(product, f"divide the number of devices, {devices}", others)
        for size in range(devices // others, 0, -1):
            if micro % size == 0 and size * others % processes == 0:
                return size
        rule = f"be such that {batch}, can be divided evenly over {processes} processes"
        _refuse("train.batch_size", rule, series)
    product, taken = f"mesh.data * config.{product}", mesh.data * others
    if devices % taken:
        _refuse(product, f"divide the number of devices, {devices}", taken)
    if taken % processes:
        _refuse(product, f"be a multiple of the number of processes, {processes}", taken)
    if micro % mesh.data:
        _refuse("mesh.data", f"divide {batch}", mesh.data)
    return mesh.data


def _take(count: int) -> Sequence[jax.Device]:
    """Return so many devices, of every process as many."""
    each = count // jax.process_count()
    of_processes: dict[int, list[jax.Device]] = {}
    for device in jax.devices():
        of_processes.setdefault(device.process_index, []).append(device)
    for index, found in of_processes.items():
        if len(found) < each:
            raise UserError(f"each process must have {each} devices, process {index} has fewer")
    return [device for _, found in sorted(of_processes.items()) for device in found[:each]]


def place(config: Config, series: int, length: int) -> Placement:
    """Return where a run's arrays go.

    Args:
      config: of the run.
      series: in a batch.
      length: of the padded series.

    Raises:
      UserError: the settings, the batch or the series do not fit the devices that there are.
    """
    mesh, devices = config.mesh, jax.device_count()
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise UserError(
            f"the devices belong to {jax.process_count()} processes, which have not met: "
            "--coordinator, --processes and --process are needed"
        )
    data = _data_size(mesh, series, config.train.accumulation, devices, jax.process_count())
    if length % mesh.sequence:
        rule = f"divide the length of the padded series, {length}"
        _refuse("mesh.sequence", rule, mesh.sequence)
    sizes = (data, mesh.sequence, mesh.model)
    count = math.prod(sizes)
    shape = ", ".join(f"{name} {size}" for name, size in zip(_AXES, sizes, strict=True))
    note = f"mesh: {shape}; {count} of {devices} devices" if devices > 1 else ""
    if mesh.data == -1 and count < devices:
        note += ", for no more of them divide a batch evenly"
    if config.model.width % mesh.model:
        note += (
            f"; config.mesh.model divides no kernel, for these have {config.model.width} filters"
        )
    if count == 1:
        return Placement(None, note)
    kinds = (AxisType.Auto,) * len(_AXES)
    return Placement(Mesh(np.reshape(_take(count), sizes), _AXES, axis_types=kinds), note)
