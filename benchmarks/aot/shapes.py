"""The types in the text of an XLA module: what an array is, and how and where it lies in memory.

See https://openxla.org/xla/shapes and https://openxla.org/xla/tiled_layout.
"""

import dataclasses
import functools
import math
import re
from typing import TypeAlias

# Bits of an element. Tokens and opaque values are no data.
_BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16, "c64": 64, "c128": 128}
_BITS |= {f"{sign}{bits}": bits for sign in "su" for bits in (1, 2, 4, 8, 16, 32, 64)}
_BITS |= {f"f{bits}": bits for bits in (16, 32, 64)}
_SMALL_FLOAT = re.compile(r"f(\d)e\dm\d\w*")

_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\](?:\{([^}]*)\})?")
_LAYOUT = re.compile(r"([\d,]*)(?::((?:[A-Z*#]+(?:\([^()]*\))+)*))?")
_PROPERTY = re.compile(r"([A-Z*#]+)((?:\([^()]*\))+)")
_COMMENT = re.compile(r"/\*.*?\*/")
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[(){}\[\]]')


@dataclasses.dataclass(frozen=True)
class Array:
    """The type of an array.

    Attributes:
        dtype: XLA's name of the element type.
        dims: The dimensions; a bounded dynamic one counts as its bound.
        minor_to_major: The order of the dimensions in memory.
        tiles: The tiling, outermost tile first: `T(8,128)(2,1)` is `((8, 128), (2, 1))`.
        space: The memory space; 0 is main memory.
        bits: Bits of an element, as it is stored.
    """

    dtype: str
    dims: tuple[int, ...]
    minor_to_major: tuple[int, ...]
    tiles: tuple[tuple[int, ...], ...]
    space: int
    bits: int

    @property
    def elements(self) -> int:
        """Return the number of elements, without padding."""
        return math.prod(self.dims)

    @functools.cached_property
    def bytes(self) -> int:
        """Return the bytes that the array takes, padding to whole tiles included."""
        sizes = [self.dims[dimension] for dimension in reversed(self.minor_to_major)]
        for tile in self.tiles:
            sizes = [1] * (len(tile) - len(sizes)) + sizes
            inner = zip(sizes[-len(tile) :], tile, strict=True)
            sizes = [*sizes[: -len(tile)], *(-(-size // step) for size, step in inner), *tile]
        return -(-math.prod(sizes) * self.bits // 8)


# A tuple type is the tuple of its elements' types.
Type: TypeAlias = "Array | tuple[Type, ...]"


def leaves(type_: Type) -> list[Array]:
    """List the arrays of a type."""
    if isinstance(type_, Array):
        return [type_]
    return [leaf for element in type_ for leaf in leaves(element)]


def closing(text: str, start: int) -> int:
    """Return where the bracket that opens at `start` has been closed."""
    depth = 0
    for token in _BRACKET.finditer(text, start):
        if token[0] in "([{":
            depth += 1
        elif token[0] in ")]}":
            depth -= 1
            if not depth:
                return token.end()
    raise ValueError("a bracket is not closed")


def type_end(text: str, start: int) -> int:
    """Return where the type that begins at `start` ends."""
    if text.startswith("(", start):
        return closing(text, start)
    match = _ARRAY.match(text, start)
    if not match:
        raise ValueError("not a type")
    return match.end()


@functools.cache
def parse_type(text: str) -> Type:
    """Read a type.

    >>> parse_type("(s32[], bf16[4,300]{1,0:T(8,128)(2,1)S(1)})")[1].bytes
    6144
    """
    text = _COMMENT.sub("", text)
    if not text.startswith("("):
        match = _ARRAY.fullmatch(text)
        if not match:
            raise ValueError("not a type")
        return _array(*match.groups(default=""))
    elements, start = [], 1
    while text[start:] != ")":
        end = type_end(text, start)
        elements.append(parse_type(text[start:end]))
        if text[end:] == ")":
            break
        if not text.startswith(", ", end):
            raise ValueError("not a tuple type")
        start = end + 2
    return tuple(elements)


def _array(dtype: str, dims: str, layout: str) -> Array:
    """Make the type of an array of the three parts of its text."""
    small = _SMALL_FLOAT.fullmatch(dtype)
    bits = int(small[1]) if small else _BITS.get(dtype)
    parts = _LAYOUT.fullmatch(layout)
    if bits is None or parts is None:
        raise ValueError(f"unknown type {dtype}[{dims}]{{{layout}}}")
    sizes = _integers(dims.replace("<=", ""))
    order = _integers(parts[1]) if parts[1] else tuple(reversed(range(len(sizes))))
    if sorted(order) != list(range(len(sizes))):
        raise ValueError(f"the layout {{{layout}}} does not fit [{dims}]")
    properties = dict(_PROPERTY.findall(parts[2] or ""))
    return Array(
        dtype,
        sizes,
        order,
        tuple(_integers(tile) for tile in re.findall(r"\(([^()]*)\)", properties.get("T", ""))),
        int(properties.get("S", "(0)")[1:-1]),
        int(properties.get("E", f"({bits})")[1:-1]),
    )


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",")) if text else ()
