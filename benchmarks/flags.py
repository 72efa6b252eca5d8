"""The flags that all suites share."""

import argparse
import pathlib
from collections.abc import Container, Iterable
from typing import NoReturn

from benchmarks import worker, workloads


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        """End the program with status 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def parser(suite: str, doc: str | None) -> Parser:
    """Make a parser with the flags that choose workloads."""
    made = Parser(
        prog=f"python -m benchmarks {suite}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--suite", choices=("selection", "full"), default="selection")
    made.add_argument(
        "--filter", default="", help="only workloads whose name contains one of A,B,..."
    )
    return made


def add_seconds(parser: Parser, seconds: float, what_for: str) -> None:
    """Add the flag of patience."""
    parser.add_argument("--seconds", type=float, default=seconds, help=f"{what_for} (%(default)s)")


def add_memory(parser: Parser) -> None:
    """Add the flag that says whether the workers keep their memory."""
    parser.add_argument(
        "--memory",
        choices=("kept", "fresh"),
        default="kept",
        help="whether the C library of every worker keeps freed memory (%(default)s)",
    )


def memory_environment(arguments: argparse.Namespace) -> dict[str, str]:
    """Return what tells workers to keep their memory or not."""
    return {worker.MEMORY: arguments.memory}


def add_platform(parser: Parser) -> None:
    """Add the flag that names the device."""
    parser.add_argument(
        "--platform",
        choices=("gpu", "tpu", "cpu"),
        help="(the accelerator that jax finds); cpu is for trying the program",
    )


def add_limits(parser: Parser) -> None:
    """Add the flags that bound the run, and what one program may take."""
    parser.add_argument(
        "--minutes",
        type=float,
        help="for the whole run; rows that would not end in time are left out and named (no bound)",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=120,
        help="seconds, after which a program that gives no answer has failed (%(default)s)",
    )


def check_limits(parser: Parser, arguments: argparse.Namespace) -> None:
    """End the program for limits that are no good."""
    for name in ("minutes", "patience"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            parser.error(f"--{name}: must be positive, got {value}")


def add_output(parser: Parser, default: str) -> None:
    """Add the flag that tells where results go, in the folder of runs if nothing is said."""
    path = pathlib.Path("runs") / default
    parser.add_argument("--output", type=pathlib.Path, default=path, help="(%(default)s)")


def chosen(
    parser: Parser,
    arguments: argparse.Namespace,
    selection: Container[str] = workloads.SELECTION,
    elements: int | None = workloads.ELEMENTS,
) -> list[workloads.Workload]:
    """Return the workloads that the flags ask for; a name that there is not ends the program.

    A filter searches the full suite; each of its words must be found.

    Args:
        parser: of the flags.
        arguments: what it read.
        selection: the names of the selected workloads.
        elements: batches are cut to inputs of so many elements; None keeps the sources' batches.
    """
    words = arguments.filter.split(",")
    table = workloads.load()
    for word in words:
        if not any(word in workload.name for workload in table):
            parser.error(f"--filter: no workload's name contains {word!r}")
    return [
        workload.within(elements) if elements else workload
        for workload in table
        if any(word in workload.name for word in words)
        and (arguments.suite == "full" or arguments.filter or workload.name in selection)
    ]


def check(parser: Parser, arguments: argparse.Namespace) -> None:
    """End the program, before it measures anything, for seconds or a file that are no good."""
    if not arguments.seconds > 0:
        parser.error(f"--seconds: must be positive, got {arguments.seconds}")
    check_writable(parser, arguments.output)


def check_writable(parser: Parser, path: pathlib.Path) -> None:
    """End the program where results could not be written."""
    if path.is_dir():
        parser.error(f"--output: must be a file, got the folder {path}")
    is_new = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        parser.error(f"--output: {error}")
    if is_new:
        path.unlink()


def named(parser: Parser, flag: str, text: str, known: Iterable[str]) -> list[str]:
    """Return the names of a comma-separated list, or all; in the order of the known ones."""
    names = list(known)
    wanted = text.split(",") if text else names
    if unknown := sorted(set(wanted) - set(names)):
        parser.error(f"{flag}: must be of {', '.join(names)}, got {', '.join(unknown)}")
    return [name for name in names if name in wanted]
