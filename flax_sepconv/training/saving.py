"""Results that a command leaves in files."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from flax_sepconv.training.complaints import reason
from flax_sepconv.training.config import UserError
from flax_sepconv.training.workdir import write_atomically


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says where a file cannot be written into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {error.filename or path}: {reason(error)}") from error


def make_folder(folder: Path) -> None:
    """Make a folder, if it is not there.

    Raises:
      UserError: it cannot be made.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def save(path: Path, contents: str | bytes) -> None:
    """Replace a file in one step.

    Raises:
      UserError: it cannot be written.
    """
    with writing(path):
        write_atomically(path, contents)
