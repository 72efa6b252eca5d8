"""The folder of one run: what it was asked to do, and whether it may be written."""

import dataclasses
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from flax_sepconv.training.config import Config, UserError, from_config_dict
from flax_sepconv.training.data import Scaling, Split

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "aeon", "numpy")


@dataclasses.dataclass(frozen=True)
class Record:
    """What a run was asked to do, and what must be known of its data to use what it learned."""

    config: Config
    classes: tuple[str, ...]  # none: a version that did not note them recorded it
    scaling: Scaling | None  # as in `Split`


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's contents in one step: a reader or a crash sees the old or the new ones."""
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def _differences(old: dict[str, Any], new: dict[str, Any], path: str = "config") -> list[str]:
    found = []
    for name in dict.fromkeys([*old, *new]):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{path}.{name}")
        elif a != b:
            found.append(f"{path}.{name} was {a!r} and is now {b!r}")
    return found


def _checked_scaling(mean: Any, deviation: Any) -> Scaling | None:
    if mean is None and deviation is None:
        return None
    arrays = np.array(mean), np.array(deviation)
    for name, array in zip(("mean", "deviation"), arrays, strict=True):
        if array.ndim != 1 or not array.size or array.dtype.kind not in "if":
            raise ValueError(f"data.{name} must be a list of numbers, or both null")
        if not np.isfinite(array).all():
            raise ValueError(f"data.{name} must be finite")
    if len(arrays[0]) != len(arrays[1]):
        raise ValueError("data.mean and data.deviation must be equally long")
    if arrays[1].min() <= 0:
        raise ValueError("data.deviation must be > 0")
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
            return Record(config, (), None)
        data = recorded["data"]
        scaling = _checked_scaling(data["mean"], data["deviation"])
        if (scaling is None) != (config.data.standardize == "series"):
            raise ValueError("data.mean must be null just where standardize is 'series'")
        return Record(config, _checked_classes(data["classes"]), scaling)
    except FileNotFoundError as error:
        what = "it has no config.json" if workdir.is_dir() else "there is no such folder"
        raise UserError(f"{workdir} holds no run: {what}") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except (UserError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is not the record of a run: {error}") from error


def _described(split: Split) -> dict[str, Any]:
    mean, deviation = None, None
    if split.scaling is not None:
        mean, deviation = split.scaling.mean.tolist(), split.scaling.deviation.tolist()
    return {"classes": split.classes, "mean": mean, "deviation": deviation}


def open_workdir(workdir: Path, config: Config, split: Split, *, resume: bool) -> None:
    """Make the folder of a new run, or check that the one to resume belongs to this config.

    Raises:
      UserError: it cannot be written; it is in use and `resume` is False; there is nothing to
        resume; or what is there was asked to do something else.
    """
    file = workdir / "config.json"
    asked = dataclasses.asdict(config)
    try:
        if resume:
            recorded = dataclasses.asdict(read_record(workdir).config)
            if differences := _differences(recorded, asked):
                raise UserError(f"cannot resume with another config: {'; '.join(differences)}")
            return
        workdir.mkdir(parents=True, exist_ok=True)
        if any(workdir.iterdir()):
            what = "already holds a run: add --resume to continue it," if file.exists() else (
                "is not empty:"
            )  # fmt: skip
            raise UserError(f"workdir {workdir} {what} or name another --workdir")
        versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
        record = {"config": asked, "data": _described(split), "versions": versions}
        write_atomically(file, json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write workdir {workdir}: {error.strerror or error}") from error
