"""Command line: ``python -m flax_sepconv.training --config configs/japanese_vowels.py``.

And for a causal run: ``python -m flax_sepconv.training stream --workdir DIR``.
"""

import datetime
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from flax_sepconv.training import usage
from flax_sepconv.training.config import Config, UserError, from_config_dict


def _one_line(error: BaseException) -> str:
    """Say what went wrong, and in which line of the config file if it was there."""
    where, cause = "", error.__cause__ or error
    link: BaseException | None = error
    while link is not None:
        for frame, line in traceback.walk_tb(link.__traceback__):
            if frame.f_globals.get("__name__") == "config_config":  # how config_flags names it
                where, cause = f"{frame.f_code.co_filename}, line {line}: ", link
        link = link.__context__
    inner: Any = cause
    while isinstance(inner, BaseException) and len(inner.args) == 1:
        inner = inner.args[0]  # config dicts wrap a KeyError in an AttributeError
    text = re.sub(r"Other fields present: .*\n", "", str(inner))
    text = re.sub(r"(?s)^.*Attempted.*(?=\[Errno)", "", text)
    kind = type(cause).__name__
    if isinstance(cause, KeyError | AttributeError) and not where and "get_config" not in text:
        kind = "no such setting"
    return f"{where}{kind}: {' '.join(text.split())}"


def _parse(argv: Sequence[str]) -> tuple[Config, Path, bool]:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=list(argv))
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    flags.DEFINE_bool("resume", False, "", flag_values=values)
    try:
        rest = values(list(argv))[1:]
        if not rest and values["config"].present:
            getattr(values.config, "data", None)  # raises here if the file could not be read
            config = from_config_dict(values.config)
    except UserError:
        raise
    except Exception as error:  # a config file is a program: it may raise anything
        raise UserError(f"bad arguments: {_one_line(error)}") from error
    if "stream" in rest:
        raise UserError("bad arguments: 'stream' must come first")
    if rest:
        raise UserError(f"bad arguments: unexpected {' '.join(rest)!r}")
    if not values["config"].present:
        raise UserError("bad arguments: --config FILE is required")
    if values.resume and not values.workdir:
        raise UserError("bad arguments: --resume needs --workdir")
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return config, Path(values.workdir or f"runs/{config.data.name}-{stamp}"), values.resume


def _parse_stream(argv: Sequence[str]) -> tuple[Path, str | None, int]:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    flags.DEFINE_enum("checkpoint", None, ["best", "last"], "", flag_values=values)
    flags.DEFINE_integer("every", 1, "", lower_bound=1, flag_values=values)
    try:
        rest = values(list(argv))[1:]
    except flags.Error as error:
        raise UserError(f"bad arguments: {_one_line(error)}") from error
    if rest:
        raise UserError(f"bad arguments: unexpected {' '.join(rest)!r}")
    if not values.workdir:
        raise UserError("bad arguments: --workdir DIR is required")
    return Path(values.workdir), values.checkpoint, values.every


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
    arguments = _parse_stream(argv)
    if sys.stdin is None:
        raise UserError("cannot read stdin: it is closed")
    from flax_sepconv.training import stream

    stream.run(*arguments, sys.stdin.buffer, _write)
    return 0


def _train(argv: Sequence[str]) -> int:
    config, workdir, resume = _parse(argv)
    # Late, for a bad command line should not wait seconds for these imports.
    from flax_sepconv.training import loop, results

    try:
        _write(results.summary(loop.run(config, workdir, resume=resume)))
    except loop.DivergedError as error:
        print(f"error: training diverged: {error}", file=sys.stderr)
        return 1
    except loop.InterruptedRunError as error:
        print(f"{error}; continue with --workdir {workdir} --resume", file=sys.stderr)
        return 128 + error.number
    return 0


def main(argv: Sequence[str]) -> int:
    """Run the command line and return its exit status."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax tells of every file
    try:
        if "--help" in argv or "-h" in argv:
            _write(usage.text())
            return 0
        return _stream(argv[1:]) if argv[1:2] == ["stream"] else _train(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141


if __name__ == "__main__":
    sys.exit(main(sys.argv))
