"""The files .tsv of the UCR archive: one channel, a line for each series, its label first."""

from pathlib import Path

import numpy as np

from flax_sepconv.training.config import DataConfig
from flax_sepconv.training.datasets.places import Files
from flax_sepconv.training.datasets.raw import Faults, Part, Parts, Place, numbers
from flax_sepconv.training.settings import UserError


def read(files: Files, config: DataConfig, faults: Faults, *, is_labelled: bool = True) -> Parts:
    """Return what the files hold; without `is_labelled` labels need not be there.

    Raises:
      UserError: a file is not readable, or the task needs several labels for a series.
    """
    del is_labelled  # They are always there: in front of the values.
    if config.task == "multilabel":
        raise UserError(
            "files .tsv have one label for each series: for config.data.task=multilabel store the "
            "data as csv or npz"
        )
    return {part: _read_part(file, faults) for part, file in files.paths.items()}


def _read_part(file: Path, faults: Faults) -> Part:
    part = Part(file.name, [], [], [], [])
    width = 0
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {file}: it is not text in UTF-8") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = Place(file, number)
        label, *cells = line.split("\t")
        width = width or len(cells)
        if len(cells) != width:
            faults.note(place, f"has {len(cells)} values; the first line has {width}")
            continue
        while cells and cells[-1].strip().lower() == "nan":
            cells.pop()
        if not cells:
            faults.note(place, "holds no steps")
        elif values := numbers(cells, range(1, len(cells) + 1), place, faults):
            part.series.append(np.array(values, np.float64)[:, None])
            part.labels.append(label.strip())
            part.places.append(place)
            part.ids.append(str(number))
    return part
