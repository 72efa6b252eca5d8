"""Compile the layer for accelerators that need not be there, and count what the programs would do.

For each target, in a process of its own: every workload, forward and with all gradients, by each
lowering and by stock Flax. Counted are bytes of the device's memory over the least that any
program must move, launches, temporary memory, seconds of compilation, and the time floor: of each
operation the longer of moving its bytes and (TPUs) issuing its instructions, summed. Nothing is
run: stalls are not seen, and tiles that are read again are not counted.
"""

import argparse
import contextlib
import functools
import itertools
import os
import pathlib
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from typing import Any, TypeVar

from tqdm import tqdm

from benchmarks import flags, machine, summary, workloads
from benchmarks.aot import picture, report
from benchmarks.aot.targets import TARGETS
from benchmarks.candidates import CANDIDATES, SUITE
from benchmarks.worker import Declined, Worker

DTYPES = ("bfloat16", "float32")

T = TypeVar("T")
Case = tuple[workloads.Workload, str, str]


class Opened:
    """What threads opened, to be closed by another one; from then on nobody opens any more."""

    def __init__(self) -> None:
        self._stack, self._lock, self._closed = contextlib.ExitStack(), threading.Lock(), False

    def enter(self, make: Callable[..., contextlib.AbstractContextManager[T]], *args: Any) -> T:
        """Make a context and enter it."""
        with self._lock:
            if self._closed:
                raise CancelledError
            return self._stack.enter_context(make(*args))

    def close(self) -> None:
        """Leave all contexts."""
        with self._lock:
            self._closed = True
        self._stack.close()


class Compiler:
    """A worker with the compiler of a target; it is another one after a program took too long."""

    def __init__(self, target: str, patience: float, opened: Opened):
        self._target, self._patience, self._opened = target, patience, opened
        self._folder = pathlib.Path(opened.enter(tempfile.TemporaryDirectory))
        self._worker = self._start()

    def _start(self) -> Worker:
        environment = TARGETS[self._target].environment(self._folder)
        return self._opened.enter(Worker, self._target, environment)

    def facts(self, case: Case, candidate: str) -> dict[str, Any]:
        """Compile one program and count; or say why there is none."""
        workload, dtype, program = case
        task = "benchmarks.aot.compiling:measure"
        arguments = (self._target, self._folder, workload, dtype, candidate, program)
        try:
            return self._worker.call(task, *arguments, patience=self._patience)
        except Declined as reason:
            return {"declined": str(reason)}
        except TimeoutError:
            self._worker.stop()
            self._worker = self._start()
            return {"declined": f"not compiled within {self._patience:g} s"}


def begin(name: str) -> dict[str, Any]:
    """Make the record of a target, with no rows yet."""
    target = TARGETS[name]
    return {
        "target": name,
        "compiled, not run": True,
        **target._asdict(),
        **machine.facts("jax", "jaxlib", "flax", *target.packages),
        "rows": [],
    }


def run(
    record: dict[str, Any],
    cases: Iterable[Case],
    arguments: argparse.Namespace,
    bar: Any,
    opened: Opened,
) -> None:
    """Compile all cases for one target; the record is written after every one of them."""
    name = record["target"]
    compiler = Compiler(name, arguments.patience, opened)
    for case in cases:
        workload, dtype, program = case
        bar.set_postfix_str(f"{name} {workload.name}")
        facts = {candidate: compiler.facts(case, candidate) for candidate in arguments.candidates}
        row = {
            "workload": workload.name,
            "shape": str(workload),
            "dtype": dtype,
            "program": program,
            "candidates": facts,
        }
        record["rows"].append(row)
        machine.save(arguments.output / f"{name}.json", record)
        tqdm.write(report.row(name, row))
        bar.update()


def targets_named(parser: flags.Parser, text: str) -> list[str]:
    """Return the targets asked for, or those whose compilers are installed."""
    wanted = flags.named(parser, "--targets", text, TARGETS)
    present, absent = machine.present({name: TARGETS[name] for name in wanted})
    missing = "; ".join(f"{name}: {reason}" for name, reason in absent.items())
    if absent and (text or not present):
        parser.error(f"--targets: {missing} (pip install 'flax-sepconv[aot]')")
    if absent:
        print(f"left out: {missing}")
    return present


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[workloads.Workload]]:
    """Read the flags; unusable ones end the program before anything is compiled."""
    parser = flags.parser("aot", __doc__)
    names = functools.partial(parser.add_argument, default="")
    names("--targets", help=f"of {','.join(TARGETS)} (those whose compilers are installed)")
    names("--candidates", help=f"of {','.join(CANDIDATES)} (all)")
    names("--dtypes", help=f"of {','.join(DTYPES)} (all)")
    names("--programs", help=f"of {','.join(summary.PROGRAMS)} (all)")
    parser.add_argument(
        "--patience", type=float, default=600, help="seconds for one program (%(default)s)"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="targets at a time (%(default)s)"
    )
    flags.add_output(parser, "aot")
    arguments = parser.parse_args(argv)
    for name in ("jobs", "patience"):
        if not getattr(arguments, name) > 0:
            parser.error(f"--{name}: must be positive, got {getattr(arguments, name)}")
    arguments.candidates = flags.named(parser, "--candidates", arguments.candidates, CANDIDATES)
    arguments.dtypes = flags.named(parser, "--dtypes", arguments.dtypes, DTYPES)
    arguments.programs = flags.named(parser, "--programs", arguments.programs, summary.PROGRAMS)
    chosen = flags.chosen(parser, arguments, SUITE, elements=None)
    chosen = [workload for workload in chosen if workload.filters]
    if not chosen:
        parser.error(f"--filter: {arguments.filter!r} finds only layers without a pointwise stage")
    arguments.targets = targets_named(parser, arguments.targets)
    for name in arguments.targets:
        flags.check_writable(parser, arguments.output / f"{name}.json.part")
    return arguments, chosen


def main(argv: list[str]) -> None:
    """Compile for all targets, print, write and draw."""
    arguments, chosen = parse(argv)
    cases = list(itertools.product(chosen, arguments.dtypes, arguments.programs))
    records: dict[str, dict[str, Any]] = {}
    bar = tqdm(
        total=len(cases) * len(arguments.targets),
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(draw, records, arguments.output)
        stack.enter_context(bar)
        pool = stack.enter_context(ThreadPoolExecutor(arguments.jobs))
        # Workers end before the pool does: no thread waits for an answer that is not wanted.
        workers = stack.enter_context(contextlib.closing(Opened()))
        runs = []
        for name in arguments.targets:
            record = records[name] = begin(name)
            runs.append(pool.submit(run, record, cases, arguments, bar, workers))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        for finished in as_completed(runs):
            finished.result()


def draw(records: Mapping[str, dict[str, Any]], output: pathlib.Path) -> None:
    """Draw the targets that have results."""
    for name, record in records.items():
        if record["rows"]:
            print(f"written to {output / name}.json")
            picture.draw(record, output / f"{name}.png")
