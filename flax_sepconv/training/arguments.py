"""What the command line asks for, or in one line what is wrong with it."""

import contextlib
import datetime
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from flax_sepconv.training import configs
from flax_sepconv.training.config import (
    Config,
    check_name,
    complete,
    from_config_dict,
    to_config_dict,
)
from flax_sepconv.training.settings import UserError


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
    text = " ".join(re.sub(r"(?s)^.*Attempted.*(?=\[Errno)", "", str(inner)).split())
    kind = "" if " is not a setting; " in text else f"{type(cause).__name__}: "
    return f"{where}{kind}{text}"


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn whatever is raised into a `UserError`; a config file is a program: it may do anything.

    Raises:
      UserError: something was raised.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"bad arguments: {_one_line(error)}") from error


class _ConfigParser(flags.ArgumentParser):
    """Read config files by their names too."""

    def __init__(self, by_path: flags.ArgumentParser) -> None:
        self._by_path = by_path

    def parse(self, argument: str) -> Any:
        """Return the settings that a path or a name means, all there are."""
        return complete(self._by_path.parse(configs.find(argument)))


def _define_config(values: flags.FlagValues, argv: list[str], words: list[str]) -> bool:
    """Define the flags of the settings and return whether there is a config file.

    Without one they change the settings of the run to resume or, so that they are checked at all,
    the defaults. `words` are those of `argv` that are not yet understood.
    """
    for word in words:
        if named := re.fullmatch(r"--?config\.([^=\[]+)(=.*)?", word, re.DOTALL):
            check_name(named[1])
    if any(re.match(r"--?config(=|$)", word) for word in words):
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
        values["config"].parser = _ConfigParser(values["config"].parser)
        return True
    base = Config()
    if values.resume:
        from flax_sepconv.training.workdir import read_record  # late: it takes its time

        base = read_record(Path(values.workdir)).config
    config_flags.DEFINE_config_dict(
        "config", to_config_dict(base), flag_values=values, sys_argv=argv
    )
    return False


def split_group(
    argv: Sequence[str],
) -> tuple[list[str], tuple[str | None, int | None, int | None]]:
    """Return the command line without what it says of several processes, and that.

    Raises:
      UserError: it will not do.
    """
    values = flags.FlagValues()
    values.set_gnu_getopt()
    flags.DEFINE_string("coordinator", None, "", flag_values=values)
    flags.DEFINE_integer("processes", None, "", flag_values=values)
    flags.DEFINE_integer("process", None, "", flag_values=values)
    with _refusals():
        rest = values(list(argv), known_only=True)
    return rest, (values.coordinator, values.processes, values.process)


def parse(argv: Sequence[str]) -> tuple[Config, Path, bool]:
    """Return what to train, where, and whether to resume the run there.

    Raises:
      UserError: the arguments will not do, or the config, or the run to resume.
    """
    values = flags.FlagValues()
    values.set_gnu_getopt()
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    flags.DEFINE_bool("resume", False, "", flag_values=values)
    with _refusals():
        words = values(list(argv), known_only=True)[1:]
        if values.resume and not values.workdir:
            raise UserError("bad arguments: --resume needs --workdir")
        has_file = _define_config(values, list(argv), words)
        rest = values(list(argv))[1:]
        if not rest:
            getattr(values.config, "data", None)  # raises here if the file could not be read
            config = from_config_dict(values.config)
    if "stream" in rest:
        raise UserError("bad arguments: 'stream' must come first")
    if rest:
        raise UserError(f"bad arguments: unexpected {' '.join(rest)!r}")
    if not has_file and not values.resume:
        names = ", ".join(configs.shipped())
        raise UserError(f"bad arguments: --config FILE is required, or one of these names: {names}")
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return config, Path(values.workdir or f"runs/{config.data.name}-{stamp}"), values.resume


def parse_stream(argv: Sequence[str]) -> tuple[Path, str | None, int]:
    """Return which run is to be streamed, by which weights, and how often it answers.

    Raises:
      UserError: the arguments will not do.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    flags.DEFINE_enum("checkpoint", None, ["best", "last"], "", flag_values=values)
    flags.DEFINE_integer("every", 1, "", lower_bound=1, flag_values=values)
    with _refusals():
        rest = values(list(argv))[1:]
    if rest:
        raise UserError(f"bad arguments: unexpected {' '.join(rest)!r}")
    if not values.workdir:
        raise UserError("bad arguments: --workdir DIR is required")
    return Path(values.workdir), values.checkpoint, values.every
