"""The texts of ``--help``; options, settings and configs are listed as they are declared."""

import dataclasses
import textwrap
from typing import Any

from flax_sepconv.training.commands import COMMANDS, Command, Option

_WIDTH = 100
_EXIT = """\
Exit status: 0 done; 1 diverged; 2 bad arguments or input, or something cannot be written; 129, 130
and 143 interrupted by SIGHUP, SIGINT and SIGTERM; 141 nobody reads the output; 75 another process
of the run was lost; 70 a fault of this program."""

_SETTINGS = (
    Option(
        "config",
        "FILE",
        "the experiment: a file, or the name of one listed below; without it the defaults, for "
        "the data that config.data.path names",
    ),
    Option("config.GROUP.FIELD", "X", "change one of its settings, e.g. --config.train.epochs=3"),
)


def _entry(name: str, text: str, indent: int) -> str:
    """Return a name and, in a column beside it, what it means."""
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=f"  {name:<{indent - 4}}  ",
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
    )


def _setting(group: str, field: "dataclasses.Field[Any]") -> str:
    kind, default, rule = type(field.default), field.default, field.metadata["rule"]
    shown = default if default != "" else "empty"
    text = f"{field.metadata['meaning']}; {f'{rule.text}; ' if rule else ''}default {shown}"
    return _entry(f"--config.{group}.{field.name} {kind.__name__.upper()}", text, 43)


def _settings() -> list[str]:
    """Return the lines that list the configs and the settings."""
    # These need what the extra `train` brings; the list of commands does not.
    from flax_sepconv.training import configs
    from flax_sepconv.training.config import Config

    lines = ["", "Configs:", ""]
    lines += [_entry(name, configs.title(file), 26) for name, file in configs.shipped().items()]
    lines += ["", "Settings, each with the default that a config file may change:"]
    for group in dataclasses.fields(Config):
        kind: Any = type(group.default)
        lines += ["", f"{group.name}: {kind.__doc__}", ""]
        lines += [_setting(group.name, field) for field in dataclasses.fields(kind)]
    return lines


def _option(option: Option) -> str:
    required = "; required" if option.required else ""
    return _entry(f"--{option.name} {option.value}", f"{option.meaning}{required}", 29)


def of(command: Command) -> str:
    """Return what ``COMMAND --help`` prints."""
    options = command.options
    if command.settings != "no":
        options = (*_SETTINGS, *options)
    words = [f"--{each.name} {each.value}".rstrip() for each in options]
    if command.settings != "no":
        words[1] = "--config.GROUP.FIELD=X ..."
    shown = [
        word if each.required else f"[{word}]" for word, each in zip(words, options, strict=True)
    ]
    begin = f"usage: flax-sepconv {command.name} "
    line = textwrap.fill(
        " ".join(word.replace(" ", "\0") for word in shown),
        _WIDTH,
        initial_indent=begin,
        subsequent_indent=" " * len(begin),
        break_on_hyphens=False,
    ).replace("\0", " ")
    about = command.about[0].upper() + command.about[1:]
    lines = [line, "", f"{about}.", "", *map(_option, options)]
    if command.notes:
        lines += ["", command.notes]
    lines += ["", _EXIT]
    if command.settings != "no":
        lines += _settings()
    return "\n".join(lines)


def commands() -> str:
    """Return the commands, a line each."""
    return "\n".join(_entry(each.name, each.about, 24) for each in COMMANDS.values())


def whole() -> str:
    """Return what ``--help`` prints without a command."""
    return f"""usage: python -m flax_sepconv.training COMMAND ...

Networks of separable convolutions for series, from their data to a file that leaves. The commands
are the same as those of flax-sepconv; without one, train is meant.

{commands()}

COMMAND --help tells what each takes; that of train lists all configs and settings.

{_EXIT}"""
