"""What is in a data set, and what is wrong with it: the command ``validate-data``."""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from flax_sepconv.training.config import Config, DataConfig, TaskName, UserError
from flax_sepconv.training.data import check_channels
from flax_sepconv.training.datasets import formats, labels
from flax_sepconv.training.datasets.raw import Faults, Part, Parts, Place

_SHOWN = 50  # findings of a kind, or classes, that are printed one by one


class Finding(NamedTuple):
    """One thing to know before training: with an error, no run begins."""

    is_error: bool
    place: Place | None
    text: str

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        return f"{'error' if self.is_error else 'warning'}: {where}{self.text}"


class Lengths(NamedTuple):
    """Steps of the series of a part."""

    least: int
    median: float
    most: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """What is in one part; what cannot be read is not counted."""

    source: str
    series: int
    lengths: Lengths | None  # None: it has no series
    channels: int
    counts: dict[str, int]  # of each class, or of each label; empty for values
    values: dict[str, float]  # least, mean, deviation and largest of them; empty for classes

    @property
    def imbalance(self) -> float | None:
        """The count of the most frequent class over that of the rarest; None if one has none."""
        least = min(self.counts.values(), default=0)
        return max(self.counts.values()) / least if least else None


@dataclasses.dataclass(frozen=True)
class Report:
    """What is in a data set, and what is to be known before training."""

    name: str
    format: str
    task: TaskName
    parts: dict[str, Summary]
    findings: tuple[Finding, ...]

    @property
    def is_fit(self) -> bool:
        """Whether a run can begin."""
        return not any(finding.is_error for finding in self.findings)

    def lines(self) -> Iterator[str]:
        """Iterate over the report as text."""
        yield f"{self.name}: {self.format}, {self.task}"
        rows = [["part", "series", "shortest", "median", "longest", "channels", "source"]]
        for name, one in self.parts.items():
            lengths = [f"{value:g}" for value in one.lengths or ()] or ["-"] * 3
            counts = [str(one.series), *lengths, str(one.channels)]
            rows.append([name, *counts, one.source])
        yield from _aligned(rows)
        if self.task == "regression":
            yield from self._about_values()
        else:
            yield from self._about_counts()
        for is_error in (True, False):
            kind = [finding for finding in self.findings if finding.is_error == is_error]
            yield from map(str, kind[:_SHOWN])
            if more := kind[_SHOWN:]:
                yield f"and {len(more)} {'errors' if is_error else 'warnings'} more"
        errors = sum(finding.is_error for finding in self.findings)
        yield f"{errors} errors, {len(self.findings) - errors} warnings"

    def _about_values(self) -> Iterator[str]:
        rows = [["targets", "least", "mean", "deviation", "largest"]]
        for name, one in self.parts.items():
            if one.values:
                rows.append([name, *(f"{value:.6g}" for value in one.values.values())])
        yield from _aligned(rows)

    def _about_counts(self) -> Iterator[str]:
        names = list(dict.fromkeys(n for one in self.parts.values() for n in one.counts))
        rows = [["label" if self.task == "multilabel" else "class", *self.parts]]
        for name in names[:_SHOWN]:
            rows.append([name, *(str(one.counts.get(name, 0)) for one in self.parts.values())])
        yield from _aligned(rows)
        if more := names[_SHOWN:]:
            yield f"and {len(more)} more"
        if "TRAIN" in self.parts and (ratio := self.parts["TRAIN"].imbalance):
            yield f"imbalance in training: {ratio:.3g} (most frequent / rarest)"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Iterate over the lines of a table."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def check(config: DataConfig) -> Report:
    """Read a data set and return what is in it and what is wrong with it.

    Raises:
      UserError: there is no such set, or a file cannot be read at all.
    """
    faults = Faults()
    files, parts = formats.read(config, faults)
    more: list[Finding] = []
    try:
        if any(part.series for part in parts.values()):
            parts, said = labels.divided(parts, config)
            more += [Finding(False, None, said)] if said else []
    except UserError as error:
        more.append(Finding(True, None, str(error)))
    train = parts.get("TRAIN")
    if train and train.series:
        check_channels(parts, faults)
        labels.encode(config.task, parts, faults)
        more += [*_about_classes(config.task, train), *_about_channels(train)]
    more += _about_duplicates(parts)
    found = [Finding(True, fault.place, fault.text) for fault in faults]
    summaries = {name: _summary(config.task, part) for name, part in parts.items()}
    form, _ = formats.find(config)
    return Report(files.name, form, config.task, summaries, (*found, *more))


def _summary(task: TaskName, part: Part) -> Summary:
    lengths = [len(series) for series in part.series]
    several = task == "multilabel"
    counts: collections.Counter[str] = collections.Counter(dict.fromkeys(part.classes or (), 0))
    values: dict[str, float] = {}
    if task == "regression":
        targets = labels.values_of(part)
        targets = targets[np.isfinite(targets)]
        if targets.size:
            numbers = (targets.min(), targets.mean(), targets.std(), targets.max())
            names = ("least", "mean", "deviation", "largest")
            values = dict(zip(names, map(float, numbers), strict=True))
    else:
        for label in part.labels:
            counts.update(labels.names_of(label) if several else [label])
    return Summary(
        part.source,
        len(lengths),
        Lengths(min(lengths), float(np.median(lengths)), max(lengths)) if lengths else None,
        part.series[0].shape[1] if lengths else 0,
        {name: counts[name] for name in sorted(counts, key=labels.rank)},
        values,
    )


def _about_classes(task: TaskName, train: Part) -> Iterator[Finding]:
    if task == "regression":
        return
    classes = labels.known_classes(task, train)
    if task == "classification":
        for name in sorted(set(classes) - set(train.labels), key=labels.rank):
            yield Finding(False, None, f"class {name!r} has no training series")
        if len(set(train.labels)) == 1:
            yield Finding(False, None, f"all training series are of class {train.labels[0]!r}")
    elif bare := sum(not labels.names_of(label) for label in train.labels):
        text = f"{bare} of {len(train.labels)} training series have no label"
        yield Finding(False, None, text)


def _about_channels(train: Part) -> Iterator[Finding]:
    """Find channels that do not change: in all training series, or in some of them."""
    width = train.series[0].shape[1]
    whole = [series for series in train.series if series.shape[1] == width]
    low, high = (np.stack([end(series, axis=0) for series in whole]) for end in (np.min, np.max))
    is_long = np.array([len(series) > 1 for series in whole])[:, None]
    counts = ((low == high) & is_long).sum(0)
    for channel, count in enumerate(counts, 1):
        if (least := low[:, channel - 1].min()) == high[:, channel - 1].max():
            text = f"channel {channel} is {least:g} in all training series"
        elif count:
            text = f"channel {channel} does not change in {count} of {len(whole)} training series"
        else:
            continue
        yield Finding(False, None, text)


def _about_duplicates(parts: Parts) -> Iterator[Finding]:
    """Find series of later parts that are in an earlier one, and others that are there twice."""
    seen: dict[bytes, tuple[str, Place, str]] = {}
    for name, part in parts.items():
        for series, place, label in zip(part.series, part.places, part.labels, strict=True):
            digest = hashlib.sha256(f"{series.shape}".encode() + series.tobytes()).digest()
            if digest not in seen:
                seen[digest] = name, place, label
                continue
            where, first, its = seen[digest]
            other = "" if its == label else f", with label {its!r} and not {label!r}"
            yield Finding(False, place, f"the same series is in {where} ({first}){other}")


def run(config: Config, write: Callable[[str], None]) -> int:
    """Print what is in the data set of a config; return the exit status.

    Args:
      config: of which `data` counts.
      write: is given each line.

    Returns:
      0: a run can begin; 2: it cannot.

    Raises:
      UserError: there is no such set, or a file cannot be read at all.
    """
    report = check(config.data)
    for line in report.lines():
        write(line)
    return 0 if report.is_fit else 2
