"""What a setting is: a default, a meaning, and a rule that its values keep."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple


class UserError(Exception):
    """Something only the caller can mend; its text is one line that says what."""


class Rule(NamedTuple):
    """What a value must be, in words and as a test."""

    text: str
    holds: Callable[[Any], bool]


POSITIVE = Rule("must be > 0", lambda v: v > 0)
MINUS_ONE_OR_POSITIVE = Rule("must be -1 or > 0", lambda v: v == -1 or v > 0)
NOT_NEGATIVE = Rule("must be >= 0", lambda v: v >= 0)
UP_TO_TEN = Rule("must be in [0, 10]", lambda v: 0 <= v <= 10)
FRACTION = Rule("must be in [0, 1)", lambda v: 0 <= v < 1)
ODD = Rule("must be odd and > 0", lambda v: v > 0 and v % 2 == 1)
ODD_OR_ZERO = Rule("must be odd and > 0, or 0", lambda v: v == 0 or ODD.holds(v))
SEED = Rule("must be in [0, 2**31)", lambda v: 0 <= v < 2**31)
NAME = Rule("must be a plain name", lambda v: bool(v) and "/" not in v and v != "..")


def one_of(*names: str) -> Rule:
    """Return the rule that a value has one of these names."""
    return Rule(f"must be one of {', '.join(names)}", lambda v: v in names)


def setting(default: Any, meaning: str, rule: Rule | None = None) -> Any:
    """Return a dataclass field that says what it means; checks and the help read it there."""
    return dataclasses.field(default=default, metadata={"meaning": meaning, "rule": rule})
