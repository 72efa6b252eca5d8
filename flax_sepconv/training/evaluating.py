"""The command `evaluate`: measures of a run on labelled series, and a picture of them."""

import json
from collections.abc import Callable
from pathlib import Path

from flax_sepconv.training import data as data_sets
from flax_sepconv.training import metrics, saving, trained
from flax_sepconv.training.complaints import writing
from flax_sepconv.training.config import UserError
from flax_sepconv.training.datasets import unseen
from flax_sepconv.training.datasets.raw import Part
from flax_sepconv.training.plots import outcome
from flax_sepconv.training.splits import Split
from flax_sepconv.training.trained import Trained


def _own(run: Trained) -> tuple[Split, str]:
    """Return the test split of a run, and what it is called.

    Raises:
      UserError: it cannot be read, or is no longer what it was.
    """
    config = run.record.config.data
    _, test = data_sets.load(config)
    file = test.source
    then, differences = run.record.contents.get("TEST"), []
    if then and test.contents:
        differences = then.differences(test.contents, file)
    if test.classes != run.record.classes:
        differences.append(f"classes were {run.record.classes} and are now {test.classes}")
    if differences:
        raise UserError(f"the run's data have changed: {'; '.join(differences)}; name them: --data")
    return test, file


def _of(path: Path, part: Part, run: Trained) -> tuple[Split, str]:
    """Return the series of a file as the run takes them, and what it is called."""
    record = run.record
    labels = unseen.targets(part, record.config.data, record.classes, record.target_scaling)
    return run.split(part.series, labels), path.name


def run(
    *,
    workdir: Path,
    data: Path | None,
    checkpoint: str | None,
    output: Path | None,
    write: Callable[[str], None],
) -> int:
    """Leave metrics.json and a picture in a folder, and print the measures.

    Args:
      workdir: of the run.
      data: labelled series, in any format of a data set; None: the run's own test series.
      checkpoint: which weights, "last" or "best"; None: those that the run was scored with.
      output: the folder; None: ``evaluation`` in that of the run.
      write: prints.

    Returns:
      The exit status, 0.

    Raises:
      UserError: the run or the data will not do, or the folder cannot be written.
    """
    record = trained.known(workdir)
    task, given = record.config.data.task, None
    if data:
        given = data, unseen.read(data, record.config.data, record.channels, is_labelled=True)
    model = trained.load(workdir, checkpoint)
    split, source = _of(*given, model) if given else _own(model)
    answers = model.answers(split)
    found = metrics.of(task, answers, split.targets, split.classes)
    about = {"data": source, "series": len(split), "weights": model.checkpoint}
    folder = output or workdir / "evaluation"
    saving.make_folder(folder)
    saving.save(folder / "metrics.json", json.dumps(about | found, indent=2) + "\n")
    title = f"{model.title}, {len(split)} series: {metrics.headline(task, found)}"
    with writing(folder):
        outcome(task, answers, split.targets, split.classes, title, folder)
    of = f" ({len(split)} series of {source}; weights: {model.checkpoint})"
    lines = {
        metrics.words(name): metrics.number(task, value)
        for name, value in found.items()
        if isinstance(value, float)
    }
    first = next(iter(lines))
    lines |= {first: lines[first] + of, "results": str(folder)}
    width = max(map(len, lines)) + 2
    write("\n".join(f"{name:<{width}}{value}" for name, value in lines.items()))
    return 0
