"""`flax-sepconv`: files of other libraries, lowerings measured here, and the trainer's commands.

The same as `python -m flax_sepconv`.
"""

import functools
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from flax_sepconv.training.commands import COMMANDS, unknown

# What other libraries' files and the lowerings have; all others are the trainer's.
_OWN = ("convert", "inspect", "tune")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    # Late: each command imports what it needs, and no more.
    if words and words[0] in COMMANDS:
        from flax_sepconv.training.__main__ import run

        return run(words)
    if words and not words[0].startswith("-") and words[0] not in _OWN:
        print(f"error: {unknown(words[0], [*_OWN, *COMMANDS])}", file=sys.stderr)
        return 2
    from flax_sepconv.interop import command as weights
    from flax_sepconv.ops.tuning import command as tuning

    tune = functools.partial(tuning.add, network_of_run=_network_of_run)
    return weights.main(words, more=(tune, _list_trainer))


def _list_trainer(commands: Any) -> None:
    """Name the trainer's commands in the help of all."""
    for command in COMMANDS.values():
        commands.add_parser(command.name, help=command.about, add_help=False)


def _network_of_run(folder: pathlib.Path) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    from flax_sepconv.ops.tuning.command import TuneError
    from flax_sepconv.training.config import UserError
    from flax_sepconv.training.layers import of_run

    try:
        return of_run(folder)
    except UserError as error:
        raise TuneError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
