"""What may be given as a padding."""

import numbers
from typing import Any

from flax_sepconv.ops.geometry import EDGES, PADDINGS, PaddingRule


def padding_rule(padding: Any) -> PaddingRule:
    """Resolve a padding: a name in any case, or numbers as `flax.linen.Conv` and PyTorch take them.

    Example:
        >>> padding_rule("SAME"), padding_rule(2), padding_rule((1, 3)), padding_rule([(1, 3)])
        ('same', (2, 2), (1, 3), (1, 3))
    """
    zeros: Any = padding
    if isinstance(zeros, str):
        for known in (*PADDINGS, *EDGES):
            if zeros.lower() == known:
                return known
    if isinstance(zeros, list | tuple) and len(zeros) == 1:
        (zeros,) = zeros
    pair = (zeros, zeros) if isinstance(zeros, numbers.Integral) else zeros
    if (
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(isinstance(n, numbers.Integral) and not isinstance(n, bool) for n in pair)
    ):
        low, high = map(int, pair)
        if min(low, high) >= 0:
            return low, high
        raise ValueError(
            f"padding must not be negative, got {padding!r}: cut the steps off the input instead"
        )
    expected = ", ".join(map(repr, (*PADDINGS, *EDGES)))
    raise ValueError(
        f"padding must be one of {expected} (in any case), a number of zeros at both ends, or a "
        f"pair of them (low, high), got {padding!r}"
    )
