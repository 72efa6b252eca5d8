"""Where the files of a data set are."""

import importlib.util
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from flax_sepconv.training.config import DataConfig
from flax_sepconv.training.settings import UserError

LABELS = "labels.csv"
_PART = re.compile(r"(.+)_(TRAIN|TEST)")


class Files(NamedTuple):
    """The files of a data set: those of TRAIN and TEST, or one that is called ALL."""

    name: str
    paths: dict[str, Path]


Finder = Callable[[Path, str, str], Files | None]


def folder(config: DataConfig) -> Path:
    """Return where data sets are looked for.

    Raises:
      UserError: aeon, which brings some, is not installed.
    """
    if config.path:
        return Path(config.path).expanduser()
    spec = importlib.util.find_spec("aeon")
    if spec is None or spec.origin is None:
        raise UserError("the data sets come with aeon, which is not installed: pip install aeon")
    return Path(spec.origin).parent / "datasets" / "data"


def _pair(folder: Path, name: str, ending: str) -> Files:
    paths = {part: folder / f"{name}_{part}{ending}" for part in ("TRAIN", "TEST")}
    return Files(name, paths)


def find_pair(path: Path, name: str, ending: str) -> Files | None:
    """Find NAME_TRAIN and NAME_TEST, or NAME alone, which is not split.

    Args:
      path: a folder that holds them or a folder NAME with them, or one of the files.
      name: of the set; where there is none of that name in `path`, the only one there is taken.
      ending: of the files.

    Raises:
      UserError: there are several, and none of that name.
    """
    if path.is_file():
        if path.suffix != ending:
            return None
        if part := _PART.fullmatch(path.stem):
            return _pair(path.parent, part[1], ending)
        return Files(path.stem, {"ALL": path})
    for place in (path / name, path):
        files = _pair(place, name, ending)
        if any(file.is_file() for file in files.paths.values()):
            return files
        if (alone := place / f"{name}{ending}").is_file():
            return Files(name, {"ALL": alone})
    there = sorted(
        {part[1] for p in path.glob(f"*_T*{ending}") if (part := _PART.fullmatch(p.stem))}
    )
    if len(there) > 1:
        raise UserError(f"{path} holds {', '.join(there)}: which one is meant by config.data.name?")
    return _pair(path, there[0], ending) if there else None


def find_table(path: Path, name: str, ending: str) -> Files | None:
    """Find a long table, or the labels.csv of a folder of series; else as `find_pair`."""
    if path.is_file():
        if path.suffix != ending:
            return None
        return Files(
            path.absolute().parent.name if path.name == LABELS else path.stem, {"ALL": path}
        )
    for place in (path / name, path):
        if (labels := place / LABELS).is_file():
            return Files(place.absolute().name, {"ALL": labels})
        if (alone := place / f"{name}{ending}").is_file():
            return Files(name, {"ALL": alone})
    return None


def find_alone(path: Path, endings: Collection[str]) -> Path | None:
    """Find the only file in a folder with one of some endings.

    Raises:
      UserError: there are several.
    """
    there = [file for file in sorted(path.iterdir()) if file.suffix in endings and file.is_file()]
    if len(there) > 1:
        names = ", ".join(file.name for file in there[:5]) + (", ..." if len(there) > 5 else "")
        raise UserError(
            f"{path} holds {names}: one of them must be named by config.data.path; where each is "
            f"one series, {LABELS} must be beside them (columns file, label, and split)"
        )
    return there[0] if there else None
