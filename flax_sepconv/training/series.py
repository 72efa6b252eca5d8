"""Several runs in one folder: what they were asked to do, how they go on, and their statistics."""

import contextlib
import dataclasses
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from flax_sepconv.training import distributed, loop, metrics
from flax_sepconv.training.complaints import writing
from flax_sepconv.training.config import Config, UserError, from_config_dict
from flax_sepconv.training.console import say
from flax_sepconv.training.results import Outcome
from flax_sepconv.training.workdir import write_atomically

_FILE = "series.json"


class Series(NamedTuple):
    """What was asked for."""

    config: Config
    seeds: tuple[int, ...]
    sweep: dict[str, list[Any]]  # values by the name of a setting; none: only the seeds differ


def read(workdir: Path) -> Series | None:
    """Return what the series in a folder was asked to do; None if there is none.

    Raises:
      UserError: its record cannot be read.
    """
    file = workdir / _FILE
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        config = from_config_dict(record["config"])
        return Series(config, tuple(record["seeds"]), dict(record["sweep"]))
    except (OSError, UserError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not the record of a series: {error}") from error


def begin(workdir: Path, series: Series, resume: bool) -> None:
    """Make the folder of a new series, or check that the one to continue has the same settings.

    A series that is continued may have other seeds and other values in its sweep: what is there
    already is not trained again. All processes call this; the first one reads and writes.

    Raises:
      UserError: the folder is in use and `resume` is False; there is no series to resume; or it
        had other settings.
    """
    with distributed.agreement(), writing(workdir):
        if not distributed.is_first():
            return
        found = read(workdir) if workdir.is_dir() else None
        if resume:
            if found is None:
                raise UserError(f"{workdir} holds no series of runs: it has no {_FILE}")
            old, new = (_flat(one.config) for one in (found, series))
            other = [f"{n} was {old[n]!r} and is now {new[n]!r}" for n in new if old[n] != new[n]]
            if other:
                raise UserError(f"cannot resume with another config: {'; '.join(other)}")
        else:
            workdir.mkdir(parents=True, exist_ok=True)
            if any(workdir.iterdir()):
                what = "already holds a series: resume it," if found else "is not empty:"
                raise UserError(f"workdir {workdir} {what} or name another --workdir")
        record = series._asdict() | {"config": dataclasses.asdict(series.config)}
        write_atomically(workdir / _FILE, json.dumps(record, indent=2) + "\n")


def _flat(config: Config) -> dict[str, Any]:
    """Return the settings that all runs of a series share, by name."""
    groups = dataclasses.asdict(config)
    del groups["mesh"], groups["train"]["seed"]
    return {f"config.{g}.{n}": value for g, values in groups.items() for n, value in values.items()}


def train(config: Config, workdir: Path, seeds: Sequence[int]) -> dict[int, Outcome | None]:
    """Train with each seed in workdir/seed-N, or continue there; None: the training diverged.

    A run that has come to its end is evaluated anew from its checkpoint, and not trained.

    Raises:
      UserError: as `loop.run`.
      InterruptedRunError: as `loop.run`; the runs behind this one were not begun.
    """
    found: dict[int, Outcome | None] = {}
    for seed in seeds:
        folder = workdir / f"seed-{seed}"
        known = distributed.first_says((folder / "config.json").exists())
        one = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
        try:
            found[seed] = loop.complete(one, folder, resume=known)
        except loop.DivergedError as error:
            say(f"{folder}: training diverged: {error}")
            found[seed] = None
        except loop.InterruptedRunError as error:
            raise loop.InterruptedRunError(error.number, f"{folder.name} {error}") from error
    return found


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Keep what is compiled, for the runs of a series mostly compile the same.

    In a folder of its own, unless there is one already or there are several processes.
    """
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in names}
    if before[names[0]] or distributed.are_several():
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, value in zip(names, (folder, 0.0, -1), strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()


def scores(outcome: Outcome, prefixes: tuple[str, ...]) -> dict[str, float]:
    """Return the numbers among a run's results whose names begin so."""
    return {
        name: float(value)
        for name, value in outcome.results.items()
        if name.startswith(prefixes) and name != "test_examples" and isinstance(value, int | float)
    }


def summarise(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean, standard deviation (of a sample; None of one value), least and greatest.

    >>> summarise([1.0, 2.0, 3.0])
    {'mean': 2.0, 'standard_deviation': 1.0, 'min': 1.0, 'max': 3.0}
    """
    return {
        "mean": statistics.fmean(values),
        "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
        "min": min(values),
        "max": max(values),
    }


def gather(
    outcomes: Mapping[int, Outcome | None], prefixes: tuple[str, ...] = ("test_", "validation_")
) -> dict[str, Any]:
    """Return the scores of the runs that did not diverge, and their statistics, ready for JSON."""
    runs = {seed: scores(one, prefixes) for seed, one in outcomes.items() if one is not None}
    names = next(iter(runs.values()), {})
    return {
        "diverged": [seed for seed, one in outcomes.items() if one is None],
        "runs": {str(seed): values for seed, values in runs.items()},
        "statistics": {n: summarise([values[n] for values in runs.values()]) for n in names},
    }


def ensemble(outcomes: Mapping[int, Outcome | None]) -> dict[str, Any] | None:
    """Return the scores of the mean of the runs' answers; None where all of them diverged."""
    there = [one for one in outcomes.values() if one is not None]
    if not there:
        return None
    results, _, targets, classes = there[0]
    mean = np.mean([one.answers for one in there], axis=0)
    measures = metrics.of(results["task"], mean, targets, classes)
    told = {f"test_{n}": value for n, value in measures.items() if isinstance(value, float)}
    return {"members": len(there), **told}


def table(columns: Sequence[str], rows: Mapping[str, Sequence[float | str | None]]) -> str:
    """Return rows of numbers under their names, ready to print; a row may be cut short.

    >>> print(table(["a", "loss"], {"seed 0": [0.5, 12], "mean": [0.5, None]}))
                 a    loss
    seed 0     0.5      12
    mean       0.5       -
    """

    def shown(value: float | str | None) -> str:
        return "-" if value is None else value if isinstance(value, str) else f"{value:.4g}"

    cells = {name: [shown(value) for value in values] for name, values in rows.items()}
    first = max(map(len, cells), default=0)
    widths = [
        max(len(name), 6, *(len(v[i]) for v in cells.values() if len(v) > i)) + 2
        for i, name in enumerate(columns)
    ]
    lines = {"": list(columns)} | cells
    return "\n".join(
        f"{name:<{first}}" + "".join(f"{v:>{w}}" for v, w in zip(values, widths, strict=False))
        for name, values in lines.items()
    )


def report(outcomes: Mapping[int, Outcome | None]) -> str:
    """Return the scores of each seed, and of several their statistics and ensemble, as a table."""
    found, together = gather(outcomes), ensemble(outcomes)
    names = list(found["statistics"])
    rows: dict[str, list[float | str | None]] = {}
    for seed, one in outcomes.items():
        values = found["runs"].get(str(seed), {})
        rows[f"seed {seed}"] = [values[name] for name in names] if one else ["diverged"]
    if together and together["members"] > 1:
        for of in ("mean", "standard_deviation", "min", "max"):
            rows[of.replace("_", " ")] = [found["statistics"][name][of] for name in names]
        rows[f"ensemble of {together['members']}"] = [together.get(name) for name in names]
    return table(names or ["result"], rows)
