"""Time the whole layer, ours and its peers in other frameworks, forward and with all gradients.

Each framework runs in a process of its own; their results are compared with NumPy float64 before
anything is timed, then all are asked in turn until everyone's seconds are spent. Medians, ratios,
compile times and the memory of the executables go into a table, a JSON file, and a picture beside
it. The rates of the machine are measured in the same run.
"""

import contextlib
import functools
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from tqdm import tqdm

from benchmarks import flags, machine, picture, reference, report, roofline, summary, timing
from benchmarks.case import Case
from benchmarks.peers import PEERS, floor
from benchmarks.worker import Declined, Worker
from benchmarks.workloads import Workload

Facts = dict[str, dict[str, Any]]


def measure(workload: Workload, workers: Mapping[str, Worker], seconds: float) -> dict[str, Any]:
    """Build, compare and time one workload; the record of every peer and program."""
    facts, declined = load(workload, workers)
    compare(workload, {name: workers[name] for name in facts}, facts)
    clocks = {
        (program, name): functools.partial(workers[name].times, program)
        for program in summary.PROGRAMS
        for name in facts
        if program in facts[name]
    }
    samples = timing.interleaved(clocks, seconds)
    for worker in workers.values():
        worker.drop()
    for (program, name), values in samples.items():
        facts[name][program] |= timing.statistics_of(values)
    return {
        "workload": workload.name,
        "shape": str(workload),
        "source": workload.source,
        "peers": facts,
        "declined": declined,
    }


def load(
    workload: Workload, workers: Mapping[str, Worker]
) -> tuple[dict[str, Facts], dict[str, str]]:
    """Build the programs of all peers, one after the other; their facts, and who declined why."""
    facts: dict[str, Facts] = {}
    declined: dict[str, str] = {}
    for name, worker in workers.items():
        try:
            facts[name] = worker.load(f"benchmarks.peers.{name}:build", workload)
        except Declined as reason:
            declined[name] = str(reason)
    return facts, declined


def compare(workload: Workload, workers: Mapping[str, Worker], facts: Mapping[str, Facts]) -> None:
    """End the run where a peer's numbers are not the layer's; what it lacks it is not asked for."""
    layer = reference.layer(workload, Case(workload).operands())
    matmuls = reference.floor(floor.operands(workload))
    for name, worker in workers.items():
        expected = matmuls if name == "floor" else layer
        for program in facts[name]:
            found = reference.mistakes(workload, worker.numbers(program), expected)
            if found:
                raise SystemExit(f"{workload.name}: {name}, {program}: {'; '.join(found)}")


def run(
    chosen: list[Workload],
    names: list[str],
    seconds: float,
    rates: dict[str, Any],
    environment: Mapping[str, str],
) -> Iterator[dict[str, Any]]:
    """Measure workload after workload, with all workers alive, and print as they come."""
    with contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(name, {**PEERS[name].environment, **environment}))
            for name in names
        }
        bar = stack.enter_context(tqdm(chosen, file=sys.stderr, disable=not sys.stderr.isatty()))
        for workload in bar:
            bar.set_postfix_str(workload.name)
            row = measure(workload, workers, seconds)
            row["roofline"] = roofline.bounds(workload, rates)
            tqdm.write(report.row(row, names))
            yield row


def main(argv: list[str]) -> None:
    """Parse the flags, measure, print, and write."""
    parser = flags.parser("layers", __doc__)
    flags.add_memory(parser)
    flags.add_seconds(parser, 0.25, "for one program of one peer")
    flags.add_output(parser, "layers.json")
    parser.add_argument("--peers", default="", help=f"of {','.join(PEERS)} (all; ours always)")
    arguments = parser.parse_args(argv)
    chosen = [workload for workload in flags.chosen(parser, arguments) if workload.filters]
    if not chosen:
        parser.error(f"--filter: {arguments.filter!r} finds only layers without a pointwise stage")
    flags.check(parser, arguments)
    wanted = flags.named(parser, "--peers", arguments.peers, PEERS)
    if "ours" not in wanted:
        wanted.insert(0, "ours")
    names, absent = machine.present({name: PEERS[name] for name in wanted})
    for name, reason in absent.items():
        print(f"left out: {name}, {reason}")
    start = time.perf_counter()
    if busy := machine.busy():
        print(busy)
    rates = roofline.measure()
    print(report.head(names, rates))
    record: dict[str, Any] = {
        **machine.facts(*sorted({package for name in names for package in PEERS[name].packages})),
        "memory": arguments.memory,
        "absent": absent,
        "rates": rates,
    }
    record["rows"] = []
    environment = flags.memory_environment(arguments)
    try:
        for row in run(chosen, names, arguments.seconds, rates, environment):
            record["rows"].append(row)
    finally:  # What was measured before an end that nobody planned is kept.
        if record["rows"]:
            record["complete"] = len(record["rows"]) == len(chosen)
            finish(record, start, arguments.output)


def finish(record: dict[str, Any], start: float, output: pathlib.Path) -> None:
    """Sum up, print, write, draw."""
    record["load_average_after"] = machine.load_average()
    record["seconds"] = round(time.perf_counter() - start)
    record["summary"] = summary.summarize(record["rows"])
    print(report.tail(record["summary"]))
    machine.write(output, record)
    picture.draw(record, output.with_suffix(".png"))
