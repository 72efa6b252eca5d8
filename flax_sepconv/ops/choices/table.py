"""The table of choices as a file: JSON, checked when it is read, merged when it is written."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, cast, get_args

from flax_sepconv.ops.choices.classes import PROGRAMS, ShapeClass
from flax_sepconv.ops.limits import Limit

FORMAT = "flax_sepconv table of choices, 1"
Evidence = Literal["measured", "compiled, not run"]
# By the rules of `selection`: it was best, or within what times differ by from run to run.
DEFAULT = "default"
# Larger files were not made by us.
LARGEST = 2**26


class TableError(Exception):
    """A file that is no table of choices, or cannot be read."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What was found for one class of problems.

    Attributes:
        of: the class.
        problem: the very problem that was tried, in words.
        choice: the name of the best lowering, or "default".
        candidates: facts by name, of "default", "stock" (Flax's own layers) and the lowerings: a
            time ("milliseconds"; "roof_microseconds" of what was compiled) and "errors"; or why
            there is none: "declined", "wrong" or "failed".
        kernels: versions of the lowerings that were tried, by name.
        made: date, and versions of packages.
    """

    of: ShapeClass
    problem: str
    choice: str
    candidates: Mapping[str, Mapping[str, Any]]
    kernels: Mapping[str, int]
    made: Mapping[str, Any]

    def wrong(self) -> list[str]:
        """Name the lowerings that were wrong."""
        return [name for name in self.kernels if "wrong" in self.candidates.get(name, {})]


@dataclasses.dataclass(frozen=True)
class Table:
    """What was found on one kind of device.

    Attributes:
        devices: the names of its kind.
        evidence: how it was found.
        rows: one for each class.
        about: what else is known of the machine ("processor", "ceilings", ...).
        path: of the file.
    """

    devices: tuple[str, ...]
    evidence: Evidence
    rows: tuple[Row, ...]
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    path: pathlib.Path | None = None


def read(path: pathlib.Path) -> Table:
    """Read a table.

    Raises:
        TableError: it cannot be read, is damaged, or is something else.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise TableError(f"it is larger than {LARGEST} bytes")
        found = json.loads(data)
        if not isinstance(found, dict) or "format" not in found:
            raise TableError("it is no table of choices: it has no 'format'")
        if found["format"] != FORMAT:
            raise TableError(f"its format is {str(found['format'])[:60]!r}, not {FORMAT!r}")
        return _table(found, path)
    except OSError as error:
        raise TableError(f"it cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        told = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise TableError(f"it is damaged: {' '.join(told.split())[:200]}") from error


def _table(found: Mapping[str, Any], path: pathlib.Path) -> Table:
    devices, evidence = found["devices"], found["evidence"]
    if not (isinstance(devices, list) and devices and all(isinstance(d, str) for d in devices)):
        raise ValueError(f"devices must be a list of names, got {devices!r}")
    if evidence not in get_args(Evidence):
        raise ValueError(f"evidence must be one of {get_args(Evidence)}, got {evidence!r}")
    about = {k: v for k, v in found.items() if k not in ("format", "devices", "evidence", "rows")}
    rows = tuple(map(_row, found["rows"]))
    return Table(tuple(devices), cast(Evidence, evidence), rows, about, path)


def _row(found: Mapping[str, Any]) -> Row:
    row = Row(**(dict(found) | {"of": _class(found["of"])}))
    texts = (row.problem, row.choice)
    facts = (row.candidates, row.kernels, row.made, *row.candidates.values())
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("problem and choice must be texts")
    if not all(isinstance(each, dict) for each in facts):
        raise TypeError("candidates, kernels and made must be objects, and so must each candidate")
    if not all(type(version) is int for version in row.kernels.values()):
        raise TypeError("kernels must have integer versions")
    if row.choice not in (DEFAULT, *row.kernels):
        raise ValueError(f"choice must be {DEFAULT!r} or one of kernels, got {row.choice!r}")
    if row.choice in row.wrong():
        raise ValueError(f"choice is {row.choice!r}, which was wrong")
    for name, each in row.candidates.items():
        for figure in ("milliseconds", "roof_microseconds"):
            if figure in each and not 0 < float(each[figure]) < float("inf"):
                raise ValueError(f"{figure} of {name!r} must be positive, got {each[figure]!r}")
    return row


def _class(found: Mapping[str, Any]) -> ShapeClass:
    made = ShapeClass(**found)
    for field in dataclasses.fields(ShapeClass):
        value = getattr(made, field.name)
        if field.type in (int, bool) and (type(value) is not field.type or value < 0):
            raise TypeError(f"{field.name} must be {field.type.__name__}, got {value!r}")
    if made.program not in PROGRAMS:
        raise ValueError(f"program must be one of {', '.join(PROGRAMS)}, got {made.program!r}")
    if made.limits not in get_args(Limit):
        raise ValueError(f"limits must be one of {get_args(Limit)}, got {made.limits!r}")
    if not isinstance(made.dtype, str) or not isinstance(made.precision, str):
        raise TypeError("dtype and precision must be texts")
    return made


def to_json(table: Table) -> str:
    """Return the text of the file."""
    head = {"format": FORMAT, "devices": list(table.devices), "evidence": table.evidence}
    told = json.dumps(_short({**head, **table.about}), indent=1, allow_nan=False)
    rows = (json.dumps(_short(dataclasses.asdict(row)), allow_nan=False) for row in table.rows)
    lines = ",\n  ".join(rows)
    return f'{told[:-2]},\n "rows": [\n  {lines}\n ]\n}}\n'


def _short(told: Any) -> Any:
    """Round the figures in what is written to four digits."""
    if isinstance(told, float):
        return float(f"{told:.4g}")
    if isinstance(told, Mapping):
        return {name: _short(each) for name, each in told.items()}
    return [_short(each) for each in told] if isinstance(told, list | tuple) else told


def file_of(folder: pathlib.Path, device: str) -> pathlib.Path:
    """Return the path of the table of a kind of device in a folder.

    Example:
        >>> file_of(pathlib.Path("tables"), "NVIDIA H100 80GB HBM3").name
        'nvidia-h100-80gb-hbm3.json'
    """
    return folder / f"{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}.json"


def merge(path: pathlib.Path, table: Table, patience: float = 30.0) -> Table:
    """Write a table; rows of other classes that are in the file already stay.

    Several processes may write at once: each waits for the others, and a reader sees the old file
    or the new one. A damaged or foreign file is kept beside, with ".damaged" behind its name.

    Args:
        path: of the file; its folder is made.
        table: what was found now.
        patience: the seconds to wait for another writer.

    Returns:
        What the file holds now.

    Raises:
        TimeoutError: another process holds the file.
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_name(path.name + ".lock"), patience):
        kept: Iterable[Row] = ()
        if path.exists():
            try:
                before = read(path)
                if before.devices == table.devices and before.evidence == table.evidence:
                    kept = before.rows
                else:
                    raise TableError("it is of another device")
            except TableError:
                path.replace(path.with_name(path.name + ".damaged"))
        rows = {row.of: row for row in (*kept, *table.rows)}
        whole = dataclasses.replace(table, rows=tuple(rows.values()), path=path)
        beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            with beside.open("x", encoding="utf-8") as file:
                file.write(to_json(whole))
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    return whole


@contextlib.contextmanager
def _locked(path: pathlib.Path, patience: float) -> Iterator[None]:
    """Hold a lock that ends with its process; the file of it stays."""
    try:
        import fcntl
    except ImportError:  # Where there are no such locks, the last of two writers wins.
        yield
        return
    deadline = time.monotonic() + patience
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    told = f"another process has been writing beside {path} for {patience:g} s"
                    raise TimeoutError(told) from None
                time.sleep(0.02)
        yield
