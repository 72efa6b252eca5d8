"""`python -m flax_sepconv tune`: which lowering is right and fastest on the device that is here."""

import argparse
import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from flax_sepconv.ops.choices.classes import PROGRAMS
from flax_sepconv.ops.geometry import PADDINGS
from flax_sepconv.ops.lowerings import LOWERINGS
from flax_sepconv.ops.tuning import session
from flax_sepconv.ops.tuning.definition import ROUNDING
from flax_sepconv.ops.tuning.models import problems_of
from flax_sepconv.ops.tuning.problems import Problem, suite

ABOUT = "measure the lowerings on the device that is here, and choose by what was found"
EXIT = "exit status: 0 done, 1 a lowering was wrong, 2 an error, which one line tells"
DTYPES = ("float32", "bfloat16")
# Letters of a shape, as the command takes it and prints it.
LETTERS = {
    "B": "batch",
    "L": "length",
    "C": "channels",
    "K": "kernel_size",
    "S": "strides",
    "D": "dilation_rate",
    "M": "depth_multiplier",
}
Network = Callable[[pathlib.Path], tuple[Callable[..., Any], tuple[Any, ...]]]


class TuneError(Exception):
    """The command was asked for what cannot be."""


def add(commands: Any, network_of_run: Network) -> None:
    """Add the command to those of a parser.

    Args:
        commands: of `argparse`.
        network_of_run: returns the function of a trainer's run, and types of its inputs.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        "tune", help=ABOUT, description=ABOUT, epilog=EXIT
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--shape",
        action="append",
        metavar="'B8 L1024 C256->512 K31'",
        help="a layer, with S, D, M and a padding if need be; without -> the depthwise stage alone "
        "(repeat it; else a suite of published layers)",
    )
    what.add_argument(
        "--from-run", type=pathlib.Path, metavar="DIR", help="the layers of a run of the trainer"
    )
    parser.add_argument(
        "--dtypes", default="", help=f"of {','.join(ROUNDING)} ({','.join(DTYPES)}; the run's own)"
    )
    parser.add_argument(
        "--programs", default="", help=f"of {','.join(PROGRAMS)} (all that a layer or a stage has)"
    )
    parser.add_argument("--lowerings", default="", help=f"of {','.join(LOWERINGS)} (all)")
    parser.add_argument("--platform", help="of the device, such as cpu (JAX's first)")
    parser.add_argument(
        "--seconds", type=float, default=0.25, help="to time a candidate for (%(default)s)"
    )
    parser.add_argument(
        "--output", type=pathlib.Path, metavar="DIR", help="where the table goes (the user's cache)"
    )
    parser.set_defaults(
        run=lambda given: _run(given, network_of_run), done="rows that were measured are written"
    )


def _run(given: argparse.Namespace, network_of_run: Network) -> int:
    """Measure; 1 where something was wrong, 2 for an error."""
    try:
        device = _device(given.platform)
        names = _named("--lowerings", given.lowerings, LOWERINGS)
        programs = _named("--programs", given.programs, PROGRAMS) if given.programs else []
        if not 0 < given.seconds < float("inf"):
            raise TuneError(f"--seconds must be positive, got {given.seconds}")
        cases = session.cases_of(_problems(given, device, network_of_run), programs)
        print(f"{device.device_kind} ({device.platform})", flush=True)
        table = session.run(
            cases, device, given.output, seconds=given.seconds, names=names, say=_say
        )
    except (TuneError, ValueError, TimeoutError, session.DeviceLostError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise  # Of the standard output.
        print(f"error: cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 1 if any(row.wrong() for row in table.rows) else 0


def _say(line: str) -> None:
    print(line, flush=True)


def _device(platform: str | None) -> jax.Device:
    try:
        return jax.devices(platform)[0]
    except RuntimeError as error:
        raise TuneError(f"--platform: {error}") from None


def _problems(
    given: argparse.Namespace, device: jax.Device, network_of_run: Network
) -> list[tuple[Problem, str]]:
    dtypes = _named("--dtypes", given.dtypes, ROUNDING) if given.dtypes else list(DTYPES)
    if given.from_run is None:
        layers = [shape(text) for text in given.shape] if given.shape else suite(device.platform)
        return [(layer, dtype) for dtype in dtypes for layer in layers]
    try:
        function, inputs = network_of_run(given.from_run)
    except ImportError as error:
        told = f"--from-run needs what pip install 'flax-sepconv[train]' brings: {error}"
        raise TuneError(told) from None
    found, left_out = problems_of(function, *inputs)
    for reason in left_out:
        print(f"left out: {reason}")
    own = dict.fromkeys(problem for problem, _ in found)
    return [(p, d) for d in dtypes for p in own] if given.dtypes else list(found)


def shape(text: str) -> Problem:
    """Read a layer as it is printed.

    Raises:
        TuneError: it is none.

    Example:
        >>> shape("B8 L1024 C256->512 K31 S2 causal").padding
        'causal'
        >>> shape("B8 L1024 C256->512 K31 S2 15,15").padding
        (15, 15)
    """
    sizes: dict[str, Any] = {"filters": 0}
    for word in text.split():
        low, comma, high = word.partition(",")
        if word in PADDINGS:
            sizes["padding"] = word
            continue
        if comma and low.isdecimal() and high.isdecimal():
            sizes["padding"] = int(low), int(high)
            continue
        number, _, filters = word[1:].partition("->")
        if word[0] not in LETTERS or not number.isdecimal() or int(number) < 1:
            raise TuneError(f"--shape must be like 'B8 L1024 C256->512 K31 causal', got {text!r}")
        sizes[LETTERS[word[0]]] = int(number)
        if filters:
            if word[0] != "C" or not filters.isdecimal() or int(filters) < 1:
                raise TuneError(f"--shape must have its filters behind C as in C256->512: {text!r}")
            sizes["filters"] = int(filters)
    missing = [letter for letter in "BLCK" if LETTERS[letter] not in sizes]
    if missing:
        raise TuneError(f"--shape must name {', '.join(missing)}, got {text!r}")
    made = Problem(**sizes)
    try:
        assert made.geometry
    except ValueError as error:
        raise TuneError(f"--shape {text!r}: {error}") from None
    return made


def _named(flag: str, text: str, known: Iterable[Any]) -> Sequence[Any]:
    """Return the names of a comma-separated list, or all."""
    names = list(known)
    wanted = text.split(",") if text else names
    if unknown := [name for name in wanted if name not in names]:
        raise TuneError(f"{flag} must be of {', '.join(names)}, got {', '.join(unknown)}")
    return [name for name in names if name in wanted]
