"""How often the loops of a parsed module run.

XLA writes the number beside a loop where it has kept it (`known_trip_count`). Elsewhere it follows
from the counter: a scalar that the condition compares with a limit, that the body advances by a
constant, and whose first value is known. Copies, tuples, fusions and values that a loop merely
hands on are looked through.
"""

import dataclasses
import operator
import re
from typing import TypeAlias

from benchmarks.aot.hlo import Computation, Instruction, Module
from benchmarks.aot.shapes import Array


@dataclasses.dataclass(frozen=True)
class Counter:
    """A number: `offset`, plus what element `index` of the loop's state was, if any."""

    index: int | None
    offset: int


# What is known of a value: a number, the values of a tuple's elements, or nothing.
Value: TypeAlias = "Counter | tuple[Value, ...] | None"

_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SAME = {"copy", "bitcast", "convert", "reshape", "opt-barrier", "copy-start", "copy-done"}
_SWAPPED = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE", "NE": "NE"}
_HOLDS = {"LT": operator.lt, "LE": operator.le, "GT": operator.gt, "GE": operator.ge}


def trip_count(
    module: Module, where: Computation, known: tuple[Value, ...], loop: Instruction
) -> int:
    """Return how often the body of a loop runs.

    Args:
        module: The module.
        where: The computation that the loop is in.
        known: What is known of that computation's parameters.
        loop: The `while` instruction.

    Raises:
        ValueError: Neither is the number written there nor does it follow from a counter.
    """
    written = _KNOWN.search(loop.attributes.get("backend_config", ""))
    if written:
        return int(written[1])
    start = evaluate(module, where, known, where.operands(loop)[0])
    count = _count(module, loop, start)
    if count is None:
        raise ValueError(f"no trip count is known for the loop {loop.name} of {where.name}")
    return count


def invariants(
    module: Module, where: Computation, known: tuple[Value, ...], loop: Instruction
) -> tuple[Value, ...]:
    """Return what is known of the parameter of a loop's body: the numbers that never change."""
    start = evaluate(module, where, known, where.operands(loop)[0])
    state = _state(module, loop, start)
    return (tuple(v if isinstance(v, Counter) and v.index is None else None for v in state),)


def _count(module: Module, loop: Instruction, start: Value) -> int | None:
    """Follow the counter from its first value to the limit."""
    state = _state(module, loop, start)
    condition = module.called(loop, "condition")
    found = _comparison(module, condition, (state,), condition.root)
    if found is None or not isinstance(start, tuple):
        return None
    counter, direction, limit = found
    body = module.called(loop, "body")
    after = evaluate(module, body, (state,), body.root)
    if counter.index is None or not isinstance(after, tuple):
        return None
    first, following = start[counter.index], after[counter.index]
    if not isinstance(first, Counter) or not isinstance(following, Counter):
        return None
    if following.index != counter.index:
        return None
    return _steps(first.offset + counter.offset, direction, limit, following.offset)


def _steps(first: int, direction: str, limit: int, step: int) -> int | None:
    """Count the steps from `first` while the comparison with `limit` holds."""
    if direction == "NE":
        count, rest = divmod(limit - first, step) if step else (-1, 0)
        return count if count >= 0 and not rest else None
    holds = _HOLDS[direction]
    if not holds(first, limit):
        return 0
    if step == 0 or (step > 0) != (direction in ("LT", "LE")):
        return None
    distance = abs(limit - first)
    return distance // abs(step) + 1 if direction in ("LE", "GE") else -(-distance // abs(step))


def _state(module: Module, loop: Instruction, start: Value) -> tuple[Value, ...]:
    """Return the state inside a loop: counters, and the first values of what never changes."""
    body = module.called(loop, "body")
    size = 0 if isinstance(body.root.type, Array) else len(body.root.type)
    counters: tuple[Value, ...] = tuple(Counter(index, 0) for index in range(size))
    after = evaluate(module, body, (counters,), body.root)
    if not isinstance(start, tuple) or not isinstance(after, tuple):
        return counters
    return tuple(
        first if same == counter else counter
        for first, same, counter in zip(start, after, counters, strict=True)
    )


def _comparison(
    module: Module, where: Computation, parameters: tuple[Value, ...], instruction: Instruction
) -> tuple[Counter, str, int] | None:
    """Find the counter, the direction and the limit in a condition's result."""
    operands = where.operands(instruction)
    if instruction.opcode in _SAME:
        return _comparison(module, where, parameters, operands[0])
    values = tuple(evaluate(module, where, parameters, operand) for operand in operands)
    if instruction.opcode == "fusion":
        inside = module.called(instruction)
        return _comparison(module, inside, values, inside.root)
    if instruction.opcode != "compare":
        return None
    left, right = values
    direction = instruction.attributes["direction"]
    if isinstance(left, Counter) and left.index is None:
        left, right, direction = right, left, _SWAPPED.get(direction, direction)
    if not isinstance(left, Counter) or not isinstance(right, Counter) or right.index is not None:
        return None
    return (left, direction, right.offset) if direction in _SWAPPED else None


def evaluate(
    module: Module, where: Computation, parameters: tuple[Value, ...], instruction: Instruction
) -> Value:
    """Work out an instruction as far as it is numbers, tuples and counters."""
    opcode = instruction.opcode
    if opcode == "parameter":
        return parameters[int(instruction.literal)]
    if isinstance(instruction.type, Array) and instruction.type.elements != 1:
        return None
    if opcode == "constant":
        number = re.fullmatch(r"\{?(-?\d+)\}?", instruction.literal)
        return Counter(None, int(number[1])) if number else None
    operands = where.operands(instruction)
    if opcode in _SAME:
        return evaluate(module, where, parameters, operands[0])
    if opcode == "get-tuple-element":
        whole = evaluate(module, where, parameters, operands[0])
        return whole[int(instruction.attributes["index"])] if isinstance(whole, tuple) else None
    if opcode not in ("tuple", "fusion", "call", "add", "subtract"):
        return None
    values = tuple(evaluate(module, where, parameters, operand) for operand in operands)
    if opcode == "tuple":
        return values
    if opcode in ("fusion", "call"):
        inside = module.called(instruction)
        return evaluate(module, inside, values, inside.root)
    return _sum(values[0], values[1], 1 if opcode == "add" else -1)


def _sum(left: Value, right: Value, sign: int) -> Value:
    """Add two numbers, or subtract the second, where at most one has a counter."""
    if not isinstance(left, Counter) or not isinstance(right, Counter):
        return None
    if right.index is None:
        return Counter(left.index, left.offset + sign * right.offset)
    if left.index is None and sign > 0:
        return Counter(right.index, left.offset + right.offset)
    return None
