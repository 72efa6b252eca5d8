"""A small sweep: every combination of some settings' values, scored on validation series."""

import dataclasses
import itertools
import json
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax_sepconv.training import distributed, series
from flax_sepconv.training.complaints import writing
from flax_sepconv.training.config import Config, UserError, check_name, from_config_dict
from flax_sepconv.training.console import say
from flax_sepconv.training.datasets import formats
from flax_sepconv.training.prepare import prepare
from flax_sepconv.training.search_plots import of_sweep
from flax_sepconv.training.workdir import write_atomically

_LOSS = "validation_loss"
Axes = dict[str, list[Any]]  # values by the name of a setting, such as "train.learning_rate"


def _value(name: str, text: str, default: Any) -> Any:
    """Return what a word means as a value of a setting."""
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        raise UserError(
            f"--sweep {name}: each value must be of type {kind.__name__}, got {text!r}"
        ) from None


def parse(words: Sequence[str]) -> Axes:
    """Return the settings and values that the words after ``--sweep`` name.

    Args:
      words: each is a setting, "=", and its values with commas between them.

    Raises:
      UserError: no such setting; one that cannot be swept; a value that it cannot have; or
        something comes twice.

    >>> parse(["train.learning_rate=1e-3,3e-3", "model.kernel_size=9,31"])
    {'train.learning_rate': [0.001, 0.003], 'model.kernel_size': [9, 31]}
    """
    axes: Axes = {}
    defaults = dataclasses.asdict(Config())
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip().removeprefix("config.")
        if not equals or "." not in name:
            raise UserError(f"--sweep must be like train.learning_rate=1e-3,3e-3, got {word!r}")
        check_name(name)
        group, field = name.split(".")
        if name == "train.seed":
            raise UserError("--sweep cannot have train.seed: --seeds has it")
        if group == "mesh" or (group == "data" and field != "standardize"):
            raise UserError(
                f"--sweep cannot have {name}: settings of data and mesh, standardize aside, do "
                "not change what is learned, or change the series it is scored with"
            )
        if name in axes:
            raise UserError(f"--sweep has {name} twice")
        default = defaults[group][field]
        values = [_value(name, part.strip(), default) for part in text.split(",")]
        for value in values:
            from_config_dict({group: {field: value}})  # its rule
            if values.count(value) > 1:
                raise UserError(f"--sweep {name} has the value {value!r} twice")
        axes[name] = values
    return axes


def changed(config: Config, settings: Mapping[str, Any]) -> Config:
    """Return a config with other values of some settings, given by their names.

    >>> changed(Config(), {"train.epochs": 3}).train.epochs
    3
    """
    values = dataclasses.asdict(config)
    for name, value in settings.items():
        group, field = name.split(".")
        values[group][field] = value
    return from_config_dict(values)


def combinations(axes: Axes) -> Iterator[dict[str, Any]]:
    """Iterate over all combinations of the values; the last setting changes fastest."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _folder(settings: Mapping[str, Any]) -> str:
    """Return the name of the folder of a combination."""
    words = ",".join(f"{name}={value}" for name, value in settings.items())
    return urllib.parse.quote(words, safe="=,.+-")


def _name(settings: Mapping[str, Any]) -> str:
    """Return what a combination is called in a table or picture."""
    return ", ".join(f"{name.split('.')[1]} {value}" for name, value in settings.items())


def run(
    config: Config,
    workdir: Path,
    axes: Axes,
    seeds: Sequence[int],
    resume: bool,
    write: Callable[[str], None],
) -> int:
    """Train every combination with every seed; leave summary.json and summary.png in `workdir`.

    The combination with the least validation loss, as a mean over the seeds, is chosen; one whose
    training diverged with some seed is not. How the others do on the test series is no part of
    the summary, so that these stay unseen by the choice.

    All processes call this; the first one writes.

    Args:
      config: of each run, but for its seed and what is swept.
      workdir: of the sweep; a run is in a folder named by its combination, in seed-N.
      axes: as `parse` returns them, at least one.
      seeds: of the runs, at least one.
      resume: continue the sweep in `workdir`, perhaps with more values or seeds: runs that are
        finished are not trained again, one that was stopped goes on from its checkpoint.
      write: prints lines.

    Returns:
      The exit status: 0, or 1 where the training of every combination diverged.

    Raises:
      UserError: there are no series to validate with; as `loop.run`; and as `series.begin`.
      InterruptedRunError: as `loop.run`.
    """
    grid = list(combinations(axes))
    configs = [changed(config, settings) for settings in grid]
    if prepare(configs[0]).validation is None:
        raise UserError(
            "--sweep needs series to validate with: config.data.validation_fraction must be > 0, "
            "got 0.0"
        )
    series.begin(workdir, series.Series(config, tuple(seeds), axes), resume)
    outcomes, found = [], []
    with series.compiled_once():
        for number, (settings, one) in enumerate(zip(grid, configs, strict=True), 1):
            say(f"combination {number} of {len(grid)}: {_name(settings)}")
            outcomes.append(series.train(one, workdir / _folder(settings), seeds))
            scores = series.gather(outcomes[-1], ("validation_",))
            found.append({"name": _name(settings), "settings": settings, **scores})
    record: dict[str, Any] = {
        "data_set": formats.title(config.data),
        "seeds": list(seeds),
        "sweep": axes,
        "combinations": found,
        "chosen": None,
    }
    means = [float("inf") if one["diverged"] else one["statistics"][_LOSS]["mean"] for one in found]
    best = means.index(min(means))
    if not found[best]["diverged"]:
        record["chosen"] = {
            "settings": grid[best],
            "folder": _folder(grid[best]),
            **series.gather(outcomes[best]),
            "ensemble": series.ensemble(outcomes[best]),
        }
    with distributed.agreement(), writing(workdir):
        if distributed.is_first():
            write_atomically(workdir / "summary.json", json.dumps(record, indent=2) + "\n")
            if record["chosen"]:
                of_sweep(record, workdir / "summary.png")
    if distributed.is_first():
        write(_report(found))
        if record["chosen"]:
            write(f"\nchosen by validation loss: {found[best]['name']}; its results:\n")
            write(series.report(outcomes[best]))
    return 0 if record["chosen"] else 1


def _report(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the validation scores of all combinations as a table."""
    names = list(next((one["statistics"] for one in found if one["statistics"]), {}))
    columns = [f"{name}{of}" for name in names for of in ("", " (sd)")] or ["result"]
    rows: dict[str, list[float | str | None]] = {}
    for one in found:
        if one["diverged"]:
            rows[one["name"]] = ["diverged"]
            continue
        numbers = [one["statistics"][name] for name in names]
        rows[one["name"]] = [n[of] for n in numbers for of in ("mean", "standard_deviation")]
    return series.table(columns, rows)
