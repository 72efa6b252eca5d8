"""A training step of a network, divided and compiled for a slice of TPUs; runs in its process."""

import math
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.aot import bundles, compiling, hlo, traffic
from benchmarks.networks.flax_networks import layers, network_of
from benchmarks.networks.quartznet import QuartzNet
from benchmarks.scaling import collectives
from benchmarks.scaling.divisions import reach
from benchmarks.scaling.slices import SLICES
from benchmarks.worker import short

AXIS = "devices"
# Where ours is on a mesh of explicit axes. Flax' own layers, of which some are in the network, need
# automatic ones where weights are divided, and for divided steps.
EXPLICIT = ("data", "sequence")
# With XLA's usual effort one program takes many minutes to compile. With the least it moves as many
# bytes as with "O1", and the time floor is some 13 % longer (data, ours, v5e).
LEVEL = "O0"


def channels(shape: tuple[int, ...]) -> int:
    """Return the axis of a depthwise kernel, (K, C, 1) or (K, 1, C), that counts channels."""
    return 1 if shape[2] == 1 else 2


def _replicated(path: str, shape: tuple[int, ...], devices: int) -> P:
    del path, shape, devices
    return P()


def _by_rows(path: str, shape: tuple[int, ...], devices: int) -> P:
    """Divide kernels by input channels; vectors stay whole."""
    del devices
    if len(shape) == 1:
        return P()
    return _at(channels(shape) if "depthwise" in path else len(shape) - 2)


def _by_filters(path: str, shape: tuple[int, ...], devices: int) -> P:
    """Divide everything by the channels of its result, where they divide."""
    axis = channels(shape) if "depthwise" in path else len(shape) - 1
    return P() if shape[axis] % devices else _at(axis)


def _at(axis: int) -> P:
    return P(*[None] * axis, AXIS)


class Division(NamedTuple):
    """How x and the labels are divided, and how each variable is, by its path and shape."""

    batch: P
    of_variable: Callable[[str, tuple[int, ...], int], P]


DIVISIONS = {
    "data": Division(P(AXIS), _replicated),
    "fsdp": Division(P(AXIS), _by_rows),
    "tensor": Division(P(), _by_filters),
    "sequence": Division(P(None, AXIS), _replicated),
}


def measure(
    target: str, folder: pathlib.Path, network: QuartzNet, dtype: str, candidate: str, name: str
) -> dict[str, Any]:
    """Compile forward and backward of a step and count.

    Args:
        target: a name of `SLICES`.
        folder: where the listings of this process go; it is emptied before.
        network: the description.
        dtype: of the inputs and the weights.
        candidate: a name of `flax_networks.LAYERS`.
        name: a name of `DIVISIONS`.

    Raises:
        NotImplementedError: XLA has no text for what it compiled.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    jax.config.update("jax_optimization_level", LEVEL)
    topology = SLICES[target].topology()
    devices = len(topology.devices)
    is_explicit = candidate == "ours" and name in EXPLICIT
    kind = AxisType.Explicit if is_explicit else AxisType.Auto
    plain = topologies.make_mesh(topology, (devices,), (AXIS,))
    mesh = Mesh(plain.devices, (AXIS,), axis_types=(kind,))
    variables, x, labels = _arguments(network, dtype, DIVISIONS[name], mesh)
    step, results = _step(network, candidate), _results(variables)
    start = time.perf_counter()
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        lowered = jax.jit(step, out_shardings=results).lower(variables, x, labels)
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    try:
        text = str(compiled.as_text())
    except jax.errors.JaxRuntimeError as error:
        raise NotImplementedError(f"XLA does not print the program: {short(error)}") from None
    module = hlo.parse(text)
    operations = traffic.operations(module)
    found = collectives.count(module, operations, devices)
    facts = compiling.sums(SLICES[target].chip, operations, bundles.dumped(folder))
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    link = SLICES[target].link_gigabytes_per_second
    return {
        **facts,
        "axes": "explicit" if is_explicit else "automatic",
        "parameters": parameters,
        "sent": {kind: sent._asdict() for kind, sent in sorted(found.items())},
        "sent_bytes": collectives.total(found),
        "fewest_bytes": fewest(network, name, devices, parameters, jnp.dtype(dtype).itemsize),
        "link_microseconds": 1e-3 * collectives.total(found) / link,
        "temporary_bytes": memory.temp_size_in_bytes if memory else None,
        "compile_seconds": seconds,
    }


def _arguments(
    network: QuartzNet, dtype: str, division: Division, mesh: Mesh
) -> tuple[Any, jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Return variables, inputs and labels as shapes with their shardings."""
    batch = NamedSharding(mesh, division.batch)
    x = jax.ShapeDtypeStruct(network.input_shape(), dtype, sharding=batch)
    labels = jax.ShapeDtypeStruct(network.target_shape(), jnp.int32, sharding=batch)
    shapes = jax.eval_shape(network_of(network).init, jax.random.key(0), x)
    flat = {
        path: jax.ShapeDtypeStruct(
            leaf.shape,
            dtype if path.startswith("params") else leaf.dtype,
            sharding=NamedSharding(mesh, division.of_variable(path, leaf.shape, mesh.size)),
        )
        for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items()
    }
    return traverse_util.unflatten_dict(flat, sep="/"), x, labels


def _step(network: QuartzNet, candidate: str) -> Callable[..., Any]:
    """Return (variables, x, labels) -> the loss, the statistics and the gradients."""

    def step(variables: Any, x: jax.Array, labels: jax.Array) -> Any:
        def loss_of(params: Any) -> Any:
            with layers(candidate):
                logits, updated = network_of(network).apply(
                    variables | {"params": params}, x, train=True, mutable=["batch_stats"]
                )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, updated["batch_stats"]

        return jax.value_and_grad(loss_of, has_aux=True)(variables["params"])

    return step


def _results(variables: Any) -> Any:
    """Divide statistics and gradients as what they are of."""
    own = jax.tree.map(lambda leaf: leaf.sharding, variables)
    return (None, own["batch_stats"]), own["params"]


def fewest(
    network: QuartzNet, name: str, devices: int, parameters: int, itemsize: int
) -> float | None:
    """Return the bytes that a device must receive at least, but for statistics; None: not known."""
    share = (devices - 1) / devices
    sums = 2 * share * itemsize * parameters
    if name == "sequence":
        return sums + itemsize * network.batch * sum(_halos(network))
    return {"data": sums, "fsdp": sums}.get(name)


def _halos(network: QuartzNet) -> Iterator[int]:
    """List what the steps of other devices take in each convolution, times the batch."""
    for name, of in network.layers().items():
        if of.kind == "separable":
            steps = reach(of.kernel_size, of.strides, of.dilation_rate)
            # Nobody asks for the gradient of the network's input.
            is_first = name.startswith("prologue/")
            yield of.channels * (steps + (0 if is_first else steps // of.strides))
