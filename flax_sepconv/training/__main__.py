"""Command line: ``python -m flax_sepconv.training --config japanese_vowels``.

And for a causal run: ``python -m flax_sepconv.training stream --workdir DIR``.
"""

import logging
import os
import shlex
import shutil
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from flax_sepconv.memory import keep_memory
from flax_sepconv.training import arguments, usage
from flax_sepconv.training.console import guard, say, settle
from flax_sepconv.training.settings import UserError


def _write(text: str) -> None:
    """Print text at once.

    Raises:
      UserError: it cannot be printed.
      BrokenPipeError: nobody reads it.
    """
    if sys.stdout is None:
        raise UserError("cannot write the output: stdout is closed")
    try:
        print(text, flush=True)
    except OSError as error:
        # What is left in the buffer has nowhere to go, and Python would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise UserError(f"cannot write the output: {error.strerror or error}") from error


def _stream(argv: Sequence[str]) -> int:
    asked = arguments.parse_stream(argv)
    if sys.stdin is None:
        raise UserError("cannot read stdin: it is closed")
    from flax_sepconv.training import stream

    stream.run(*asked, sys.stdin.buffer, _write)
    return 0


def _resuming(workdir: Path) -> str:
    """Return the command that continues a run, ready for a shell."""
    python = "python" if shutil.which("python") == sys.executable else sys.executable
    words = [python, "-m", "flax_sepconv.training", "--workdir", str(workdir), "--resume"]
    return shlex.join(words)


def _train(argv: Sequence[str]) -> int:
    argv, group = arguments.split_group(argv)
    config, workdir, resume = arguments.parse(argv)
    # Late, for a bad command line should not wait seconds for these imports.
    from flax_sepconv.training import distributed, loop, results

    try:
        with distributed.meeting(distributed.Group(*group)):
            workdir = distributed.share_path(workdir)
            found = loop.run(config, workdir, resume=resume)
            if distributed.is_first():
                _write(results.summary(found))
    except distributed.LostProcessError as error:
        say(f"error: {error}; continue with: {_resuming(workdir)}")
        return 75
    except loop.DivergedError as error:
        say(f"error: training diverged: {error}")
        return 1
    except loop.InterruptedRunError as error:
        say(f"{error}; continue with: {_resuming(workdir)}")
        return 128 + error.number
    except KeyboardInterrupt:  # Before the first step, behind the last one, or a third one.
        if (workdir / "config.json").exists():
            say(f"interrupted; continue with: {_resuming(workdir)}")
            return 130
        raise
    return 0


def main(argv: Sequence[str]) -> int:
    """Run the command line and return its exit status."""
    for name in ("absl", "asyncio"):  # orbax tells of every file, and of every failure many times
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        if "--help" in argv or "-h" in argv:
            _write(usage.text())
            return 0
        return _stream(argv[1:]) if argv[1:2] == ["stream"] else _train(argv)
    except UserError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:
        return 141
    except Exception:  # a fault of the program; 1, as Python has it, would say that a run diverged
        say(traceback.format_exc())
        return 70


def _command() -> NoReturn:
    keep_memory()  # Where it cannot be, training is slower and else the same.
    guard()
    # Of a write that was begun and failed, where it is collected; the error itself was said.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    status = main(sys.argv)
    settle()
    if distributed := sys.modules.get("flax_sepconv.training.distributed"):
        distributed.leave(status)
    sys.exit(status)


if __name__ == "__main__":
    _command()
