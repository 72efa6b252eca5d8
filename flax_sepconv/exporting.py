"""Exports that do without the lowerings that other processes lack, also where they are named.

Names are replaced when a program is lowered, not when it is traced: JAX keeps what it traced, and
that must not depend on what it was traced for first.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

from flax_sepconv.lowerings import PORTABLE


class Replaced(NamedTuple):
    """A lowering that was named, a platform, and the lowering that took its place there."""

    named: str
    platform: str
    taken: str


_replaced: contextvars.ContextVar[set[Replaced] | None] = contextvars.ContextVar(
    "replaced", default=None
)


@contextlib.contextmanager
def portable() -> Iterator[set[Replaced]]:
    """Export so that any process can run it; yield the set of what was replaced for that."""
    replaced: set[Replaced] = set()
    token = _replaced.set(replaced)
    try:
        yield replaced
    finally:
        _replaced.reset(token)


def replacements(implementation: str | None, surroundings: str | None) -> set[Replaced] | None:
    """Return where to note what takes the place of a named lowering; None if it keeps its place."""
    if implementation is None or implementation in PORTABLE or surroundings != "exported":
        return None
    return _replaced.get()
