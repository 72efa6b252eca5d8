"""The command `predict`: a table of what a run says of the series of a file."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from flax_sepconv.training import saving, trained
from flax_sepconv.training.config import TaskName
from flax_sepconv.training.datasets import unseen


def table(task: TaskName, ids: Sequence[str], answers: np.ndarray, classes: Sequence[str]) -> str:
    """Return the answers about N series as CSV.

    Args:
      task: what was learned.
      ids: of the series.
      answers: as `tasks.answers` returns them.
      classes: the names of the classes or labels.

    >>> print(table("classification", ["1"], np.array([[0.25, 0.75]]), ["cat", "dog"]))
    id,predicted,probability_cat,probability_dog
    1,dog,0.25,0.75
    >>> print(table("multilabel", ["1"], np.array([[0.75, 0.75]]), ["cat", "dog"]))
    id,predicted,probability_cat,probability_dog
    1,cat|dog,0.75,0.75
    >>> print(table("regression", ["1"], np.array([2.5]), ["value"]))
    id,predicted
    1,2.5
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if task == "regression":
        writer.writerow(["id", "predicted"])
        writer.writerows([name, f"{value:.7g}"] for name, value in zip(ids, answers, strict=True))
        return text.getvalue().rstrip("\n")
    writer.writerow(["id", "predicted", *(f"probability_{name}" for name in classes)])
    for name, row in zip(ids, answers, strict=True):
        chosen = np.flatnonzero(row > 0.5) if task == "multilabel" else [row.argmax()]
        predicted = "|".join(classes[i] for i in chosen)
        writer.writerow([name, predicted, *(f"{share:.7g}" for share in row)])
    return text.getvalue().rstrip("\n")


def run(
    *,
    workdir: Path,
    data: Path,
    checkpoint: str | None,
    output: Path | None,
    write: Callable[[str], None],
) -> int:
    """Write what the network says of each series of a file.

    Args:
      workdir: of the run.
      data: series, in any format of a data set, with labels or without.
      checkpoint: which weights, "last" or "best"; None: those that the run was scored with.
      output: a CSV file; None: it is printed.
      write: prints.

    Returns:
      The exit status, 0.

    Raises:
      UserError: the run or the data will not do, or the file cannot be written.
    """
    record = trained.known(workdir)
    config = record.config.data
    part = unseen.read(data, config, record.channels, is_labelled=False)
    model = trained.load(workdir, checkpoint)
    answers = model.answers(model.split(part.series))
    text = table(config.task, part.ids, answers, record.classes)
    if output is None:
        write(text)
    else:
        saving.save(output, text + "\n")
    return 0
