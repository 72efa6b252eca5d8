"""The flags that all suites share."""

import argparse
import pathlib

from benchmarks import workloads


def parser(
    suite: str, doc: str | None, seconds: float, seconds_for: str
) -> argparse.ArgumentParser:
    """Make a parser with the flags that choose workloads, patience and the file of results."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks {suite}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--suite", choices=("selection", "full"), default="selection")
    made.add_argument("--filter", default="", help="only workloads whose name contains this")
    made.add_argument(
        "--seconds", type=float, default=seconds, help=f"for {seconds_for} (%(default)s)"
    )
    default = pathlib.Path("runs") / f"{suite}.json"
    made.add_argument("--output", type=pathlib.Path, default=default, help="(%(default)s)")
    return made


def chosen(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> list[workloads.Workload]:
    """Return the workloads that the flags ask for; unusable flags end the program.

    Batches are cut to what a small machine can bear. A filter searches the full suite. Where
    results could not be written the run ends before it measures anything.
    """
    found = [
        workload.within(workloads.ELEMENTS)
        for workload in workloads.load()
        if arguments.filter in workload.name
        and (arguments.suite == "full" or arguments.filter or workload.name in workloads.SELECTION)
    ]
    if not found:
        parser.error(f"--filter: no workload's name contains {arguments.filter!r}")
    check(parser, arguments)
    return found


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """End the program, before it measures anything, for seconds or a file that are no good."""
    if not arguments.seconds > 0:
        parser.error(f"--seconds: must be positive, got {arguments.seconds}")
    try:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.touch()
    except OSError as error:
        parser.error(f"--output: {error}")
