"""Read the text of an optimized, scheduled XLA module (`compiled.as_text()`).

The grammar is what XLA's printer writes for TPU, GPU and CPU (https://openxla.org/xla/hlo_text).
Tables of source files, metadata, shardings and frontend attributes are skipped. A line that does
not fit ends in a ValueError with that line: nothing is guessed.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.aot.shapes import Type, closing, parse_type, type_end

_CALLS = (
    *("calls", "to_apply", "body", "condition", "branch_computations", "true_computation"),
    *("false_computation", "called_computations", "async_computation"),
)
_SKIPPED = {"metadata", "sharding", "frontend_attributes"}

_NAME = r"%([^\s,(){}=]+)"
_NAMES = re.compile(_NAME)
_COMPUTATION = re.compile(rf"(ENTRY )?{_NAME} \(.*\) -> .* \{{")
_TABLE = re.compile(r"FileNames|FunctionNames|FileLocations|StackFrames|\d+ .*|")
_INSTRUCTION = re.compile(rf"  (ROOT )?{_NAME} = ")
_OPCODE = re.compile(r" ([a-z][\w-]*)\(")
_ATTRIBUTE = re.compile(r", ([\w-]+)=")
_VALUE_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[(){}\[\]]|, (?=[\w-]+=)')


class Instruction(NamedTuple):
    """One operation.

    Attributes:
        name: Its name, without the percent sign.
        opcode: What it does.
        type: Its result.
        operands: Names of instructions in the same computation.
        literal: What a constant (its value) or a parameter (its number) has in brackets, else "".
        attributes: What follows the operands, as text.
    """

    name: str
    opcode: str
    type: Type
    operands: tuple[str, ...]
    literal: str
    attributes: dict[str, str]

    @property
    def called(self) -> list[str]:
        """The names of all computations that it calls."""
        values = (self.attributes.get(key, "") for key in _CALLS)
        return [name for value in values for name in _NAMES.findall(value)]


class Computation(NamedTuple):
    """Instructions by name, operands before users, and the one whose value is returned."""

    name: str
    instructions: dict[str, Instruction]
    root: Instruction

    @property
    def parameters(self) -> list[Instruction]:
        """The parameters in the order of their numbers."""
        found = [each for each in self.instructions.values() if each.opcode == "parameter"]
        return sorted(found, key=lambda parameter: int(parameter.literal))

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """Return the instructions whose results this one takes."""
        return [self.instructions[name] for name in instruction.operands]


class Module(NamedTuple):
    """The computations of a program by name, and the one that it starts with."""

    name: str
    computations: dict[str, Computation]
    entry: Computation

    def called(self, instruction: Instruction, key: str | None = None) -> Computation:
        """Return the computation that an instruction calls, or calls as `body` or the like."""
        names = _NAMES.findall(instruction.attributes.get(key, "")) if key else instruction.called
        if len(names) != 1:
            raise ValueError(f"{instruction.name} should call one {key or 'computation'}: {names}")
        return self.computations[names[0]]


def parse(text: str) -> Module:
    """Parse the text of an optimized and scheduled module.

    Raises:
        ValueError: The text is not that of such a module; the message has the offending line.
    """
    header, *lines = text.strip().split("\n")
    if not header.startswith("HloModule ") or ", is_scheduled=true" not in header:
        raise _error("not the header of a scheduled HLO module", header)
    computations: dict[str, Computation] = {}
    entry, rest = None, iter(lines)
    for line in rest:
        match = _COMPUTATION.fullmatch(line)
        if match:
            computation = _computation(match[2], rest)
            computations[computation.name] = computation
            entry = computation if match[1] else entry
        elif not _TABLE.fullmatch(line):
            raise _error("neither a computation nor a table of sources", line)
    if entry is None:
        raise _error("no ENTRY computation follows the header", header)
    for computation in computations.values():
        for instruction in computation.instructions.values():
            missing = [name for name in instruction.called if name not in computations]
            if missing:
                raise ValueError(f"{instruction.name} calls {missing[0]}, which is not there")
    return Module(header.split(",")[0].split()[1], computations, entry)


def _computation(name: str, lines: Iterator[str]) -> Computation:
    """Read the lines of a computation up to its closing brace."""
    instructions: dict[str, Instruction] = {}
    root = None
    for line in lines:
        if line.startswith("}"):
            break
        try:
            is_root, instruction = _instruction(line)
            missing = [operand for operand in instruction.operands if operand not in instructions]
            if missing:
                raise ValueError(f"{missing[0]} is used before it is defined")
        except ValueError as reason:
            raise _error(str(reason), line) from None
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
        raise ValueError("not an instruction")
    end = type_end(line, match.end())
    opcode = _OPCODE.match(line, end)
    if not opcode:
        raise ValueError("no opcode after the type")
    close = closing(line, opcode.end() - 1)
    inside = line[opcode.end() : close - 1]
    is_literal = opcode[1] in ("constant", "parameter")
    return bool(match[1]), Instruction(
        match[2],
        opcode[1],
        parse_type(line[match.end() : end]),
        () if is_literal else tuple(_NAMES.findall(inside)),
        inside if is_literal else "",
        _attributes(line, close),
    )


def _attributes(line: str, start: int) -> dict[str, str]:
    """Split `, key=value, key=value`; values may have commas inside brackets and strings."""
    found = {}
    while start < len(line):
        key = _ATTRIBUTE.match(line, start)
        if not key:
            raise ValueError("not an attribute after the operands")
        depth, start = 0, len(line)
        for token in _VALUE_TOKEN.finditer(line, key.end()):
            if token[0] in "([{":
                depth += 1
            elif token[0] in ")]}":
                depth -= 1
            elif token[0] == ", " and not depth:
                start = token.start()
                break
        if depth:
            raise ValueError(f"the brackets of {key[1]} do not match")
        if key[1] not in _SKIPPED:
            found[key[1]] = line[key.end() : start]
    return found


def _error(reason: str, line: str) -> ValueError:
    return ValueError(f"{reason}: {line if len(line) <= 300 else line[:300] + '...'}")
