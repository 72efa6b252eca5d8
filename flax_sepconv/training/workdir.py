"""The folder of one run: what it was asked to do, and whether it may be written."""

import dataclasses
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

from flax_sepconv.training.config import Config, UserError

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "aeon", "numpy")


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


def _check_same(file: Path, asked: dict[str, Any]) -> None:
    try:
        recorded = json.loads(file.read_text(encoding="utf-8"))["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not the record of a run: {error}") from error
    if differences := _differences(recorded, asked):
        raise UserError(f"cannot resume with another config: {'; '.join(differences)}")


def open_workdir(workdir: Path, config: Config, *, resume: bool) -> None:
    """Make the folder of a new run, or check that the one to resume belongs to this config.

    Raises:
      UserError: it cannot be written; it is in use and `resume` is False; there is nothing to
        resume; or what is there was asked to do something else.
    """
    file = workdir / "config.json"
    asked = dataclasses.asdict(config)
    try:
        if resume:
            if not file.is_file():
                raise UserError(f"nothing to resume: {workdir} holds no run")
            _check_same(file, asked)
            return
        workdir.mkdir(parents=True, exist_ok=True)
        if any(workdir.iterdir()):
            what = "already holds a run: add --resume to continue it," if file.exists() else (
                "is not empty:"
            )  # fmt: skip
            raise UserError(f"workdir {workdir} {what} or name another --workdir")
        versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
        write_atomically(file, json.dumps({"config": asked, "versions": versions}, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write workdir {workdir}: {error.strerror or error}") from error
