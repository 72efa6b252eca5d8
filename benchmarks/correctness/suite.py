"""Judge every lowering on the device that is there, by NumPy float64.

The layer alone, and with all its gradients, in both dtypes: strides, dilation, multipliers,
lengths that are no whole tiles, every padding, 1 to 87 taps, ragged batches with NaN behind the
ends, and layers that users reported as failing on accelerators. An error is the largest difference
over the largest entry; allowed is what the rounding of the dtype, as the platform's matrix units
have it, explains in sums of so many terms. A lowering that is wrong, fails, crashes or hangs is a
row, after which the others go on; then the program ends with status 1.
"""

import argparse
import contextlib
import functools
import itertools
import time
from typing import Any, NamedTuple

from benchmarks import flags, machine
from benchmarks.bound import Bound
from benchmarks.correctness import problems, report
from benchmarks.correctness.problems import Problem
from benchmarks.device import frameworks, sampling
from benchmarks.lasting import Failed, Lasting
from benchmarks.worker import Declined
from flax_sepconv.ops.lowerings import LOWERINGS

# "selected" is what `implementation=None` takes.
NAMES = ("selected", *LOWERINGS)
TASK = "benchmarks.correctness.solving:solve"


class Case(NamedTuple):
    """What a row is about."""

    problem: Problem
    dtype: str
    lowering: str

    @property
    def facts(self) -> dict[str, Any]:
        """What the record says of the row, tried or left out."""
        return {"problem": str(self.problem), "dtype": self.dtype, "lowering": self.lowering}


@functools.lru_cache(maxsize=2)
def expected(problem: Problem, dtype: str) -> Any:
    """Compute what all lowerings are compared with."""
    return problem.expected(dtype)


def judge(case: Case, process: Lasting, platform: str) -> dict[str, Any]:
    """Let a lowering solve a problem, and compare; the row."""
    problem = case.problem
    arguments = (platform, problem, case.dtype, case.lowering)
    try:
        results = process.attempt(lambda worker: worker.call(TASK, *arguments))
    except Declined as reason:
        return {**case.facts, "declined": str(reason)}
    except Failed as failure:
        return {**case.facts, **failure.facts}
    errors = problems.errors(results, expected(problem, case.dtype))
    allowed = problem.allowed(case.dtype, platform)
    row = {**case.facts, "errors": errors, "allowed": allowed}
    wrong = []
    for name, error in errors.items():
        limit = allowed[name.partition(" ")[0]]
        if isinstance(error, str):
            wrong.append(f"{name} {error}")
        elif error > limit:
            wrong.append(f"{name} is off by {error:.1e} (allowed: {limit:.1e})")
    return {**row, "wrong": wrong} if wrong else row


def parse(parser: flags.Parser, argv: list[str]) -> argparse.Namespace:
    """Read the flags; unusable ones end the program before anything is started."""
    names = functools.partial(parser.add_argument, default="")
    names("--lowerings", help=f"of {','.join(NAMES)} (all)")
    names("--dtypes", help=f"of {','.join(sampling.DTYPES)} (all)")
    names("--filter", help="only problems whose line contains one of A,B,...")
    flags.add_platform(parser)
    flags.add_limits(parser)
    flags.add_output(parser, "correctness.json")
    arguments = parser.parse_args(argv)
    arguments.lowerings = flags.named(parser, "--lowerings", arguments.lowerings, NAMES)
    arguments.dtypes = flags.named(parser, "--dtypes", arguments.dtypes, sampling.DTYPES)
    words = arguments.filter.split(",")
    for word in words:
        if not any(word in str(problem) for problem in problems.PROBLEMS):
            parser.error(f"--filter: no problem's line contains {word!r}")
    arguments.problems = [
        problem for problem in problems.PROBLEMS if any(word in str(problem) for word in words)
    ]
    flags.check_limits(parser, arguments)
    flags.check_writable(parser, arguments.output)
    return arguments


def run(
    cases: list[Case], process: Lasting, record: dict[str, Any], bound: Bound, output: Any
) -> None:
    """Judge one case after the other; print and write each as it comes."""
    record |= left_out(cases)
    told: set[str] = set()
    for case in bound.within(cases):
        begin = time.monotonic()
        row = judge(case, process, record["platform"])
        row["seconds"] = round(time.monotonic() - begin, 3)
        report.tell(row, told)
        record["rows"].append(row)
        record |= left_out(cases[len(record["rows"]) :])
        machine.save(output, record)


def left_out(cases: list[Case]) -> dict[str, Any]:
    """Tell what a record lacks."""
    return {"complete": not cases, "left_out": [case.facts for case in cases]}


def end(record: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print and write what was judged, also before an end that nobody planned."""
    if record["rows"]:
        print(report.verdict(record["rows"]))
    if record["left_out"]:
        print(report.left_out(record["left_out"]))
    if record["rows"]:
        machine.write(arguments.output, record)


def main(argv: list[str]) -> None:
    """Judge, print and write; the record is written after every row."""
    parser = flags.Parser(
        prog="python -m benchmarks correctness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments = parse(parser, argv)
    bound, platform = Bound(arguments.minutes), arguments.platform
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(
            frameworks.started("jax", frameworks.JAX, platform, platform, arguments.patience)
        )
        try:
            device = process.worker.call(f"{frameworks.JAX}:describe", platform)
        except Declined as reason:
            parser.error(str(reason))
        solved = [problem.on(device["platform"]) for problem in arguments.problems]
        every = itertools.product(solved, arguments.dtypes, arguments.lowerings)
        cases = [Case(*each) for each in every]
        record = {**device, **machine.facts(*frameworks.packages()), "rows": []}
        print(f"{record['device']} ({record['platform']})", flush=True)
        try:
            run(cases, process, record, bound, arguments.output)
        finally:
            end(record, arguments)
    if not record["rows"]:
        raise SystemExit(f"--minutes: none of the rows ended within {arguments.minutes:g}")
    if any(report.kind(row) in ("wrong", "failed") for row in record["rows"]):
        raise SystemExit(1)
