"""Count what a compiled program sends from device to device, by the text of the program.

Bytes are those that one device receives where n of them take part, in the way that needs the
fewest:

  collective-permute  the result
  all-gather          (n-1)/n of the result, which is n operands
  reduce-scatter      (n-1)/n of the operand
  all-reduce          2 (n-1)/n of the operand: a reduce-scatter, then an all-gather
  all-to-all          (n-1)/n of the operand

Operations in loops count as often as the loops turn, and padding to tiles does not count. On TPUs a
reduce-scatter is a fusion that contains an all-reduce; XLA's name for it tells.
"""

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from benchmarks.aot.hlo import Computation, Instruction, Module
from benchmarks.aot.shapes import leaves
from benchmarks.aot.traffic import Operation

RULE = {
    "collective-permute": "result",
    "all-gather": "(n-1)/n of the result",
    "reduce-scatter": "(n-1)/n of the operand",
    "all-reduce": "2 (n-1)/n of the operand",
    "all-to-all": "(n-1)/n of the operand",
}
# They send too, and no rule above says how much.
_UNKNOWN = {"collective-broadcast", "ragged-all-to-all", "send", "recv"}

_LISTED = re.compile(r"\{\{([\d,]+)\}.*\}")
_COUNTED = re.compile(r"\[\d+,(\d+)\]<=.*")
_NAMED = re.compile(r"mesh\[(.*)\] \{('[^':]+'(?:,\s?'[^':]+')*)\}")


class Sent(NamedTuple):
    """How often a kind of operation is launched, and the bytes of all launches on a device."""

    number: int
    bytes: int


def count(module: Module, operations: Iterable[Operation], devices: int) -> dict[str, Sent]:
    """Add up the collective operations of a program by kind.

    Args:
        module: the program.
        operations: what it launches, see `traffic.operations`.
        devices: how many run it.

    Raises:
        ValueError: An operation sends in a way that is not known here.
    """
    places = {
        name: (where, instruction)
        for where in module.computations.values()
        for name, instruction in where.instructions.items()
    }
    found: dict[str, Sent] = {}
    for operation in operations:
        for kind, sent in _inside(module, *places[operation.name], devices):
            before = found.get(kind, Sent(0, 0))
            times = operation.launches
            found[kind] = Sent(before.number + times, before.bytes + times * sent)
    return found


def total(found: dict[str, Sent]) -> int:
    """Return the bytes of all kinds."""
    return sum(sent.bytes for sent in found.values())


def _inside(
    module: Module, where: Computation, instruction: Instruction, devices: int
) -> Iterator[tuple[str, int]]:
    """List the collective operations that an instruction is or calls, with their bytes."""
    kind = instruction.opcode.removesuffix("-start")
    if kind in _UNKNOWN:
        raise ValueError(f"{instruction.name}: it is not known what {kind} sends")
    if kind in RULE:
        operands = [leaf for each in where.operands(instruction) for leaf in leaves(each.type)]
        size = sum(math.ceil(leaf.elements * leaf.bits / 8) for leaf in operands)
        yield kind, round(size * _share(kind, instruction, devices))
    elif kind in ("fusion", "async"):
        called = module.called(instruction)
        scatters = called.name.startswith("all-reduce-scatter")
        for each in called.instructions.values():
            for inner, sent in _inside(module, called, each, devices):
                halved = scatters and inner == "all-reduce"
                yield ("reduce-scatter", sent // 2) if halved else (inner, sent)


def _share(kind: str, instruction: Instruction, devices: int) -> float:
    """Return the bytes that a device receives over those of its operand."""
    if kind == "collective-permute":
        return 1.0
    n = group_size(instruction.attributes.get("replica_groups", "{}"), devices)
    if kind == "all-gather":
        return n - 1.0
    return (2 if kind == "all-reduce" else 1) * (n - 1) / n


def group_size(groups: str, devices: int) -> int:
    """Return how many devices take part, from what XLA writes.

    Example:
        >>> [group_size(text, 8) for text in ("{}", "{{0,1},{2,3}}", "[2,4]<=[8]")]
        [8, 2, 4]
        >>> group_size("mesh['a'=2,'b'=4] {'b'}", 8)
        4
    """
    if groups == "{}":
        return devices
    if listed := _LISTED.fullmatch(groups):
        return len(listed[1].split(","))
    if counted := _COUNTED.fullmatch(groups):
        return int(counted[1])
    if named := _NAMED.fullmatch(groups):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", named[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'([^']+)'", named[2]))
    raise ValueError(f"groups of devices that are not known: {groups}")
