"""Results that a command leaves in files."""

from pathlib import Path

from flax_sepconv.training.complaints import writing
from flax_sepconv.training.workdir import write_atomically


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
