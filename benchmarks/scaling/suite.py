"""Measure how the layer scales over devices, beside Flax' nn.Conv and nn.Dense.

On CPU, two layers are divided by batch, length, channels and filters over 1, 2, 4 and 8 devices of
one process, and over 1 and 2 processes. Counted are the bytes that each device receives, from the
text of the compiled program and beside the fewest possible, and the temporary memory. Results are
compared with NumPy float64. Then one and two devices (which share all cores) and one and two
processes (a core each) are timed in turn: twice as many are worth 1 and 2 at best.

For slices of 8 TPUs, which need not be there, a training step of QuartzNet is compiled, forward and
backward in bfloat16: bytes between the chips, the time floor of one chip's program (see `aot`), and
how long one link takes for the bytes.
"""

import argparse
import contextlib
import dataclasses
import itertools
import os
import pathlib
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from benchmarks import flags, machine
from benchmarks.aot.suite import Opened
from benchmarks.networks.flax_networks import LAYERS
from benchmarks.networks.quartznet import QuartzNet
from benchmarks.scaling import collectives, cpu, network, picture, report
from benchmarks.scaling.divisions import EXPLICIT
from benchmarks.scaling.slices import SLICES
from benchmarks.scaling.teams import Setting
from benchmarks.worker import Declined, NoAnswerError, Worker

CPU = "cpu"
# A clip of 16 seconds for each device, or 100 frames: more than the widest kernel reaches.
NETWORK = QuartzNet(batch=8, length=1600)
DTYPE = "bfloat16"
# `--check` wants ours divided by length within so many times the fewest bytes.
ALLOWED = 1.1

Record = dict[str, Any]


def on_cpu(arguments: argparse.Namespace) -> Record:
    """Count and time on CPU devices, print, write and draw."""
    if busy := machine.busy():
        print(busy)
    rows: list[cpu.Row] = []
    record = {
        **machine.facts("flax-sepconv", "jax", "jaxlib", "flax"),
        "dtype": "float32",
        "rule": collectives.RULE,
        "rows": rows,
    }
    path = arguments.output / "scaling_cpu.json"
    with machine.kept(path, record, cpu.count_rows(cpu.LAYERS)):
        cpu.measure(cpu.LAYERS, arguments.seconds, rows)
    print(report.CPU_HEAD)
    for _, group in itertools.groupby(
        rows, lambda row: (row["workload"], row["kind"], row["number"])
    ):
        print(report.setting(list(group)))
    picture.draw(record, path.with_suffix(".png"))
    return record


def begin(name: str, described: QuartzNet) -> Record:
    """Make the record of a slice, with no rows yet."""
    which = SLICES[name]
    return {
        "target": name,
        "compiled, not run": True,
        "title": which.title,
        **which._asdict(),
        **machine.facts("flax-sepconv", "jax", "jaxlib", "flax", *which.packages),
        "network": f"QuartzNet-{len(described.filters)}x{described.repeats}",
        "sizes": dataclasses.asdict(described),
        "dtype": DTYPE,
        "optimization level": network.LEVEL,
        "rule": collectives.RULE,
        "rows": [],
    }


def on_slice(record: Record, described: QuartzNet, arguments: Any, opened: Opened) -> None:
    """Compile all divisions for a slice; the record is written after every one."""
    name = record["target"]
    folder = pathlib.Path(opened.enter(tempfile.TemporaryDirectory))

    def start() -> Worker:
        return opened.enter(Worker, name, SLICES[name].environment(folder), arguments.patience)

    worker = start()
    task = "benchmarks.scaling.network:measure"
    for division in network.DIVISIONS:
        facts = {}
        for candidate in LAYERS:
            try:
                facts[candidate] = worker.call(
                    task, name, folder, described, DTYPE, candidate, division
                )
            except Declined as reason:
                facts[candidate] = {"declined": str(reason)}
            except NoAnswerError as late:
                facts[candidate] = {"declined": late.reason}
                worker.stop()
                worker = start()
        row = {"division": division, "candidates": facts}
        record["rows"].append(row)
        machine.save(arguments.output / f"scaling_{name}.json", record)
        print(report.step(name, row), flush=True)


def on_slices(names: list[str], arguments: argparse.Namespace) -> None:
    """Compile for slices, as many at a time as there are cores."""
    described = dataclasses.replace(NETWORK, repeats=arguments.repeats)
    records = [begin(name, described) for name in names]
    first = records[0]
    B, L, C = described.input_shape()
    print(f"{first['network']} B{B} L{L} C{C} {DTYPE}, forward and backward, compiled and not run")
    print(report.SLICE_HEAD)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
        # Workers end before the pool does: no thread waits for an answer that is not wanted.
        opened = stack.enter_context(contextlib.closing(Opened()))
        runs = [pool.submit(on_slice, record, described, arguments, opened) for record in records]
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        for finished in as_completed(runs):
            finished.result()


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the flags; unusable ones end the program before anything is measured."""
    parser = flags.Parser(
        prog="python -m benchmarks scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = [CPU, *SLICES]
    parser.add_argument("--targets", default=CPU, help=f"of {','.join(known)} (%(default)s)")
    flags.add_seconds(parser, 0.2, "for one program on CPU")
    parser.add_argument(
        "--repeats",
        type=int,
        default=1,
        help="convolutions in each block of QuartzNet; the published network has 3 (%(default)s)",
    )
    parser.add_argument(
        "--patience", type=float, default=300, help="seconds to compile a step (%(default)s)"
    )
    flags.add_output(parser, "scaling")
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit with 1 where ours, divided by length on CPU, takes over "
        f"{ALLOWED} times the fewest bytes",
    )
    arguments = parser.parse_args(argv)
    arguments.targets = flags.named(parser, "--targets", arguments.targets, known)
    for name in ("seconds", "patience", "repeats"):
        if not getattr(arguments, name) > 0:
            parser.error(f"--{name}: must be positive, got {getattr(arguments, name)}")
    if arguments.check and CPU not in arguments.targets:
        parser.error("--check: --targets must have cpu")
    _, absent = machine.present({name: SLICES[name] for name in arguments.targets if name != CPU})
    for name, reason in absent.items():
        parser.error(f"--targets: {name}: {reason} (pip install 'flax-sepconv[aot]')")
    for name in arguments.targets:
        flags.check_writable(parser, arguments.output / f"scaling_{name}.json.part")
    return arguments


def main(argv: list[str]) -> None:
    """Parse the flags, measure, print, write, draw and check."""
    arguments = parse(argv)
    if slices := [name for name in arguments.targets if name != CPU]:
        on_slices(slices, arguments)
    if CPU in arguments.targets:
        record = on_cpu(arguments)
        behind = excess(record["rows"])
        if arguments.check and behind:
            print(f"over {ALLOWED} times the fewest bytes:", *behind, sep="\n")
            raise SystemExit(1)


def excess(rows: list[cpu.Row]) -> list[str]:
    """Name the rows where ours, divided by length, receives more than is allowed.

    On automatic axes batch and length together are left out: XLA sums the gradient of the pointwise
    kernel over one axis after the other there.
    """
    return [
        f"{row['shape']}, {Setting(row['kind'], row['number'])}, {row['division']}, "
        f"{row['program']}, {name}: {over:.2f}"
        for row in rows
        for name in sorted({EXPLICIT, "selected"} & {*row["candidates"]})
        if row["division"] in ("sequence", *(["data+sequence"] if name == EXPLICIT else []))
        and (over := cpu.over_fewest(row, name)) is not None
        and over > ALLOWED
    ]
