"""Look rows up: in the tables that ship with the package, and in the user's, which come first.

Tables are read once in a process, when the first program is lowered, and never again: what a
process takes does not change while it runs.
"""

import contextlib
import contextvars
import functools
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from flax_sepconv.ops.choices.classes import ShapeClass
from flax_sepconv.ops.choices.table import DEFAULT, Row, Table, TableError, read
from flax_sepconv.ops.lowerings import LOWERINGS

VARIABLE = "FLAX_SEPCONV_TUNED"
SHIPPED = pathlib.Path(__file__).with_name("tables")

_tried: contextvars.ContextVar[str | None] = contextvars.ContextVar("tried", default=None)


class Found(NamedTuple):
    """A row, and the table that it is in."""

    row: Row
    table: Table

    def __str__(self) -> str:
        assert self.table.path is not None
        candidates = self.row.candidates.items()
        figures = [f"{name} {told}" for name, facts in candidates if (told := _figure(facts))]
        where = f"{self.table.path.name}, {self.row.of}"
        return f"{self.table.evidence} on {self.table.devices[0]} ({where}: {', '.join(figures)})"


def _figure(facts: object) -> str | None:
    if not isinstance(facts, dict) or "wrong" in facts:
        return None
    if "milliseconds" in facts:
        return f"{facts['milliseconds']:.4g} ms"
    roof = facts.get("roof_microseconds")
    return f"at least {roof:.4g} us" if roof else None


class _Choices(NamedTuple):
    """All that is known of one kind of device: rows by class, and who was wrong where."""

    rows: dict[ShapeClass, Found]
    wrong: dict[str, Found]


def row_for(kind: str | None, of: ShapeClass | None) -> Found | None:
    """Return the row that decides for a class on a kind of device, or None."""
    if kind is None or of is None:
        return None
    return _choices(os.environ.get(VARIABLE)).get(kind, _NOTHING).rows.get(of)


def refused(kind: str | None) -> dict[str, Found]:
    """Return the lowerings that were wrong on a kind of device, and a row that says so of each."""
    if kind is None or _tried.get():
        return {}
    return _choices(os.environ.get(VARIABLE)).get(kind, _NOTHING).wrong


@contextlib.contextmanager
def trying(name: str) -> Iterator[None]:
    """Lower programs as if there were no tables ("default"), or as if they all chose one lowering.

    That one runs then, or raises NotImplementedError.
    """
    token = _tried.set(name)
    try:
        yield
    finally:
        _tried.reset(token)


def tried() -> str | None:
    """Return what `trying` was told, or None."""
    return _tried.get()


def user_folder(setting: str | None = None) -> pathlib.Path | None:
    """Return the folder of the user's tables; None where all tables are off.

    Args:
        setting: of `FLAX_SEPCONV_TUNED`; None: it is not set.
    """
    if setting is not None:
        return pathlib.Path(setting).expanduser() if setting else None
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path("~", ".cache").expanduser()
    return pathlib.Path(cache, "flax_sepconv", "tuned")


_NOTHING = _Choices({}, {})


@functools.lru_cache(maxsize=8)
def _choices(setting: str | None) -> dict[str, _Choices]:
    """Read all tables: by kind of device, the later ones over the earlier."""
    folder = user_folder(setting)
    if folder is None:
        return {}
    known: dict[str, _Choices] = {}
    for path in (*_tables(SHIPPED), *_tables(folder)):
        try:
            table = read(path)
        except TableError as error:
            warnings.warn(
                f"{path} is left out, and defaults are as without it: {error}", stacklevel=2
            )
            continue
        stale = {name for row in table.rows for name in _stale(row)}
        if stale and path.parent == folder:
            warnings.warn(
                f"{path} was measured with other kernels ({', '.join(sorted(stale))}); such rows "
                "are left out: measure again, by python -m flax_sepconv tune",
                stacklevel=2,
            )
        for device in table.devices:
            _add(known.setdefault(device, _Choices({}, {})), table)
    return known


def _tables(folder: pathlib.Path) -> list[pathlib.Path]:
    try:
        return sorted(folder.glob("*.json"))
    except OSError:
        return []


def _add(choices: _Choices, table: Table) -> None:
    for row in table.rows:
        found, stale = Found(row, table), _stale(row)
        is_current = not stale if row.choice == DEFAULT else row.choice not in stale
        if is_current and is_usable(row, table):
            choices.rows[row.of] = found
        for name in row.wrong():
            if name in LOWERINGS and name not in stale:
                choices.wrong.setdefault(name, found)


def _stale(row: Row) -> set[str]:
    """Name the lowerings of a row that are not what was tried; one that declined was not."""
    return {
        name
        for name, version in row.kernels.items()
        if name in LOWERINGS
        and LOWERINGS[name].version != version
        and "declined" not in row.candidates.get(name, {})
    }


def is_usable(row: Row, table: Table) -> bool:
    """Tell whether a row may decide: who was not run decides among XLA's own forms alone."""
    if row.choice == DEFAULT:
        return True
    chosen = LOWERINGS.get(row.choice)
    return chosen is not None and (table.evidence == "measured" or chosen.is_portable)
