"""Command line: ``python -m flax_sepconv.training COMMAND``; without one, ``train`` is meant.

The commands are those of ``flax-sepconv`` too.
"""

import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from flax_sepconv.memory import keep_memory
from flax_sepconv.training import usage
from flax_sepconv.training.commands import COMMANDS, Command, unknown
from flax_sepconv.training.complaints import silence_logs
from flax_sepconv.training.console import guard, say, settle
from flax_sepconv.training.settings import UserError

# What the extra `train` brings, by the names that are imported.
PACKAGES = "absl aeon etils grain matplotlib ml_collections orbax sklearn tensorboardX tqdm".split()


class _UnreadError(BrokenPipeError):
    """Nobody reads what is printed; a library's own pipe may break too."""


def _write(text: str) -> None:
    """Print text at once.

    Raises:
      UserError: it cannot be printed.
      _UnreadError: nobody reads it.
    """
    if sys.stdout is None:
        raise UserError("cannot write the output: stdout is closed")
    try:
        print(text, flush=True)
    except OSError as error:
        # What is left in the buffer has nowhere to go, and Python would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise _UnreadError from error
        raise UserError(f"cannot write the output: {error.strerror or error}") from error


def _named(words: Sequence[str]) -> tuple[Command | None, Sequence[str]]:
    """Return the command that is meant, and what it is given; None: help for all of them.

    Raises:
      UserError: there is no such command.
    """
    if not words or words[0].startswith("-"):
        is_help = "--help" in words or "-h" in words
        return None if is_help else COMMANDS["train"], words
    name, *rest = words
    if name not in COMMANDS:
        raise UserError(f"bad arguments: {unknown(name, COMMANDS)}")
    return COMMANDS[name], rest


def _run(words: Sequence[str]) -> int:
    command, rest = _named(words)
    if command is None:
        _write(usage.whole())
        return 0
    try:
        if "--help" in rest or "-h" in rest:
            _write(usage.of(command))
            return 0
        from flax_sepconv.training import arguments

        return command.run(arguments.parse(command, rest), _write)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PACKAGES:
            raise
        told = f"{command.name} needs what pip install 'flax-sepconv[train]' brings: {error}"
        raise UserError(told) from error


def main(words: Sequence[str]) -> int:
    """Run a command with its words and return the exit status."""
    silence_logs()
    try:
        return _run(words)
    except UserError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except _UnreadError:
        return 141
    except Exception:  # a fault of the program; 1, as Python has it, would say that a run diverged
        say(traceback.format_exc())
        return 70


def run(words: Sequence[str]) -> int:
    """Do the same as the whole of this process, and return its exit status."""
    keep_memory()  # Where it cannot be, training is slower and else the same.
    guard()
    # Of a write that was begun and failed, where it is collected; the error itself was said.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    status = main(words)
    settle()
    if distributed := sys.modules.get("flax_sepconv.training.distributed"):
        distributed.leave(status)
    return status


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
