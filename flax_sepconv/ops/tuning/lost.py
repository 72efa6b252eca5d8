"""Candidates that took a process, or the device in it, with them: later runs go without them.

Before a candidate is tried its name is written down beside the table, and taken away behind it.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable

from flax_sepconv.ops.choices.classes import ShapeClass
from flax_sepconv.ops.choices.table import Row
from flax_sepconv.ops.lowerings import LOWERINGS

LOST = "it ended an earlier run: the process, or the device in it, was lost"


class Lost:
    """What is known of such candidates, by class.

    Args:
        path: of the file that tells what is being tried; None: nothing is written down.
        rows: of an earlier table.
    """

    def __init__(self, path: pathlib.Path | None = None, rows: Iterable[Row] = ()):
        self._path = path
        self._known: dict[ShapeClass, set[str]] = {}
        for row in rows:
            for name, facts in row.candidates.items():
                is_same = name not in LOWERINGS or row.kernels.get(name) == LOWERINGS[name].version
                if "lost" in facts and is_same:
                    self._known.setdefault(row.of, set()).add(name)
        if path is not None and path.exists():
            try:
                told = json.loads(path.read_text(encoding="utf-8"))
                self._known.setdefault(ShapeClass(**told["of"]), set()).add(told["name"])
            except (ValueError, TypeError, KeyError):
                path.unlink()

    def known(self, of: ShapeClass) -> set[str]:
        """Return the names of those that were lost at a class."""
        return self._known.get(of, set())

    def begin(self, of: ShapeClass, name: str) -> None:
        """Write down what is being tried."""
        if self._path is not None:
            told = {"of": dataclasses.asdict(of), "name": name}
            self._path.write_text(json.dumps(told), encoding="utf-8")

    def end(self) -> None:
        """Take it away again."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
