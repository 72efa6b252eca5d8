"""Tools that put functions of their own in the place of `jax.lax`'s, as Qwix does to quantize.

Such a tool finds a weight by its identity, or by the shape that it is kept in. So while one is at
work it is given the weights as they are kept; converters, which read the program that JAX traced,
like the usual shapes better.
"""

from typing import Any

from jax import lax

# What the layer calls, and its code: Qwix replaces the code within the function.
_OWN = {
    function: getattr(function, "__code__", None)
    for function in (lax.conv_general_dilated, lax.dot_general)
}


def is_intercepted() -> bool:
    """Tell whether a tool has replaced the functions of `lax` that the layer calls.

    Example:
        >>> is_intercepted()
        False
    """
    return any(_is_replaced(function, code) for function, code in _OWN.items())


def _is_replaced(function: Any, code: Any) -> bool:
    present = getattr(lax, function.__name__)
    return present is not function or getattr(function, "__code__", None) is not code
