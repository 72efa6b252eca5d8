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
from flax_sepconv.training.commands import COMMANDS, Command, Option
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


def _define(values: flags.FlagValues, option: Option) -> None:
    """Define the flag of an option."""
    if option.kind is bool:
        flags.DEFINE_bool(option.name, option.default, "", flag_values=values)
    elif option.kind is int:
        least = None if option.default is None else 1
        flags.DEFINE_integer(option.name, option.default, "", least, flag_values=values)
    elif option.repeated:
        flags.DEFINE_multi_string(option.name, option.default, "", flag_values=values)
    elif option.choices:
        flags.DEFINE_enum(option.name, option.default, option.choices, "", flag_values=values)
    else:
        flags.DEFINE_string(option.name, option.default, "", flag_values=values)


def _define_config(
    values: flags.FlagValues, argv: list[str], words: list[str], run: Path | None
) -> bool:
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
    if run:
        from flax_sepconv.training import series, workdir  # late: they take their time

        several = series.read(run)
        base = several.config if several else workdir.read_record(run).config
    config_flags.DEFINE_config_dict(
        "config", to_config_dict(base), flag_values=values, sys_argv=argv
    )
    return False


def _run_to_resume(command: Command, values: flags.FlagValues, words: list[str]) -> Path | None:
    """Return the run that is to be continued, if one is: `--resume`, or a run and no config file.

    Raises:
      UserError: one is, and none is named.
    """
    if command.settings != "file or run":
        return None
    if values.resume and not values.workdir:
        raise UserError("bad arguments: --resume needs --workdir")
    if values.resume:
        return Path(values.workdir)
    has_file = any(re.match(r"--?config(=|$)", word) for word in words)
    if not values.workdir or has_file:
        return None
    folder = Path(values.workdir)
    known = any((folder / name).exists() for name in ("config.json", "series.json"))
    return folder if known else None


def _value(given: Any, option: Option) -> Any:
    return option.kind(given) if given not in (None, "") else None


def _settings(
    values: flags.FlagValues, command: Command, argv: list[str]
) -> tuple[list[str], bool, Path | None]:
    """Read a line with settings.

    Returns:
      The words that are no options, whether there is a config file, and the run to continue.
    """
    unknown = values(argv, known_only=True)[1:]
    if any(re.match(r"--?data(=|$)", word) for word in unknown):
        raise UserError("bad arguments: --data must be --config.data.path=PATH here: a setting")
    run = _run_to_resume(command, values, unknown)
    has_file = _define_config(values, argv, unknown, run)
    for option in command.options:
        if option.repeated:  # What was read is read again, and would be there twice.
            values[option.name].unparse()
    rest = values(argv)[1:]
    if not rest:
        getattr(values.config, "data", None)  # raises here if the file could not be read
    return rest, has_file, run


def parse(command: Command, words: Sequence[str]) -> dict[str, Any]:
    """Return what a command is given: its options by their names and, if it takes one, ``config``.

    ``resume`` is also True where ``workdir`` holds a run and no config file is given.

    Raises:
      UserError: the arguments will not do, or the config, or the run to resume.
    """
    argv = [command.name, *words]
    values = flags.FlagValues()
    values.set_gnu_getopt()
    for option in command.options:
        _define(values, option)
    has_settings, has_file, run = command.settings != "no", False, None
    with _refusals():
        if has_settings:
            rest, has_file, run = _settings(values, command, argv)
        else:
            rest = values(argv)[1:]
        given = {each.name: _value(values[each.name].value, each) for each in command.options}
        if has_settings and not rest:
            given["config"] = from_config_dict(values.config)
    if named := [word for word in rest if word in COMMANDS]:
        raise UserError(f"bad arguments: {named[0]!r} must come first")
    if rest:
        raise UserError(f"bad arguments: unexpected {' '.join(rest)!r}")
    for option in command.options:
        if option.required and given[option.name] is None:
            raise UserError(f"bad arguments: --{option.name} {option.value} is required")
    is_known = has_file or run or (has_settings and given["config"].data.path)
    if command.settings in ("file", "file or run") and not is_known:
        names = ", ".join(configs.shipped())
        raise UserError(
            f"bad arguments: --config FILE is required, or one of these names: {names}; or "
            "--config.data.path=PATH, of data of your own"
        )
    if "resume" in given:
        given["resume"] = run is not None
    if has_settings and given.get("workdir", Path()) is None:
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        from flax_sepconv.training.datasets import formats

        given["workdir"] = Path(f"runs/{formats.title(given['config'].data)}-{stamp}")
    return given
