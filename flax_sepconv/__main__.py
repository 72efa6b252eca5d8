"""Command line: trained weights of other libraries, in and out."""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from flax_sepconv.interop import formats
from flax_sepconv.interop.layer import InteropError, Layer

_FORMATS = "\n".join(
    f"  {name:<15}{form.description}{'' if form.endings else ' (read only)'}"
    for name, form in formats.FORMATS.items()
)
_EXIT = "exit status: 0 done, 1 --check found a difference, 2 an error, which one line tells"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    given = _parser().parse_args(argv)
    try:
        return given.run(given)
    except InteropError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130


def _convert(given: argparse.Namespace) -> int:
    options = _options(given)
    source_format = given.source_format or formats.format_of(given.source)
    layers = formats.load(given.source, source_format, **options)
    formats.save(given.dest, layers, given.dest_format, overwrite=given.force)
    count = sum(weight.size for layer in layers for weight in layer.weights.values())
    print(f"{len(layers)} layers, {count:,} parameters: {given.source} -> {given.dest}")
    for layer in layers:
        if layer.config is None:
            print(f"{layer.path}: strides, padding and activation are not in {given.source}")
    if not given.check:
        return 0
    from flax_sepconv.interop import checking

    source = checking.Side(given.source, source_format, options)
    dest = checking.Side(given.dest, given.dest_format or formats.format_of(given.dest))
    found = checking.differences(source, dest)
    for path, difference in found.items():
        print(f"{path}: outputs differ by at most {difference:.1e} of the largest")
    worst = max(found.values())
    print(f"largest difference: {worst:.1e} ({'good' if worst <= checking.TOLERANCE else 'BAD'})")
    return 0 if worst <= checking.TOLERANCE else 1


def _inspect(given: argparse.Namespace) -> int:
    from flax_sepconv.interop import inspecting

    name = given.source_format or formats.format_of(given.source)
    layers: list[Layer] = formats.load(given.source, name, **_options(given))
    print(f"{given.source}: {formats.FORMATS[name].description}")
    print(inspecting.table(layers))
    return 0


def _options(given: argparse.Namespace) -> dict[str, Any]:
    """Return what the caller says of the layers in a file that does not say it itself."""
    options: dict[str, Any] = {}
    if given.layer:
        options["layers"] = given.layer
    if given.pair:
        options["pairs"] = dict(_pair(text) for text in given.pair)
    return options


def _pair(text: str) -> tuple[str, tuple[str, str] | tuple[str, str, int]]:
    path, _, modules = text.partition("=")
    match modules.split(","):
        case [depthwise, pointwise] if depthwise and pointwise:
            return path, (depthwise, pointwise)
        case [depthwise, pointwise, multiplier] if depthwise and pointwise and multiplier.isdigit():
            return path, (depthwise, pointwise, int(multiplier))
    raise InteropError(f"--pair must be PATH=DEPTHWISE,POINTWISE or ...,M, got {text!r}")


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m flax_sepconv",
        description=__doc__,
        epilog=f"formats:\n{_FORMATS}\n\n{_EXIT}",
        formatter_class=shape,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    about = "write the separable convolutions of one file as another format"
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
    convert.add_argument("--force", action="store_true", help="replace DEST if it is there")
    convert.set_defaults(run=_convert)
    about = "list the separable convolutions of a file"
    inspect = commands.add_parser("inspect", help=about, description=about, formatter_class=shape)
    inspect.add_argument("source", metavar="FILE", type=pathlib.Path)
    inspect.set_defaults(run=_inspect)
    for command in (convert, inspect):
        command.epilog = f"formats:\n{_FORMATS}\n\n{_EXIT}"
        command.add_argument(
            "--from",
            dest="source_format",
            choices=tuple(formats.FORMATS),
            help="the format to read; else it is seen from the file",
        )
        command.add_argument(
            "--layer",
            action="append",
            metavar="PATH",
            help="keras-weights, keras: a group that is a separable convolution (repeat it)",
        )
        command.add_argument(
            "--pair",
            action="append",
            metavar="PATH=DEPTHWISE,POINTWISE[,M]",
            help="torch: the two modules of a layer, and its depth multiplier (repeat it)",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
