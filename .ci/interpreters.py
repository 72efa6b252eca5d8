"""Finds a Python of a given version: by PATH, by Windows' launcher, or among pyenv's.

python .ci/interpreters.py 3.12     prints its path, or nothing where there is none
"""

import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

_ASK = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"


def find(version: str) -> str | None:
    """Return the path of a Python of that version ("3.12"), or None."""
    for command in _candidates(version):
        try:
            told = subprocess.run([*command, "-c", _ASK], capture_output=True, text=True)
        except OSError:
            continue
        found, _, path = told.stdout.strip().partition(" ")
        if found == version:  # A shim of pyenv may be there for a version that is not.
            return path
    return None


def _candidates(version: str) -> Iterator[list[str]]:
    yield [f"python{version}"]
    if sys.platform == "win32":
        yield ["py", f"-{version}"]
    root = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv"))
    for python in sorted(root.glob(f"versions/{version}.*/bin/python")):
        yield [str(python)]


if __name__ == "__main__":
    print(find(sys.argv[1]) or "")
