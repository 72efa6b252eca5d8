"""Time the layer on the accelerator that is there: ours by each lowering, stock Flax and PyTorch.

JAX and PyTorch run in a process each, on the same device, in turn. Every program is compared with
NumPy float64 before it is timed; then calls are started in a row, each into the memory of the
results of the call before, and waited for at their end. Reported are medians over visits in turn,
the bytes that any program must move and the operations of both stages per second, and what part
of the device's own rates that is: of a large copy and a large matmul in the same dtype, measured
in the same run. A time that the host needs to start a call, rather than the device for the call,
is marked with a star. A candidate that fails, crashes, hangs or computes wrong numbers is a fact of
its row, counts nowhere as fast, and lets the program end with status 1; the others go on.
"""

import argparse
import contextlib
import functools
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

from benchmarks import flags, machine, summary, workloads
from benchmarks.bound import Bound
from benchmarks.candidates import CANDIDATES, SUITE
from benchmarks.device import ceilings, frameworks, picture, planning, report, sampling
from benchmarks.device.frameworks import Framework
from benchmarks.device.measuring import Case, measure

CEILING_SECONDS = 1.0


def run(
    cases: list[Case],
    workers: list[Framework],
    record: dict[str, Any],
    seconds: float,
    bound: Bound,
) -> Iterator[dict[str, Any]]:
    """Measure the device's rates, then case after case, and print as they come."""
    platform = record["platform"]
    for dtype in sorted({case.dtype for case in cases}):
        rates = ceilings.measure(workers[0].process.worker, platform, dtype, CEILING_SECONDS)
        record["ceilings"][dtype] = rates
        print(report.ceilings(dtype, rates), flush=True)
    with tqdm(cases, file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        for case in bound.within(bar):
            bar.set_postfix_str(f"{case.workload.name} {case.dtype}")
            row = measure(case, workers, platform, seconds, record["ceilings"])
            tqdm.write(report.row(row))
            sys.stdout.flush()
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
    flags.add_platform(parser)
    flags.add_limits(parser)
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
    flags.check_limits(parser, arguments)
    flags.check(parser, arguments)
    return arguments, chosen


def begin(workers: list[Framework], device: dict[str, Any], cases: list[Case]) -> dict[str, Any]:
    """Make the record of a run, with no rows yet."""
    torch = ["torch"] if len(workers) > 1 else []
    facts = machine.facts(*frameworks.packages(), *torch)
    made = {**device, **facts, "ceilings": {}, "rows": []}
    return made | left_out(cases)


def left_out(cases: Iterable[Case]) -> dict[str, Any]:
    """Tell what a record lacks."""
    rows = [{**case.facts, "candidates": list(case.candidates)} for case in cases]
    return {"complete": not rows, "left_out": rows}


def end(record: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print, write and draw what was measured, also before an end that nobody planned."""
    if record["rows"]:
        print(report.table(record["rows"]))
    if record["left_out"]:
        print(report.left_out(record["left_out"]))
    if verdict := report.verdict(record["rows"]):
        print(verdict)
    if record["rows"]:
        machine.write(arguments.output, record)
        picture.draw(record, arguments.output.with_suffix(".png"))


def main(argv: list[str]) -> None:
    """Measure, print, write and draw; the record is written after every row."""
    parser = flags.parser("device", __doc__)
    arguments, chosen = parse(parser, argv)
    bound = Bound(arguments.minutes)
    with contextlib.ExitStack() as stack:
        workers, device = frameworks.start(parser, arguments, stack)
        names = [name for each in workers for name in each.names]
        is_bounded = arguments.minutes is not None
        cases = planning.cases(
            chosen, arguments.dtypes, arguments.programs, names, device["platform"], is_bounded
        )
        record = begin(workers, device, cases)
        print(f"{record['device']} ({record['platform']})", flush=True)
        try:
            for row in run(cases, workers, record, arguments.seconds, bound):
                record["rows"].append(row)
                record |= left_out(cases[len(record["rows"]) :])
                machine.save(arguments.output, record)
        finally:
            end(record, arguments)
    if not record["rows"]:
        raise SystemExit(f"--minutes: none of the rows ended within {arguments.minutes:g}")
    if report.verdict(record["rows"]):
        raise SystemExit(1)
