"""CSV: a folder with a file for each series and labels.csv, or all series in one long table."""

import dataclasses
import datetime
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flax_sepconv.training.config import DataConfig
from flax_sepconv.training.datasets.places import LABELS, Files
from flax_sepconv.training.datasets.raw import (
    ALL,
    NAMES,
    Faults,
    Part,
    Parts,
    Place,
    block,
    numbers,
)
from flax_sepconv.training.datasets.tables import Table, same_columns, split_name
from flax_sepconv.training.settings import UserError


def read(files: Files, config: DataConfig, faults: Faults, *, is_labelled: bool = True) -> Parts:
    """Return what the files hold; without `is_labelled` labels need not be there.

    Raises:
      UserError: a table cannot be read at all, or lacks a column.
    """
    file = files.paths[ALL]
    table = Table(file, faults)
    if is_labelled:
        table.index(config.label_column, "config.data.label_column")
    if file.name == LABELS:
        return _read_folder(table, config, faults)
    return _read_long(table, config, faults)


@dataclasses.dataclass
class _Series:
    """What is known of one series: of a long table, until all its lines are read."""

    name: str
    place: Place  # where its label is
    label: str
    part: str | None  # None: there was a fault
    steps: Any = dataclasses.field(default_factory=list)  # L of C numbers
    times: list[float] = dataclasses.field(default_factory=list)
    lines: list[int] = dataclasses.field(default_factory=list)


def _collected(
    found: list[_Series], table: Table, is_split: bool, channels: Sequence[str]
) -> Parts:
    parts = {}
    for name in NAMES if is_split else [ALL]:
        these = [one for one in found if one.part == name]
        if these or name != "VALIDATION":
            parts[name] = Part(
                f"{table.file.name}, {name.lower()}" if is_split else table.file.name,
                [np.array(one.steps, np.float64) for one in these],
                [one.label for one in these],
                [one.place for one in these],
                [one.name for one in these],
                channels=tuple(channels),
            )
    return parts


def _read_folder(table: Table, config: DataConfig, faults: Faults) -> Parts:
    file, of_file = table.file, table.index("file")
    of_label, of_split = table.find(config.label_column), table.find(config.split_column)
    found: list[_Series] = []
    seen: dict[Path, int] = {}
    columns: list[str] = []
    for line, cells in table:
        place, before, name = Place(file, line), len(faults), cells[of_file].strip()
        path = file.parent / name
        part = ALL if of_split is None else split_name(cells[of_split], place, faults)
        if path in seen:
            faults.note(place, f"{path.name} is in line {seen[path]} already")
        seen.setdefault(path, line)
        steps = None
        try:
            one = Table(path, faults)
            columns = columns or one.columns
            if same_columns(one.columns, columns, Place(path, 1), faults):
                read = list(one)
                rows = [row for _, row in read]
                steps = block(rows, [number for number, _ in read], columns, path, faults)
                if not rows and len(faults) == before:
                    faults.note(Place(path), "holds no steps")
        except UserError as error:
            faults.note(place, str(error))
        if steps is not None and len(faults) == before:
            label = "" if of_label is None else cells[of_label].strip()
            found.append(_Series(name, place, label, part, steps))
    return _collected(found, table, of_split is not None, columns)


def _read_long(table: Table, config: DataConfig, faults: Faults) -> Parts:
    file, of_id = table.file, table.index(config.series_column, "config.data.series_column")
    of_label, of_split = table.find(config.label_column), table.find(config.split_column)
    of_time = None
    if config.time_column:
        of_time = table.index(config.time_column, "config.data.time_column")
    others = {of_id, of_label, of_time, of_split}
    channels = [name for i, name in enumerate(table.columns) if i not in others]
    if config.channel_columns:
        channels = [name.strip() for name in config.channel_columns.split(",")]
    of_channels = [table.index(name, "config.data.channel_columns") for name in channels]
    if not channels:
        raise UserError(f"{file} has no column for a channel")
    found: dict[str, _Series] = {}
    kinds: dict[str, int] = {}
    for line, cells in table:
        place, before = Place(file, line), len(faults)
        part = ALL if of_split is None else split_name(cells[of_split], place, faults)
        label = "" if of_label is None else cells[of_label].strip()
        name = cells[of_id].strip()
        if (one := found.get(name)) is None:
            one = found[name] = _Series(name, place, label, part)
        if one.label != label:
            first = f"{one.label!r} in line {one.place.line}"
            faults.note(place, f"the label of series {one.name!r} is {first}, here {label!r}")
        if part and one.part and one.part != part:
            other = f"is of another split in line {one.place.line}"
            faults.note(place, f"series {one.name!r} {other}")
        values = numbers([cells[i] for i in of_channels], channels, place, faults)
        time = float(line) if of_time is None else _time(cells[of_time], place, kinds, faults)
        if values is not None and time is not None and len(faults) == before:
            one.steps.append(values)
            one.times.append(time)
            one.lines.append(line)
        else:
            one.part = None
    if len(kinds) > 1:
        number, date = kinds["number"], kinds["date"]
        text = f"times must be all numbers or all dates: line {number} has a number"
        faults.note(Place(file, date), text)
    for one in found.values():
        _sort(one, file, faults)
    return _collected(list(found.values()), table, of_split is not None, channels)


def _sort(one: _Series, file: Path, faults: Faults) -> None:
    """Put the steps of a series in the order of their times, none of which comes twice."""
    order = np.argsort(one.times, kind="stable")
    for first, second in itertools.pairwise(order):
        if one.times[first] == one.times[second]:
            before = f"has this time in line {one.lines[first]} already"
            faults.note(Place(file, one.lines[second]), f"series {one.name!r} {before}")
            one.part = None
    one.steps = [one.steps[i] for i in order]


def _time(cell: str, place: Place, kinds: dict[str, int], faults: Faults) -> float | None:
    """Return a time as a number that sorts as it does; None, and a fault, if it is none."""
    try:
        time, kind = float(cell), "number"
    except ValueError:
        try:
            date = datetime.datetime.fromisoformat(cell.strip())
        except ValueError:
            faults.note(
                place, f"the time must be a number or a date of ISO 8601, got {cell[:40]!r}"
            )
            return None
        utc = date if date.tzinfo else date.replace(tzinfo=datetime.UTC)
        time, kind = utc.timestamp(), "date"
    if not math.isfinite(time):
        faults.note(place, f"the time must be finite, got {cell!r}")
        return None
    kinds.setdefault(kind, place.line or 0)
    return time
