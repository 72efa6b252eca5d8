"""The config files that come with the package, by their names."""

import ast
import difflib
from pathlib import Path

from flax_sepconv.training.settings import UserError

_PACKAGE = Path(__file__).parents[1]


def shipped() -> dict[str, Path]:
    """Return the config files that come with the package, by their names."""
    # A wheel has them inside the package, a checkout beside it.
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if files := sorted(folder.glob("[!_]*.py")):
            return {file.stem: file for file in files}
    return {}


def find(word: str) -> str:
    """Return the path of the config file that a path or a name means.

    What follows a colon is handed on: it is the argument of the file's `get_config`.

    Raises:
      UserError: there is no such file, and no config is called so.
    """
    name, colon, argument = word.partition(":")
    if Path(name).is_file():
        return word
    if Path(name).name != name or name.endswith(".py"):
        raise UserError(f"bad arguments: --config: there is no file {name!r}")
    there = shipped()
    if name not in there:
        close = difflib.get_close_matches(name, there, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(
            f"bad arguments: --config must be a file or a known name, got {name!r}; "
            f"{hint}there are: {', '.join(there)}"
        )
    return f"{there[name]}{colon}{argument}"


def title(file: Path) -> str:
    """Return the first line of a config file's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]
