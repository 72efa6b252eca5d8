"""Read the text of an optimized, scheduled XLA module (`compiled.as_text()`).

The grammar is what XLA's printer writes for TPU, GPU and CPU. Names of source files, metadata,
shardings and frontend attributes are skipped. A line that does not fit ends in a ValueError with
that line: nothing is guessed.

See https://openxla.org/xla/hlo_text and https://openxla.org/xla/tiled_layout.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

# Bits of an element. Tokens and opaque values are no data.
BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16, "c64": 64, "c128": 128}
BITS |= {f"{sign}{bits}": bits for sign in "su" for bits in (1, 2, 4, 8, 16, 32, 64)}
BITS |= {f"f{bits}": bits for bits in (16, 32, 64)}
_SMALL_FLOAT = re.compile(r"f(\d)e\dm\d\w*")
_CALLS = (
    *("calls", "to_apply", "body", "condition", "branch_computations", "true_computation"),
    *("false_computation", "called_computations", "async_computation"),
)
_SKIPPED = {"metadata", "sharding", "frontend_attributes"}

_NAME = r"%([^\s,(){}=]+)"
_NAMES = re.compile(_NAME)
_COMPUTATION = re.compile(rf"(ENTRY )?{_NAME} \(.*\) -> .* \{{")
_INSTRUCTION = re.compile(rf"  (ROOT )?{_NAME} = ")
_TABLE = re.compile(r"(FileNames|FunctionNames|FileLocations|StackFrames|\d+ .*|)")
_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\](?:\{([^}]*)\})?")
_LAYOUT = re.compile(r"([\d,]*)(?::((?:[A-Z*#]+(?:\([^()]*\))+)*))?")
_LAYOUT_PART = re.compile(r"([A-Z*#]+)((?:\([^()]*\))+)")
_OPCODE = re.compile(r" ([a-z][\w-]*)\(")
_COMMENT = re.compile(r"/\*.*?\*/")
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[(){}\[\]]')
_ATTRIBUTE = re.compile(r", ([\w-]+)=")
_VALUE_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[(){}\[\]]|, (?=[\w-]+=)')


@dataclasses.dataclass(frozen=True)
class Array:
    """The type of an array: what it is, and how and where it lies in memory.

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
    minor_to_major: tuple[int, ...] = ()
    tiles: tuple[tuple[int, ...], ...] = ()
    space: int = 0
    bits: int = 8

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
            inner = zip(sizes[len(sizes) - len(tile) :], tile, strict=True)
            sizes = [*sizes[: -len(tile)], *(-(-size // step) for size, step in inner), *tile]
        return -(-math.prod(sizes) * self.bits // 8)


# A tuple type is the tuple of its elements' types.
Type: TypeAlias = "Array | tuple[Type, ...]"


class Instruction(NamedTuple):
    """One operation.

    Attributes:
        name: Its name, without the percent sign.
        opcode: What it does.
        type: Its result.
        operands: Names of instructions in the same computation.
        literal: What stands in the brackets of a constant (its value) or a parameter (its number).
        attributes: What follows the operands, as text.
    """

    name: str
    opcode: str
    type: Type
    operands: tuple[str, ...]
    literal: str
    attributes: dict[str, str]

    def calls(self, *keys: str) -> tuple[str, ...]:
        """Return the names of the computations that it calls, or of those under the given keys."""
        values = (self.attributes.get(key, "") for key in keys or _CALLS)
        return tuple(name for value in values for name in _NAMES.findall(value))


class Computation(NamedTuple):
    """Instructions by name, operands before users, and the one whose value is returned."""

    name: str
    instructions: dict[str, Instruction]
    root: Instruction

    @property
    def parameters(self) -> list[Instruction]:
        """Return the parameters in the order of their numbers."""
        found = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return sorted(found, key=lambda parameter: int(parameter.literal))

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """Return the instructions whose results this one takes."""
        return [self.instructions[name] for name in instruction.operands]


class Module(NamedTuple):
    """The computations of a program by name, and the one that it starts with."""

    name: str
    computations: dict[str, Computation]
    entry: Computation


def parse(text: str) -> Module:
    """Parse the text of an optimized and scheduled module.

    Raises:
        ValueError: The text is not that of such a module; the message has the offending line.
    """
    header, *lines = text.lstrip().splitlines() or [""]
    if not header.startswith("HloModule ") or "is_scheduled=true" not in header:
        raise ValueError(f"not a scheduled HLO module: {_shortened(header)!r}")
    computations: dict[str, Computation] = {}
    entry, body = None, iter(lines)
    for line in body:
        match = _COMPUTATION.fullmatch(line)
        if match:
            name = match[2]
            computations[name] = _computation(name, body)
            entry = computations[name] if match[1] else entry
        elif not _TABLE.fullmatch(line):
            raise _error("neither a computation nor a table of sources", line)
    if entry is None:
        raise ValueError(f"no ENTRY computation in {_shortened(header)!r}")
    for computation in computations.values():
        for instruction in computation.instructions.values():
            for name in instruction.calls():
                if name not in computations:
                    raise ValueError(f"{instruction.name} calls {name}, which is not there")
    return Module(header.split(",")[0].split()[1], computations, entry)


def _computation(name: str, lines: Iterator[str]) -> Computation:
    """Read the lines of a computation up to its closing brace."""
    instructions: dict[str, Instruction] = {}
    root = None
    for line in lines:
        if line.startswith("}"):
            break
        is_root, instruction = _instruction(line)
        missing = [operand for operand in instruction.operands if operand not in instructions]
        if missing:
            raise _error(f"{missing[0]} is not defined before its use", line)
        instructions[instruction.name] = instruction
        root = instruction if is_root else root
    else:
        raise ValueError(f"the computation {name} does not end")
    if root is None:
        raise ValueError(f"the computation {name} has no ROOT")
    return Computation(name, instructions, root)


def _instruction(line: str) -> tuple[bool, Instruction]:
    """Read one line: whether it is the root, and the instruction."""
    match = _INSTRUCTION.match(line)
    if not match:
        raise _error("not an instruction", line)
    start = match.end()
    end = _closing(line, start) if line[start] == "(" else _array_end(line, start)
    opcode = _OPCODE.match(line, end)
    if not opcode:
        raise _error("no opcode after the type", line)
    close = _closing(line, opcode.end() - 1)
    inside = line[opcode.end() : close - 1]
    literal = opcode[1] in ("constant", "parameter")
    try:
        type_ = parse_type(line[start:end])
    except ValueError as reason:
        raise _error(str(reason), line) from None
    return bool(match[1]), Instruction(
        match[2],
        opcode[1],
        type_,
        () if literal else tuple(_NAMES.findall(inside)),
        inside if literal else "",
        _attributes(line, close),
    )


def _closing(line: str, start: int) -> int:
    """Return where the bracket that opens at `start` has been closed."""
    depth = 0
    for token in _BRACKET.finditer(line, start):
        if token[0] in "([{":
            depth += 1
        elif token[0] in ")]}":
            depth -= 1
            if not depth:
                return token.end()
    raise _error("a bracket is not closed", line)


def _array_end(line: str, start: int) -> int:
    match = _ARRAY.match(line, start)
    if not match:
        raise _error("no type after the equals sign", line)
    return match.end()


def _attributes(line: str, start: int) -> dict[str, str]:
    """Split `, key=value, key=value`; values may have commas inside brackets and strings."""
    found = {}
    while start < len(line):
        key = _ATTRIBUTE.match(line, start)
        if not key:
            raise _error("not an attribute after the operands", line)
        depth, start = 0, len(line)
        for token in _VALUE_TOKEN.finditer(line, key.end()):
            if token[0] in "([{":
                depth += 1
            elif token[0] in ")]}":
                depth -= 1
            elif token[0] == ", " and not depth:
                start = token.start()
                break
        if key[1] not in _SKIPPED:
            found[key[1]] = line[key.end() : start]
    return found


@functools.cache
def parse_type(text: str) -> Type:
    """Parse a type: `bf16[8,128]{1,0:T(8,128)(2,1)S(1)}`, or a tuple `(s32[], (f32[2]{0}))`."""
    text = _COMMENT.sub("", text)
    if not text.startswith("("):
        match = _ARRAY.fullmatch(text)
        if not match:
            raise ValueError(f"not a type: {text!r}")
        return _array(*match.groups(default=""))
    if text == "()":
        return ()
    elements, start = [], 1
    while start < len(text):
        end = _closing(text, start) if text[start] == "(" else _array_end(text, start)
        elements.append(parse_type(text[start:end]))
        if text[end:] == ")":
            return tuple(elements)
        if text[end : end + 2] != ", ":
            break
        start = end + 2
    raise ValueError(f"not a tuple type: {text!r}")


def _array(dtype: str, dims: str, layout: str) -> Array:
    """Make the type of an array of the three parts of its text."""
    small = _SMALL_FLOAT.fullmatch(dtype)
    bits = int(small[1]) if small else BITS.get(dtype)
    parts = _LAYOUT.fullmatch(layout)
    if bits is None or parts is None:
        raise ValueError(f"unknown type {dtype}[{dims}]{{{layout}}}")
    sizes = _integers(dims.replace("<=", ""))
    order = _integers(parts[1]) if parts[1] else tuple(reversed(range(len(sizes))))
    if sorted(order) != list(range(len(sizes))):
        raise ValueError(f"the layout {layout} does not fit the dimensions {dims}")
    properties = dict(_LAYOUT_PART.findall(parts[2] or ""))
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


def _error(reason: str, line: str) -> ValueError:
    return ValueError(f"{reason}: {_shortened(line)!r}")


def _shortened(line: str) -> str:
    return line if len(line) <= 300 else f"{line[:300]}..."
