"""Count the bytes that a compiled program moves to and from main memory (HBM).

Counted are the operations that are launched: those of the entry computation, of the bodies of
loops as often as they run, of called computations, and of the most expensive branch of a
conditional. What happens inside a fusion stays on the chip. An operation reads each operand that
lies in main memory once, as far as its slices reach, and writes each result there once; padding to
the tiles of the layout is moved too.

It is a lower bound. Not seen are operands that an operation reads again because its blocks do not
fit on the chip (a matmul's, a convolution's, a custom call's), halos of neighbouring blocks, and
registers that spill. The condition of a loop is taken to cost nothing.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from benchmarks.aot import loops
from benchmarks.aot.access import access
from benchmarks.aot.hlo import Computation, Instruction, Module
from benchmarks.aot.shapes import Array, Type, leaves

# Neither a launch nor traffic: names for values that are there, and the ends of what began before.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "domain"),
    *("add-dependency", "opt-barrier", "partition-id", "replica-id", "get-dimension-size"),
}
_FREE_CALLS = {'"AllocateBuffer"', '"ConcatBitcast"'}


class Operation(NamedTuple):
    """An operation, how often it is launched, and the bytes of one launch."""

    name: str
    opcode: str
    launches: int
    read: int
    written: int

    @property
    def moved(self) -> int:
        """Return the bytes of all launches."""
        return self.launches * (self.read + self.written)


class Total(NamedTuple):
    """The launches of a program and the bytes of all of them."""

    launches: int
    read: int
    written: int

    @property
    def moved(self) -> int:
        """Return the bytes in both directions."""
        return self.read + self.written


def operations(module: Module) -> list[Operation]:
    """List what a program launches, in order.

    Raises:
        ValueError: It is not known how often a loop runs.
    """
    return list(_walk(module, module.entry, (None,) * len(module.entry.parameters), 1))


def total(counted: Iterable[Operation]) -> Total:
    """Add up the launches and bytes of operations."""
    counted = list(counted)
    return Total(
        sum(each.launches for each in counted),
        sum(each.launches * each.read for each in counted),
        sum(each.launches * each.written for each in counted),
    )


def _walk(
    module: Module, where: Computation, known: tuple[loops.Value, ...], launches: int
) -> Iterator[Operation]:
    """Go through a computation that runs so often, with what is known of its parameters."""
    for instruction in where.instructions.values():
        if instruction.opcode == "while":
            count = loops.trip_count(module, where, known, instruction)
            if count:
                body = module.called(instruction, "body")
                inside = loops.invariants(module, where, known, instruction)
                yield from _walk(module, body, inside, launches * count)
        elif instruction.opcode == "call":
            values = [loops.evaluate(module, where, known, i) for i in where.operands(instruction)]
            called = module.called(instruction)
            yield from _walk(module, called, tuple(values), launches)
        elif instruction.opcode == "conditional":
            branches = [module.computations[name] for name in instruction.called]
            yield from max(
                (list(_walk(module, branch, (None,), launches)) for branch in branches),
                key=lambda branch: (total(branch).moved, total(branch).launches),
            )
        elif not _is_free(instruction):
            read, written = _bytes(module, where, instruction)
            yield Operation(instruction.name, instruction.opcode, launches, read, written)


def _is_free(instruction: Instruction) -> bool:
    return (
        instruction.opcode in _FREE
        or instruction.opcode.endswith(("-done", "-update"))
        or instruction.attributes.get("custom_call_target") in _FREE_CALLS
    )


def _bytes(module: Module, where: Computation, instruction: Instruction) -> tuple[int, int]:
    """Return the bytes that one launch reads and writes."""
    if instruction.opcode == "async-start":
        called = module.called(instruction)
        inside = total(_walk(module, called, (None,) * len(called.parameters), 1))
        return inside.read, inside.written
    instruction = _without_start(instruction)
    reach = access(module, where, instruction)
    fractions: dict[str, float] = {}
    types: dict[str, Type] = {}
    for operand, fraction in zip(where.operands(instruction), reach.read, strict=True):
        source = _source(where, operand)
        fractions[source] = min(1.0, fractions.get(source, 0.0) + fraction)
        types[source] = operand.type
    read = sum(
        fractions[source] * array.bytes
        for source, type_ in types.items()
        for array in leaves(type_)
        if array.space == 0
    )
    results = zip(leaves(instruction.type), reach.written, strict=True)
    written = sum(fraction * array.bytes for array, fraction in results if array.space == 0)
    return round(read), round(written)


def _without_start(instruction: Instruction) -> Instruction:
    """Turn the start of an operation that runs aside into the operation itself.

    Its result is a tuple of operands and results; that of a copy has the result first.
    """
    opcode = instruction.opcode.removesuffix("-start")
    if opcode == instruction.opcode or isinstance(instruction.type, Array):
        return instruction._replace(opcode=opcode)
    result = instruction.type[0 if opcode == "copy" else 1]
    return instruction._replace(opcode=opcode, type=result)


def _source(where: Computation, instruction: Instruction) -> str:
    """Name the memory that a value lies in, whatever it is called or seen as."""
    if instruction.opcode == "bitcast":
        return _source(where, where.operands(instruction)[0])
    if instruction.opcode == "get-tuple-element":
        whole = _source(where, where.operands(instruction)[0])
        return f"{whole} {instruction.attributes['index']}"
    return instruction.name
