"""How far an operation reaches into its operands and its results.

What is wanted of a result is followed back to the operands, as a fraction of each array: all of it,
or what slices cut out. A fusion computes only what is wanted of it, so a fraction passes through
whatever maps element to element, and what mixes elements wants all of its operands. A slice is
measured in whole tiles of the array that it cuts; slices that overlap count at most as the span of
all of them.
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from benchmarks.aot.hlo import Computation, Instruction, Module
from benchmarks.aot.shapes import Array, leaves


class Access(NamedTuple):
    """The fraction read of each operand, and written of each array of the result."""

    read: list[float]
    written: list[float]


# Where a slice begins and ends in each dimension.
Box: TypeAlias = "list[tuple[int, int]]"

# Operations that want all of an operand even where it has as many elements as the result.
_MIXING = {
    *("all-to-all", "cholesky", "convolution", "custom-call", "dot", "fft", "map", "reduce"),
    *("reduce-window", "scatter", "select-and-scatter", "sort", "topk", "triangular-solve"),
}
_LIMITS = re.compile(r"\[(\d+):(\d+)(?::\d+)?\]")


def access(module: Module, where: Computation, instruction: Instruction) -> Access:
    """Return how far an instruction that is launched reaches."""
    if instruction.opcode == "fusion":
        inside = module.called(instruction)
        return Access(_read(module, inside, 1.0, in_place=True), _written(inside))
    operands = where.operands(instruction)
    if _is_update(instruction):
        part = _updated(instruction, operands)
        read = [_touched(instruction, operands), *[1.0] * (len(operands) - 1)]
        return Access(read, [part])
    read = [_wanted(instruction, operand, i, 1.0) for i, operand in enumerate(operands)]
    written = [1.0] * len(leaves(instruction.type))
    if has_workspace(instruction):
        written[-1] = 0.0
    return Access(read, written)


def has_workspace(instruction: Instruction) -> bool:
    """Tell whether the last result is scratch memory of a CUDA library."""
    target = instruction.attributes.get("custom_call_target", "")
    results = leaves(instruction.type)
    return target.startswith('"__cu') and len(results) > 1 and results[-1].dtype in ("s8", "u8")


class _Want:
    """How much of each array in a computation is wanted by those who use it."""

    def __init__(self) -> None:
        self._parts: dict[str, float] = defaultdict(float)
        self._windows: dict[str, dict[object, float]] = defaultdict(dict)
        self._boxes: dict[str, list[Box]] = defaultdict(list)

    def add(self, operand: Instruction, part: float) -> None:
        self._parts[operand.name] += part

    def cut(self, operand: Instruction, part: float, cutter: Instruction) -> None:
        """Add what a slice wants; the same slice twice is one."""
        if cutter.opcode == "slice":
            key: object = cutter.attributes["slice"]
            self._boxes[operand.name].append(_box(cutter))
        else:
            key = (cutter.operands[1:], cutter.attributes["dynamic_slice_sizes"])
        windows = self._windows[operand.name]
        windows[key] = max(part, windows.get(key, 0.0))

    def of(self, instruction: Instruction) -> float:
        name = instruction.name
        static = sum(part for key, part in self._windows[name].items() if isinstance(key, str))
        dynamic = sum(self._windows[name].values()) - static
        if self._boxes[name]:
            sides = zip(*self._boxes[name], strict=True)
            span = [max(end for _, end in side) - min(begin for begin, _ in side) for side in sides]
            static = min(static, _part(instruction, span))
        return min(1.0, self._parts[name] + static + dynamic)


def _read(module: Module, where: Computation, result: float, *, in_place: bool) -> list[float]:
    """Return the fraction of each parameter that a fraction of the results wants."""
    want = _Want()
    for element in _elements(where):
        updates = _updates(where, element) if in_place else []
        for update in updates:
            operands = where.operands(update)
            want.add(operands[0], _touched(update, operands))
            for operand in operands[1:]:
                want.add(operand, 1.0)
        if not updates:
            want.add(element, result)
    for instruction in reversed(where.instructions.values()):
        wanted = want.of(instruction)
        if not wanted:
            continue
        nested: list[float] = []
        if instruction.opcode == "fusion":
            inside = module.called(instruction)
            nested = _read(module, inside, wanted, in_place=False)
        for index, operand in enumerate(where.operands(instruction)):
            part = nested[index] if nested else _wanted(instruction, operand, index, wanted)
            if index == 0 and instruction.opcode in ("slice", "dynamic-slice"):
                want.cut(operand, part, instruction)
            else:
                want.add(operand, part)
    return [want.of(parameter) for parameter in where.parameters]


def _written(where: Computation) -> list[float]:
    """Return the fraction of each result of a fusion that it writes."""
    written = []
    for element in _elements(where):
        parts = [1.0] * len(leaves(element.type))
        updates = _updates(where, element)
        if updates:
            parts = [min(1.0, sum(_updated(each, where.operands(each)) for each in updates))]
        elif has_workspace(element):
            parts[-1] = 0.0
        elif element.opcode == "get-tuple-element":
            whole = where.operands(element)[0]
            last = len(leaves(whole.type)) - 1
            if has_workspace(whole) and int(element.attributes["index"]) == last:
                parts = [0.0]
        written += parts
    return written


def _elements(where: Computation) -> list[Instruction]:
    """List what a fusion returns."""
    return where.operands(where.root) if where.root.opcode == "tuple" else [where.root]


def _updates(where: Computation, element: Instruction) -> list[Instruction]:
    """List the updates that make a result of a parameter, in the parameter's own memory."""
    found = []
    while _is_update(element) or element.opcode == "bitcast":
        if element.opcode != "bitcast":
            found.append(element)
        element = where.operands(element)[0]
    return found if element.opcode == "parameter" else []


def _is_update(instruction: Instruction) -> bool:
    """Tell whether the result is operand 0 with some elements replaced."""
    simple_scatter = instruction.opcode == "scatter" and len(instruction.operands) == 3
    return simple_scatter or instruction.opcode == "dynamic-update-slice"


def _updated(update: Instruction, operands: Sequence[Instruction]) -> float:
    """Return the fraction that an update in place writes."""
    if update.opcode == "scatter":
        return min(1.0, _ratio(operands[2], update))
    return _part(update, _array(operands[1]).dims)


def _touched(update: Instruction, operands: Sequence[Instruction]) -> float:
    """Return the fraction that an update in place reads of what it updates."""
    return _updated(update, operands) if update.opcode == "scatter" else 0.0


def _wanted(instruction: Instruction, operand: Instruction, index: int, result: float) -> float:
    """Return the fraction of an operand that a fraction of the result wants."""
    opcode = instruction.opcode
    if opcode == "dynamic-slice" and index == 0:
        return result * _part(operand, _array(instruction).dims)
    if opcode == "slice":
        return result * _part(operand, _crossed(instruction, _array(operand)))
    if opcode in ("gather", "pad") and index == 0:
        return min(1.0, result * _ratio(instruction, operand))
    if opcode in ("tuple", "get-tuple-element"):
        return result
    if opcode in _MIXING or not isinstance(operand.type, Array):
        return 1.0
    if not isinstance(instruction.type, Array):
        return 1.0
    return result if operand.type.elements == instruction.type.elements else 1.0


def _part(whole: Instruction, dims: Sequence[int]) -> float:
    """Return which part of an array so many elements along each dimension are, in tiles."""
    array = _array(whole)
    part = dataclasses.replace(array, dims=tuple(dims))
    return min(1.0, part.bytes / array.bytes) if array.bytes else 0.0


def _crossed(cutter: Instruction, array: Array) -> list[int]:
    """Return how many elements a slice takes along each dimension, and those it cannot skip.

    Strides along the dimensions of a tile, or along the minor-most one, save no traffic.
    """
    order = array.minor_to_major
    near = set(order[: len(array.tiles[0]) if array.tiles else 1])
    taken = enumerate(zip(_box(cutter), _array(cutter).dims, strict=True))
    return [end - begin if axis in near else size for axis, ((begin, end), size) in taken]


def _ratio(some: Instruction, all_: Instruction) -> float:
    return _array(some).elements / max(1, _array(all_).elements)


def _array(instruction: Instruction) -> Array:
    if not isinstance(instruction.type, Array):
        raise ValueError(f"{instruction.name} should be an array, but is a tuple")
    return instruction.type


def _box(cutter: Instruction) -> Box:
    limits = _LIMITS.findall(cutter.attributes["slice"])
    return [(int(begin), int(end)) for begin, end in limits]
