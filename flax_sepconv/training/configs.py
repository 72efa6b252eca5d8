"""The config files that come with the package, by their names."""

import ast
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def shipped() -> dict[str, Path]:
    """Return the config files that come with the package, by their names."""
    # A wheel has them inside the package, a checkout beside it.
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if files := sorted(folder.glob("[!_]*.py")):
            return {file.stem: file for file in files}
    return {}


def title(file: Path) -> str:
    """Return the first line of a config file's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]
