"""Series from files that a run was not given: to score it on them, or to be told its answers."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flax_sepconv.training.config import DataConfig
from flax_sepconv.training.datasets import formats, labels
from flax_sepconv.training.datasets.places import LABELS, Files
from flax_sepconv.training.datasets.raw import ALL, Faults, Part
from flax_sepconv.training.settings import UserError
from flax_sepconv.training.splits import Scaling


def read(path: Path, config: DataConfig, channels: Sequence[str], *, is_labelled: bool) -> Part:
    """Return all series of one file of any format, or of a folder with labels.csv.

    Args:
      path: of the file or the folder; whichever split a series is of there, it is taken.
      config: of the run: its task and the names of columns.
      channels: their names in training; none: they had none.
      is_labelled: whether each must have a label.

    Raises:
      UserError: the file is not there or of no known format, something in it is wrong, or its
        channels are others.
    """
    file = path / LABELS if (path / LABELS).is_file() else path
    if not file.is_file():
        raise UserError(f"there is no file {str(path)!r}, nor {LABELS} in a folder of that name")
    endings = {form.ending: name for name, form in formats.FORMATS.items()}
    if file.suffix not in endings:
        raise UserError(f"the name of a data file must end in {', '.join(endings)}, got {path}")
    faults = Faults()
    read_files = formats.reader(endings[file.suffix])
    parts = read_files(Files(file.stem, {ALL: file}), config, faults, is_labelled=is_labelled)
    faults.refuse()
    found = list(parts.values())
    part = dataclasses.replace(
        found[0],
        source=file.name,
        series=[one for each in found for one in each.series],
        labels=[one for each in found for one in each.labels],
        places=[one for each in found for one in each.places],
        ids=[one for each in found for one in each.ids],
    )
    if not part.series:
        raise UserError(f"{file} holds no series")
    if channels and part.channels and tuple(channels) != part.channels:
        there, then = ", ".join(part.channels), ", ".join(channels)
        raise UserError(f"{file}: the channels are {there}; in training they were {then}")
    return part


def targets(
    part: Part, config: DataConfig, classes: Sequence[str], target_scaling: Scaling | None
) -> np.ndarray:
    """Return the labels of series as `Split.labels` has them.

    Args:
      part: the series.
      config: of the run.
      classes: those that it knows.
      target_scaling: of its training targets; None unless they are values.

    Raises:
      UserError: a label is missing, or none that the run knows; its file and line are named.
    """
    faults = Faults()
    part = dataclasses.replace(part, classes=None)  # what its file declares does not count
    found = labels.encode_part(config.task, part, tuple(classes), faults)
    faults.refuse()
    if target_scaling is not None:
        found = target_scaling(found[:, None])[:, 0]
    return found.astype(np.int32 if config.task == "classification" else np.float32)
