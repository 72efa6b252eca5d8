"""The folder of one run: what it was asked to do, and whether it may be written."""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flax_sepconv.training.config import Config, UserError, from_config_dict
from flax_sepconv.training.console import say
from flax_sepconv.training.contents import Contents
from flax_sepconv.training.data import Scaling, Split

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "aeon", "numpy")


@dataclasses.dataclass(frozen=True)
class Record:
    """What a run was asked to do, and what must be known of its data to use what it learned."""

    config: Config
    classes: tuple[str, ...]  # none: a version that did not note them recorded it
    scaling: Scaling | None  # as in `Split`
    contents: dict[str, Contents]  # of the data set's files; none: as for the classes
    target_scaling: Scaling | None = None  # as in `Split`
    channels: tuple[str, ...] = ()  # as in `Split`
    name: str = ""  # as in `Split`; none: a version that did not note it recorded the run


def write_atomically(path: Path, contents: str | bytes) -> None:
    """Replace a file's contents in one step: a reader or a crash sees the old or the new ones."""
    beside = path.with_name(path.name + ".tmp")
    try:
        beside.write_bytes(contents.encode() if isinstance(contents, str) else contents)
        os.replace(beside, path)
    except OSError as error:
        if beside.is_file():
            beside.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


def damaged_folder(workdir: Path) -> Path:
    """Make a new folder for what is damaged: nothing of a run is thrown away in silence."""
    for number in itertools.count(1):
        folder = workdir / f"damaged-{number}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError


def _differences(old: dict[str, Any], new: dict[str, Any], path: str = "config") -> list[str]:
    found = []
    for name in dict.fromkeys([*old, *new]):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{path}.{name}")
        elif a != b:
            found.append(f"{path}.{name} was {a!r} and is now {b!r}")
    return found


def _checked_scaling(mean: Any, deviation: Any, prefix: str = "") -> Scaling | None:
    if mean is None and deviation is None:
        return None
    arrays = np.array(mean), np.array(deviation)
    names = [f"data.{prefix}{name}" for name in ("mean", "deviation")]
    for name, array in zip(names, arrays, strict=True):
        if array.ndim != 1 or not array.size or array.dtype.kind not in "if":
            raise ValueError(f"{name} must be a list of numbers, or both null")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite")
    if len(arrays[0]) != len(arrays[1]):
        raise ValueError(f"{names[0]} and {names[1]} must be equally long")
    if arrays[1].min() <= 0:
        raise ValueError(f"{names[1]} must be > 0")
    return Scaling(*(array.astype(float) for array in arrays))


def _checked_classes(classes: Any) -> tuple[str, ...]:
    if not (isinstance(classes, list) and classes and all(isinstance(c, str) for c in classes)):
        raise ValueError(f"data.classes must be a list of strings, got {str(classes)[:40]}")
    return tuple(classes)


def read_record(workdir: Path) -> Record:
    """Return what a run left about itself.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    file = workdir / "config.json"
    try:
        recorded = json.loads(file.read_text(encoding="utf-8"))
        # A setting that there was not yet had what is its default now.
        config = from_config_dict(recorded["config"])
        if "data" not in recorded:
            return Record(config, (), None, {})
        data = recorded["data"]
        scaling = _checked_scaling(data["mean"], data["deviation"])
        if (scaling is None) != (config.data.standardize == "series"):
            raise ValueError("data.mean must be null just where standardize is 'series'")
        of_targets = data.get("target_mean"), data.get("target_deviation")
        target_scaling = _checked_scaling(*of_targets, "target_")
        if (target_scaling is None) != (config.data.task != "regression"):
            raise ValueError("data.target_mean must be null just where task is not 'regression'")
        files = data.get("files", {})
        contents = {part: Contents(**values) for part, values in files.items()}
        classes = _checked_classes(data["classes"])
        channels = tuple(map(str, data.get("channels", [])))
        name = str(data.get("name", ""))
        return Record(config, classes, scaling, contents, target_scaling, channels, name)
    except FileNotFoundError as error:
        what = "it has no config.json" if workdir.is_dir() else "there is no such folder"
        raise UserError(f"{workdir} holds no run: {what}") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except (UserError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is not the record of a run: {error}") from error


def _described(split: Split, test: Split) -> dict[str, Any]:
    scalings = {}
    for prefix, scaling in (("", split.scaling), ("target_", split.target_scaling)):
        scalings[f"{prefix}mean"] = None if scaling is None else scaling.mean.tolist()
        scalings[f"{prefix}deviation"] = None if scaling is None else scaling.deviation.tolist()
    files = {"TRAIN": split.contents, "TEST": test.contents}
    return {
        "name": split.name,
        "classes": split.classes,
        "channels": split.channels,
        **scalings,
        "files": {
            part: dataclasses.asdict(contents) for part, contents in files.items() if contents
        },
    }


def _check_same(record: Record, config: Config, split: Split, test: Split) -> None:
    """Compare what a run was asked to do, and its data, with what it is asked now.

    Raises:
      UserError: they differ.
    """
    asked, recorded = dataclasses.asdict(config), dataclasses.asdict(record.config)
    del asked["mesh"], recorded["mesh"]  # how a run is divided does not change what it does
    if differences := _differences(recorded, asked):
        raise UserError(f"cannot resume with another config: {'; '.join(differences)}")
    if record.classes and record.classes != split.classes:
        differences = _differences(
            {"classes": list(record.classes)}, {"classes": list(split.classes)}, "data"
        )
    for part, there in (("TRAIN", split), ("TEST", test)):
        then = record.contents.get(part)
        if then and there.contents:
            differences += then.differences(there.contents, there.source)
        elif part == "TRAIN":
            say("the run did not note what its data were: whether they changed is not checked")
    if differences:
        raise UserError(f"cannot resume with other data: {'; '.join(differences)}")


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    """Keep every other trainer out of a folder; the lock goes with the process, however it ends.

    Raises:
      UserError: another one is at work there.
    """
    descriptor = os.open(workdir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another trainer is at work in workdir {workdir}") from error
        except OSError as error:  # some network file systems have no locks
            say(f"workdir {workdir} cannot be locked ({error.strerror}): see that you alone use it")
        yield
    finally:
        os.close(descriptor)


def _check_unused(workdir: Path) -> None:
    if any(path.name != "lock" for path in workdir.iterdir()):
        run = (workdir / "config.json").exists()
        what = "already holds a run: add --resume to continue it," if run else "is not empty:"
        raise UserError(f"workdir {workdir} {what} or name another --workdir")


@contextlib.contextmanager
def open_workdir(
    workdir: Path, config: Config, split: Split, test: Split, *, resume: bool
) -> Iterator[None]:
    """Make the folder of a new run, or check that the one to resume belongs to this one; lock it.

    Raises:
      UserError: it cannot be written; it is in use and `resume` is False; there is nothing to
        resume; another trainer is at work there; or what is there was asked to do something else
        or had other data.
    """
    with contextlib.ExitStack() as stack:
        try:
            if resume:
                _check_same(read_record(workdir), config, split, test)
            else:
                workdir.mkdir(parents=True, exist_ok=True)
                _check_unused(workdir)  # first, for a lock is no business of a foreign folder
            stack.enter_context(_locked(workdir))
            if not resume:
                _check_unused(workdir)
                versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
                record = {
                    "config": dataclasses.asdict(config),
                    "data": _described(split, test),
                    "versions": versions,
                }
                write_atomically(workdir / "config.json", json.dumps(record, indent=2) + "\n")
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            said = f"cannot write workdir {workdir}: {error.strerror or error}{where}"
            raise UserError(said) from error
        yield
