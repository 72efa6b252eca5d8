"""The command `predict`: a table of the classes that a run gives to the series of a file."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from flax_sepconv.training import saving, trained, unseen


def table(ids: Sequence[str], answers: np.ndarray, classes: Sequence[str]) -> str:
    """Return probabilities (N, classes) as CSV.

    >>> print(table(["1"], np.array([[0.25, 0.75]]), ["cat", "dog"]))
    id,predicted,probability_cat,probability_dog
    1,dog,0.25,0.75
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "predicted", *(f"probability_{name}" for name in classes)])
    for name, row in zip(ids, answers, strict=True):
        writer.writerow([name, classes[row.argmax()], *(f"{share:.7g}" for share in row)])
    return text.getvalue().rstrip("\n")


def run(
    *,
    workdir: Path,
    data: Path,
    checkpoint: str | None,
    output: Path | None,
    write: Callable[[str], None],
) -> int:
    """Write the class of each series of a file, and the probabilities of all classes.

    Args:
      workdir: of the run.
      data: a file of series, with labels or without.
      checkpoint: which weights, "last" or "best"; None: those that the run was scored with.
      output: a CSV file; None: it is printed.
      write: prints.

    Returns:
      The exit status, 0.

    Raises:
      UserError: the run or the data will not do, or the file cannot be written.
    """
    found = unseen.read(data)
    model = trained.load(workdir, checkpoint)
    text = table(found.ids, model.answers(model.split(found.series)), model.record.classes)
    if output is None:
        write(text)
    else:
        saving.save(output, text + "\n")
    return 0
