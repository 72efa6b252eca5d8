"""The command `train`: a run from the command line, and what is said where it ends otherwise."""

import dataclasses
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flax_sepconv.training import distributed, loop, results, series
from flax_sepconv.training import seeds as seeds_of_runs
from flax_sepconv.training import sweep as sweep_of_runs
from flax_sepconv.training.config import Config
from flax_sepconv.training.console import say
from flax_sepconv.training.workdir import read_record

# A run's last file: with it, and results.json, the run is done.
_LAST = ("confusion_matrix.png", "scatter.png", "labels.png")


def _resuming(workdir: Path) -> str:
    """Return the command that continues a run, ready for a shell."""
    python = "python" if shutil.which("python") == sys.executable else sys.executable
    words = [python, "-m", "flax_sepconv.training", "train", "--workdir", str(workdir)]
    return shlex.join(words)


def _finished(config: Config, workdir: Path) -> dict[str, Any] | None:
    """Return the results of a run that has come to its end, where it is asked for as it was.

    None where something is missing: then the run is evaluated again, or refused.
    """
    try:
        found: dict[str, Any] = json.loads((workdir / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    recorded = read_record(workdir).config
    same = dataclasses.replace(config, mesh=recorded.mesh) == recorded
    return found if same and any((workdir / name).exists() for name in _LAST) else None


def _several(
    config: Config,
    workdir: Path,
    seeds: Sequence[int] | None,
    axes: sweep_of_runs.Axes | None,
    resume: bool,
    write: Callable[[str], None],
) -> int | None:
    """Train once for each seed and combination; return the exit status, None for a single run."""
    if resume and (known := series.read(workdir)):
        seeds, axes = seeds or known.seeds, axes or known.sweep
    if axes:
        one = (config.train.seed,)
        return sweep_of_runs.run(config, workdir, axes, seeds or one, resume, write)
    return seeds_of_runs.run(config, workdir, seeds, resume, write) if seeds else None


def run(
    *,
    config: Config,
    workdir: Path,
    resume: bool,
    seeds: Sequence[int] | None,
    sweep: sweep_of_runs.Axes | None,
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    write: Callable[[str], None],
) -> int:
    """Train, or continue a run; print the results and return the exit status.

    Raises:
      UserError: the settings, the data or the folder will not do.
    """
    try:
        with distributed.meeting(distributed.Group(coordinator, processes, process)):
            workdir = distributed.share_path(workdir)
            if (status := _several(config, workdir, seeds, sweep, resume, write)) is not None:
                return status
            found = None
            if resume and not distributed.are_several():
                found = _finished(config, workdir)
                if found:
                    say(f"the run in {workdir} is finished: these are its results")
            found = found or loop.run(config, workdir, resume=resume)
            if distributed.is_first():
                write(results.summary(found))
    except distributed.LostProcessError as error:
        say(f"error: {error}; continue with: {_resuming(workdir)}")
        return 75
    except loop.DivergedError as error:
        say(f"error: training diverged: {error}")
        return 1
    except loop.InterruptedRunError as error:
        say(f"{error}; continue with: {_resuming(workdir)}")
        return 128 + error.number
    except KeyboardInterrupt:  # Before the first step, behind the last one, or a third one.
        if any((workdir / name).exists() for name in ("config.json", "series.json")):
            say(f"interrupted; continue with: {_resuming(workdir)}")
            return 130
        raise
    return 0
