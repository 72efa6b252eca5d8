"""Time the layer on the accelerator that is there: ours by each lowering, stock Flax and PyTorch.

JAX and PyTorch run in a process each, on the same device, in turn. Every program is compared with
NumPy float64 before it is timed; then calls are started in a row, each into the memory of the
results of the call before, and waited for at their end. Reported are medians over visits in turn,
the bytes that any program must move and the operations of both stages per second, and what part
of the device's own rates that is: of a large copy and a large matmul in the same dtype, measured
in the same run. A time that the host needs to start a call, rather than the device for the call,
is marked with a star.
"""

import argparse
import contextlib
import functools
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tqdm import tqdm

from benchmarks import flags, machine, summary, timing, workloads
from benchmarks.candidates import CANDIDATES, SUITE
from benchmarks.device import ceilings, picture, report, sampling
from benchmarks.peers import PEERS, Peer
from benchmarks.worker import Declined, Worker

PLUGINS = ("libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin")
CEILING_SECONDS = 1.0

Case = tuple[workloads.Workload, str, str]


class Framework(NamedTuple):
    """A framework's process, the module with its tasks, and what it is asked for."""

    worker: Worker
    module: str
    names: list[str]

    def call(self, task: str, *arguments: Any) -> Any:
        """Call a function of the module in the process."""
        return self.worker.call(f"benchmarks.device.{self.module}:{task}", *arguments)

    def load(self, *arguments: Any) -> dict[str, dict[str, Any]]:
        """Build the programs, and return the facts of each, which may be that it is declined."""
        task = f"benchmarks.device.{self.module}:build"
        try:
            return self.worker.load(task, *arguments, self.names)
        except Declined as reason:
            return {name: {"declined": str(reason)} for name in self.names}


def environment(platform: str | None) -> dict[str, str]:
    """Return what shows the device to a worker, and lets frameworks share its memory."""
    if platform == "cpu":
        return {}
    return {
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", ""),
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0"),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


def measure(
    case: Case,
    frameworks: Iterable[Framework],
    platform: str,
    seconds: float,
    rates: Mapping[str, Any],
) -> dict[str, Any]:
    """Build, compare and time one program of one workload; the record of all candidates."""
    workload, dtype, program = case
    facts: dict[str, Any] = {}
    clocks = {}
    for framework in frameworks:
        loaded = framework.load(platform, workload, dtype, program)
        facts |= loaded
        for name in loaded:
            if "declined" not in loaded[name]:
                facts[name]["imprecise"] = compare(case, platform, name, framework.worker)
                clocks[name] = functools.partial(framework.worker.times, name)
    samples = timing.interleaved(clocks, seconds)
    for framework in frameworks:
        framework.worker.drop()
    for name, values in samples.items():
        each = timing.statistics_of([value / facts[name]["calls"] for value in values])
        rate = ceilings.achieved(workload, dtype, program, each["milliseconds"], rates[dtype])
        facts[name] |= {**each, **rate}
    return {
        "workload": workload.name,
        "shape": str(workload),
        "dtype": dtype,
        "program": program,
        "candidates": facts,
    }


def compare(case: Case, platform: str, name: str, worker: Worker) -> list[str]:
    """End the run where a program's numbers are not the layer's.

    But others may add up their bias' gradient in a narrow dtype, which for many positions loses
    more than its rounding: that is returned, to be told beside their times.
    """
    workload, dtype, program = case
    found = sampling.mistakes(workload, dtype, platform, worker.numbers(name))
    narrow = dtype != "float32" and name in (*report.STOCK, *report.TORCH)
    imprecise = [each for each in found if narrow and each.startswith("d_bias is off")]
    if wrong := [each for each in found if each not in imprecise]:
        raise SystemExit(f"{workload.name}, {dtype}: {name}, {program}: {'; '.join(wrong)}")
    return imprecise


def run(
    cases: list[Case], frameworks: list[Framework], record: dict[str, Any], seconds: float
) -> Iterator[dict[str, Any]]:
    """Measure the device's rates, then case after case, and print as they come."""
    platform, worker = record["platform"], frameworks[0].worker
    for dtype in sorted({dtype for _, dtype, _ in cases}):
        rates = ceilings.measure(worker, platform, dtype, CEILING_SECONDS)
        record["ceilings"][dtype] = rates
        print(report.ceilings(dtype, rates), flush=True)
    with tqdm(cases, file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        for case in bar:
            bar.set_postfix_str(f"{case[0].name} {case[1]}")
            row = measure(case, frameworks, platform, seconds, record["ceilings"])
            tqdm.write(report.row(row))
            yield row


def parse(
    parser: flags.Parser, argv: list[str]
) -> tuple[argparse.Namespace, list[workloads.Workload]]:
    """Read the flags; unusable ones end the program before anything is started."""
    known = (*CANDIDATES, *report.TORCH)
    names = functools.partial(parser.add_argument, default="")
    names("--candidates", help=f"of {','.join(known)} (all that there are; selected always)")
    names("--dtypes", help=f"of {','.join(sampling.DTYPES)} (all)")
    names("--programs", help=f"of {','.join(summary.PROGRAMS)} (all)")
    parser.add_argument(
        "--platform",
        choices=("gpu", "tpu", "cpu"),
        help="(the accelerator that jax finds); cpu is for trying the program",
    )
    flags.add_seconds(parser, 0.25, "for one program of one candidate")
    flags.add_output(parser, "device.json")
    arguments = parser.parse_args(argv)
    arguments.asked = arguments.candidates
    arguments.candidates = flags.named(parser, "--candidates", arguments.candidates, known)
    arguments.dtypes = flags.named(parser, "--dtypes", arguments.dtypes, sampling.DTYPES)
    arguments.programs = flags.named(parser, "--programs", arguments.programs, summary.PROGRAMS)
    chosen = flags.chosen(parser, arguments, SUITE, elements=None)
    chosen = [workload for workload in chosen if workload.filters]
    if not chosen:
        parser.error(f"--filter: {arguments.filter!r} finds only layers without a pointwise stage")
    flags.check(parser, arguments)
    return arguments, chosen


def start(
    parser: flags.Parser, arguments: argparse.Namespace, stack: contextlib.ExitStack
) -> tuple[list[Framework], dict[str, Any]]:
    """Start a process for each framework, and tell what they run on and who is absent."""
    shown = environment(arguments.platform)
    names = [name for name in CANDIDATES if name in ("selected", *arguments.candidates)]
    jax = Framework(stack.enter_context(Worker("jax", shown)), "in_jax", names)
    try:
        device = jax.call("describe", arguments.platform)
    except Declined as reason:
        parser.error(str(reason))
    peers = {name: PEERS[name] for name in report.TORCH if name in arguments.candidates}
    present, absent = machine.present(peers)
    frameworks = [jax]
    if present:
        torch = Framework(stack.enter_context(Worker("torch", shown)), "in_torch", present)
        try:
            device |= torch.call("describe", device["platform"])
            frameworks.append(torch)
        except Declined as reason:
            absent |= dict.fromkeys(present, str(reason))
    missing = "; ".join(f"{name}: {reason}" for name, reason in absent.items())
    if absent and arguments.asked:
        parser.error(f"--candidates: {missing}")
    if absent:
        print(f"left out: {missing}")
    return frameworks, {**device, "absent": absent}


def begin(frameworks: list[Framework], device: dict[str, Any]) -> dict[str, Any]:
    """Make the record of a run, with no rows yet."""
    plugins, _ = machine.present({name: Peer(name, (name,)) for name in PLUGINS})
    torch = ["torch"] if len(frameworks) > 1 else []
    packages = (*PEERS["ours"].packages, *plugins, *torch)
    return {**device, **machine.facts(*packages), "ceilings": {}, "rows": [], "complete": False}


def main(argv: list[str]) -> None:
    """Measure, print, write and draw; the record is written after every row."""
    parser = flags.parser("device", __doc__)
    arguments, chosen = parse(parser, argv)
    cases = list(itertools.product(chosen, arguments.dtypes, arguments.programs))
    with contextlib.ExitStack() as stack:
        frameworks, device = start(parser, arguments, stack)
        record = begin(frameworks, device)
        print(f"{record['device']} ({record['platform']})")
        try:
            for row in run(cases, frameworks, record, arguments.seconds):
                record["rows"].append(row)
                record["complete"] = len(record["rows"]) == len(cases)
                machine.save(arguments.output, record)
        finally:  # What was measured before an end that nobody planned is kept.
            if record["rows"]:
                print(report.table(record["rows"]))
                machine.write(arguments.output, record)
                picture.draw(record, arguments.output.with_suffix(".png"))
