"""Time the training of whole networks: forward, loss, backward and Adam's update.

LITE, QuartzNet, Conformer and Conv-TasNet are built four times: in Flax as in `examples/`, the same
with nn.Conv(feature_group_count=C) and nn.Dense in place of this package's layers, in Keras on
TensorFlow (one tf.function), and in PyTorch (eager). Each is a process of its own. Before anything
is timed they must train equally many parameters, give the same outputs from equal weights, and have
the same losses before and after an update. The times are medians of samples taken in turn.
"""

import argparse
import contextlib
import functools
import math
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks import flags, machine, timing
from benchmarks.networks import picture
from benchmarks.networks.conformer import Conformer
from benchmarks.networks.conv_tasnet import ConvTasNet
from benchmarks.networks.description import Description
from benchmarks.networks.lite import Lite
from benchmarks.networks.quartznet import QuartzNet
from benchmarks.worker import Worker

NETWORKS: dict[str, Description] = {
    "lite": Lite(),
    "quartznet": QuartzNet(),
    "conformer": Conformer(),
    "conv_tasnet": ConvTasNet(),
}


class Version(NamedTuple):
    """One way to build every network: its task is `module:build`, called with `arguments`."""

    title: str
    packages: tuple[str, ...]
    module: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}


IN_JAX = ("jax", "jaxlib", "flax", "optax")
VERSIONS = {
    "ours": Version("flax_sepconv", ("flax-sepconv", *IN_JAX), "flax_networks", ("ours",)),
    "flax_stock": Version("Flax nn.Conv + nn.Dense", IN_JAX, "flax_networks", ("stock",)),
    "keras_tf": Version(
        "Keras 3 on TensorFlow",
        ("keras", "tensorflow"),
        "keras_networks",
        environment={"KERAS_BACKEND": "tensorflow"},
    ),
    "torch": Version("PyTorch", ("torch",), "torch_networks"),
}

# Parts of the largest output, and of what the update takes from the loss: Adam's first update is
# hardly more than the gradient's sign, which for the smallest gradients is rounding.
OUTPUTS_TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-2


class Start(NamedTuple):
    """The first two steps of a version."""

    facts: dict[str, Any]
    outputs: np.ndarray
    losses: tuple[float, float]
    first_step_seconds: float


def start(worker: Worker, version: Version, network: Description) -> Start:
    """Build a network in its worker and take two steps, of which the first compiles."""
    task = f"benchmarks.networks.{version.module}:build"
    facts = worker.load(task, network, *version.arguments)["step"]
    begin = time.perf_counter()
    first = worker.numbers("step")
    seconds = time.perf_counter() - begin
    second = worker.numbers("step")
    losses = float(first["loss"]), float(second["loss"])
    return Start(facts, first["outputs"], losses, seconds)


def compare(network: str, starts: Mapping[str, Start]) -> None:
    """End the run where a version is another network than ours, or learns otherwise."""
    ours = starts["ours"]
    for name, other in starts.items():
        label = f"{network}: {name}"
        counts = other.facts["parameters"], ours.facts["parameters"]
        if counts[0] != counts[1]:
            raise SystemExit(f"{label} trains {counts[0]} numbers, not {counts[1]}")
        off = np.abs(other.outputs - ours.outputs).max() / np.abs(ours.outputs).max()
        if not off <= OUTPUTS_TOLERANCE:
            raise SystemExit(f"{label}: its outputs are off by {off:.1e}")
        off = np.abs(np.subtract(other.losses, ours.losses)).max() / abs(np.subtract(*ours.losses))
        if not off <= LOSS_TOLERANCE:
            raise SystemExit(f"{label}: its losses are {other.losses}, not {ours.losses}")


def megabytes(worker: Worker) -> float | None:
    """Return the most memory that a step holds beside the network's state, where known."""
    value = worker.numbers("peak")["megabytes"].item()
    return None if math.isnan(value) else value


def measure(
    name: str, versions: list[str], seconds: float, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Compare the versions of a network, then time them; the record of all."""
    network = NETWORKS[name]
    with contextlib.ExitStack() as stack:
        workers = {
            version: stack.enter_context(
                Worker(version, {**VERSIONS[version].environment, **environment})
            )
            for version in versions
        }
        bar = tqdm(workers.items(), f"{name}: build", disable=not sys.stderr.isatty())
        starts = {version: start(worker, VERSIONS[version], network) for version, worker in bar}
        compare(name, starts)
        clocks = {
            version: functools.partial(worker.times, "step") for version, worker in workers.items()
        }
        samples = timing.interleaved(clocks, seconds)
        memory = {version: megabytes(worker) for version, worker in workers.items()}
    facts = {}
    for version, values in samples.items():
        facts[version] = {
            **starts[version].facts,
            **timing.statistics_of(values),
            "first_step_seconds": starts[version].first_step_seconds,
            "step_megabytes": memory[version],
            "losses": starts[version].losses,
        }
    sizes = zip("BLC", network.input_shape(), strict=False)  # a waveform has no channels
    return {
        "network": name,
        "title": network.title,
        "shape": " ".join(f"{letter}{size}" for letter, size in sizes),
        "versions": facts,
    }


def show(row: dict[str, Any]) -> str:
    """Return the table of one network."""
    ours = row["versions"]["ours"]
    head = f"{row['title']} {row['shape']}, {ours['parameters']:,} parameters"
    lines = [f"{head:50}{'ms/step':>10}{'x ours':>8}{'first step, s':>15}{'step, MB':>10}"]
    for name, facts in row["versions"].items():
        ratio = facts["milliseconds"] / ours["milliseconds"]
        memory = "-" if facts["step_megabytes"] is None else f"{facts['step_megabytes']:.0f}"
        lines.append(
            f"  {VERSIONS[name].title:48}{facts['milliseconds']:10.1f}{ratio:8.2f}"
            f"{facts['first_step_seconds']:15.1f}{memory:>10}"
        )
    return "\n".join([*lines, f"  ours takes {ours['selection']}", ""])


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the flags; unusable ones end the program before anything is measured."""
    parser = flags.Parser(
        prog="python -m benchmarks networks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--filter", default="", help=f"only those of {', '.join(NETWORKS)}")
    flags.add_seconds(parser, 20, "for one version of a network")
    flags.add_memory(parser)
    flags.add_output(parser, "networks.json")
    arguments = parser.parse_args(argv)
    if not any(arguments.filter in name for name in NETWORKS):
        parser.error(f"--filter: no name of {', '.join(NETWORKS)} contains {arguments.filter!r}")
    flags.check(parser, arguments)
    return arguments


def main(argv: list[str]) -> None:
    """Parse the flags, measure, print, write and draw."""
    arguments = parse(argv)
    versions, absent = machine.present(VERSIONS)
    for name, reason in absent.items():
        print(f"left out: {VERSIONS[name].title}, {reason}")
    if busy := machine.busy():
        print(busy)
    packages = {package for name in versions for package in VERSIONS[name].packages}
    record: dict[str, Any] = {
        **machine.facts(*sorted(packages)),
        "absent": absent,
        "memory": arguments.memory,
        "rows": [],
    }
    try:
        for name in NETWORKS:
            if arguments.filter in name:
                row = measure(
                    name, versions, arguments.seconds, flags.memory_environment(arguments)
                )
                record["rows"].append(row)
                print(show(record["rows"][-1]), flush=True)
    finally:  # What was measured before an end that nobody planned is kept.
        if record["rows"]:
            record["load_average_after"] = machine.load_average()
            machine.write(arguments.output, record)
            titles = {name: VERSIONS[name].title for name in versions}
            picture.draw(record, titles, arguments.output.with_suffix(".png"))
