"""Exports that do without the lowerings that other processes lack, also where they are named.

Names are resolved when a program is lowered, not when it is traced: JAX keeps what it traced, and
that must not depend on what it was traced for first.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

import jax

from flax_sepconv.ops.context import Context
from flax_sepconv.ops.lowerings import PORTABLE


class Replaced(NamedTuple):
    """A lowering that was named, a platform, and the lowering that took its place there."""

    named: str
    platform: str
    taken: str


class _Export(NamedTuple):
    implementation: str | None
    replaced: set[Replaced]


_export: contextvars.ContextVar[_Export | None] = contextvars.ContextVar("export", default=None)
# The name that all layers are to take. JAX traces anew where it differs: what is traced as XLA's
# own operations cannot be replaced when it is lowered.
_wanted = jax.make_user_context(None)


@contextlib.contextmanager
def portable(implementation: str | None = None) -> Iterator[set[Replaced]]:
    """Export what any process can run; yield the set of what was replaced for that.

    Args:
        implementation: one of `PORTABLE` for all layers, or None: what they name, if it is one.
    """
    export = _Export(implementation, set())
    token = _export.set(export)
    try:
        with _wanted(implementation):
            yield export.replaced
    finally:
        _export.reset(token)


def is_unwanted(implementation: str) -> bool:
    """Tell whether JAX traces for an export in which another lowering takes this one's place."""
    return _wanted.value not in (None, implementation)


def resolve_name(
    implementation: str | None, context: Context
) -> tuple[str | None, set[Replaced] | None]:
    """Return the name that holds in a program, and where to note what takes a lost one's place."""
    export = _export.get()
    if export is None or context.surroundings != "exported":
        return implementation, None
    if export.implementation is not None or implementation in (None, *PORTABLE):
        return export.implementation or implementation, None
    return None, export.replaced
