"""The table of formats: what a data set may be stored as, and who finds and reads it."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from flax_sepconv.training.config import DataConfig
from flax_sepconv.training.datasets import places
from flax_sepconv.training.datasets.raw import Faults, Parts
from flax_sepconv.training.settings import UserError


class Format(NamedTuple):
    """One way to store series with labels.

    Attributes:
      description: for people.
      module: of this package; its `read(files, config, faults, is_labelled=True)` returns `Parts`.
      ending: of its files' names.
      find: finds them.
    """

    description: str
    module: str
    ending: str
    find: places.Finder


# With config.data.format "auto", the first one is taken whose files are there.
FORMATS = {
    "ts": Format("NAME_TRAIN.ts and NAME_TEST.ts, of aeon", "ts", ".ts", places.find_pair),
    "csv": Format(
        "labels.csv (columns file, label, and split) beside a CSV file for each series, with a row "
        "for each step and a column for each channel; or one CSV file with a row for each step of "
        "each series",
        "csv_files",
        ".csv",
        places.find_table,
    ),
    "npz": Format(
        "NAME_TRAIN.npz and NAME_TEST.npz, or NAME.npz: arrays inputs (N, L, C) or (N, L), labels, "
        "and lengths (N,) where series are shorter than L",
        "npz",
        ".npz",
        places.find_pair,
    ),
    "tsv": Format(
        "NAME_TRAIN.tsv and NAME_TEST.tsv, of the UCR archive: a line for each series, its label "
        "first; NaN at the end is padding",
        "tsv",
        ".tsv",
        places.find_pair,
    ),
}


def find(config: DataConfig) -> tuple[str, places.Files]:
    """Return the format of the data set that a config means, and its files.

    Raises:
      UserError: there is no such set; those that are there are named.
    """
    names = list(FORMATS) if config.format == "auto" else [config.format]
    try:
        folder = places.folder(config)
        for name in names:
            form = FORMATS[name]
            if files := form.find(folder, config.name, form.ending):
                if missing := [path for path in files.paths.values() if not path.is_file()]:
                    raise UserError(f"no data set {files.name!r}: {missing[0]} does not exist")
                return name, files
        endings = {FORMATS[name].ending: name for name in names}
        if folder.is_file():
            text = f"the name of a data file must end in {' or '.join(endings)}, got {folder}"
            raise UserError(text)
        if config.path and not folder.exists():
            raise UserError(f"config.data.path: there is no file or folder {str(folder)!r}")
        if config.path and (file := places.find_alone(folder, endings)):
            return endings[file.suffix], places.Files(file.stem, {"ALL": file})
        there = _there(folder)
    except (OSError, RuntimeError, ValueError) as error:  # No system has such names, or no user.
        raise UserError(f"cannot look for data set {config.name!r}: {error}") from error
    raise UserError(
        f"no data set {config.name!r} (config.data.name) as {', '.join(names)}; "
        f"found in {folder}: {', '.join(there) or 'none'}"
    )


def _there(folder: Path) -> list[str]:
    found = set()
    for form in FORMATS.values():
        found |= {path.parent.name for path in folder.glob(f"*/*_TRAIN{form.ending}")}
    return sorted(found | {path.parent.name for path in folder.glob(f"*/{places.LABELS}")})


def title(config: DataConfig) -> str:
    """Return the name of a data set: that of its files, or where there are none, the config's."""
    try:
        return find(config)[1].name
    except UserError:  # It is said again where it is read.
        return config.name


def read(config: DataConfig, faults: Faults) -> tuple[places.Files, Parts]:
    """Return the files of the data set that a config means, and what they hold.

    Series in which something is wrong are left out, and what it is noted in `faults`.

    Raises:
      UserError: there is no such set, or a file cannot be read at all.
    """
    name, files = find(config)
    parts = reader(name)(files, config, faults)
    for part in parts.values():
        if not part.series and not faults:
            raise UserError(f"{part.source} holds no series")
    return files, parts


def reader(name: str) -> Callable[..., Parts]:
    """Return the function `read` of a format."""
    module: Any = importlib.import_module(f"flax_sepconv.training.datasets.{FORMATS[name].module}")
    read_files: Callable[..., Parts] = module.read
    return read_files
