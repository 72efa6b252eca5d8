"""Command line: trained weights of other libraries, in and out."""

import argparse
import contextlib
import io
import os
import pathlib
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from flax_sepconv.interop import formats
from flax_sepconv.interop.layer import InteropError, Layer

_FORMATS = "\n".join(
    f"  {name:<15}{form.description}{'' if form.endings else ' (read only)'}"
    for name, form in formats.FORMATS.items()
)
_ABOUT = "Separable convolutions: files of other libraries, lowerings, and the life of a run."
_EXIT = "exit status: 0 done, 1 --check found a difference, 2 an error, which one line tells"


def main(argv: Sequence[str] | None = None, more: Sequence[Callable[[Any], None]] = ()) -> int:
    """Run a command; return the exit status.

    Args:
        argv: the words of the command line.
        more: each adds another command.
    """
    given = _parser(more).parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _ending_in_order(), warnings.catch_warnings():
            warnings.filterwarnings("once", category=UserWarning)
            warnings.showwarning = _show
            status: int = given.run(given)
        sys.stdout.flush()
        return status
    except InteropError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:  # Of the standard output: a pipe that nobody reads, a full disk.
        print(f"error: cannot print: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
        return 2
    except (KeyboardInterrupt, _Ended) as error:
        with contextlib.suppress(OSError):
            print(f"interrupted: {given.done}", file=sys.stderr)
        return 128 + (error.args[0] if isinstance(error, _Ended) else signal.SIGINT)


class _Ended(BaseException):
    """A signal to end came."""


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Take away what is half written when a signal to end comes, whatever comes after it."""

    def end(number: int, frame: Any) -> NoReturn:
        for other in taken:
            signal.signal(other, signal.SIG_IGN)
        raise _Ended(number)

    taken = []
    if threading.current_thread() is threading.main_thread():
        known = (signal.SIGTERM, signal.SIGHUP)  # They may be the caller's, or nohup's.
        taken = [number for number in known if signal.getsignal(number) == signal.SIG_DFL]
    try:
        for number in taken:
            signal.signal(number, end)
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _show(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"note: {' '.join(str(message).split())}", file=sys.stderr)


def _convert(given: argparse.Namespace) -> int:
    options = _options(given)
    source_format = given.source_format or formats.format_of(given.source)
    layers = formats.load(given.source, source_format, **options)
    if given.dequantize:
        layers = [layer.dequantized() for layer in layers]
    if _are_one(given.source, given.dest):
        raise InteropError(f"SOURCE and DEST are one file: {given.dest}")
    formats.save(given.dest, layers, given.dest_format, overwrite=given.force)
    given.done = f"{given.dest} is written"
    dest_format = given.dest_format or formats.format_of(given.dest)
    count = sum(weight.size for layer in layers for weight in layer.weights.values())
    print(f"{_counted(len(layers))}, {count:,} parameters: {given.source} -> {given.dest}")
    _tell_what_is_lost(layers, given.source, dest_format)
    if not given.check:
        return 0
    from flax_sepconv.interop import checking

    source = checking.Side(given.source, source_format, options)
    found = checking.differences(source, checking.Side(given.dest, dest_format))
    for layer in layers:
        print(f"{layer.title}: outputs differ by at most {found[layer.path]:.1e} of the largest")
    good = all(difference <= checking.TOLERANCE for difference in found.values())
    print(f"all within {checking.TOLERANCE:g}: {'good' if good else 'BAD'}")
    return 0 if good else 1


def _tell_what_is_lost(layers: Sequence[Layer], source: pathlib.Path, dest_format: str) -> None:
    """Print what the source does not say of layers, and what the written file cannot say."""
    from flax_sepconv.interop import inspecting

    for layer in layers:
        if layer.config is None:
            print(f"{layer.title}: strides, padding and activation are not in {source}")
        elif dest_format == "torch":
            print(f"{inspecting.call(layer)}\n  weights for {inspecting.torch_call(layer)}")
        elif dest_format == "keras-weights":
            print(f"{inspecting.call(layer)}  # to be made so: the file has weights alone")
    if dest_format == "keras-weights" and len(layers) > 1:
        print(f"the order, which counts: {', '.join(layer.title for layer in layers)}")


def _inspect(given: argparse.Namespace) -> int:
    from flax_sepconv.interop import inspecting

    name = given.source_format or formats.format_of(given.source)
    layers: list[Layer] = formats.load(given.source, name, **_options(given))
    print(f"{given.source}: {formats.FORMATS[name].description}")
    print(inspecting.table(layers))
    return 0


def _are_one(a: pathlib.Path, b: pathlib.Path) -> bool:
    try:
        return a.samefile(b)
    except (OSError, ValueError):  # One of them is not there.
        return False


def _counted(number: int) -> str:
    return f"{number} layer{'s' * (number != 1)}"


def _options(given: argparse.Namespace) -> dict[str, Any]:
    """Return what the caller says of the layers in a file that does not say it itself."""
    options: dict[str, Any] = {"configs": False} if given.weights_only else {}
    if given.fold_norms:
        options["fold_norms"] = True
    if given.norm_eps is not None:
        options["norm_eps"] = given.norm_eps
    if given.layer:
        options["layers"] = given.layer
    if given.pair:
        pairs = [_pair(text) for text in given.pair]
        options["pairs"] = dict(pairs)
        if len(options["pairs"]) < len(pairs):
            raise InteropError(f"--pair must name each layer once, got {' '.join(given.pair)}")
    return options


def _pair(text: str) -> tuple[str, tuple[str | int, ...]]:
    path, _, told = text.partition("=")
    modules: list[str | int] = [*told.split(",")]
    if len(modules) > 1 and re.fullmatch("[0-9]{1,9}", last := str(modules[-1])):
        modules[-1] = int(last)
    names = [module for module in modules if isinstance(module, str)]
    if not all(names) or len(names) not in (1, 2, 3):
        raise InteropError(
            f"--pair must be PATH=DEPTHWISE,POINTWISE or ...,M or PATH=DEPTHWISE,NORM,POINTWISE "
            f"or ...,M or PATH=DEPTHWISE or PATH=DEPTHWISE,M, got {text!r}"
        )
    return path, tuple(modules)


def _parser(more: Sequence[Callable[[Any], None]]) -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="flax-sepconv",
        description=_ABOUT,
        epilog="COMMAND --help tells what each takes, and what its exit status means.",
        formatter_class=shape,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    about = "write the layers of one file as another format"
    convert = commands.add_parser("convert", help=about, description=about, formatter_class=shape)
    convert.add_argument("source", metavar="SOURCE", type=pathlib.Path)
    convert.add_argument("dest", metavar="DEST", type=pathlib.Path)
    convert.add_argument(
        "--to",
        dest="dest_format",
        choices=formats.WRITABLE,
        help="the format to write; else DEST's ending tells",
    )
    convert.add_argument(
        "--check",
        action="store_true",
        help="then run both files' layers on random input, each in its own library",
    )
    convert.add_argument(
        "--dequantize",
        action="store_true",
        help="write the float32 weights that weights of 8 bits stand for",
    )
    convert.add_argument("--force", action="store_true", help="replace DEST if it is there")
    convert.set_defaults(run=_convert, done="nothing was written")
    about = "list the layers of a file"
    inspect = commands.add_parser("inspect", help=about, description=about, formatter_class=shape)
    inspect.add_argument("source", metavar="FILE", type=pathlib.Path)
    inspect.set_defaults(run=_inspect, done="nothing was written")
    for command in (convert, inspect):
        command.epilog = f"formats:\n{_FORMATS}\n\n{_EXIT}"
        command.add_argument(
            "--from",
            dest="source_format",
            choices=tuple(formats.FORMATS),
            help="the format to read; else it is seen from the file",
        )
        command.add_argument(
            "--weights-only",
            action="store_true",
            help="pass over the layers' arguments: for those that this package cannot have",
        )
        command.add_argument(
            "--layer",
            action="append",
            metavar="PATH",
            help="keras-weights, keras: a group to take, and no others (repeat it)",
        )
        command.add_argument(
            "--pair",
            action="append",
            metavar="PATH=DEPTHWISE[,[NORM,]POINTWISE][,M]",
            help="torch: the two modules of a layer, a norm between them to fold, and the depth "
            "multiplier; one module for a DepthwiseConv1D (repeat it)",
        )
        command.add_argument(
            "--fold-norms",
            action="store_true",
            help="torch: fold a BatchNorm between the two modules into the layer; right only where "
            "no activation stands there too, which a state dict does not tell",
        )
        command.add_argument(
            "--norm-eps",
            type=float,
            metavar="EPS",
            help="torch: the eps of folded norms, which a state dict does not tell (else 1e-5)",
        )
    for add in more:
        add(commands)
    return parser
