"""What devices send each other in a compiled program."""

import re

import numpy as np

SIZES = {"f32": 4, "bf16": 2, "f16": 2, "u16": 2, "s32": 4}
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")
_OPERATION = re.compile(rf"= (.+?) ({'|'.join(KINDS)})\(")
_ARRAY = re.compile(r"([a-z]+\d+)\[([\d,]*)\]")


def collectives(compiled):
    """Return the number and the bytes of the results, by kind; scalars do not count."""
    found = {}
    for types, kind in _OPERATION.findall(compiled.as_text()):
        arrays = [
            SIZES[dtype] * int(np.prod([int(size) for size in shape.split(",")]))
            for dtype, shape in _ARRAY.findall(types)
            if shape
        ]
        if arrays:
            count, size = found.get(kind, (0, 0))
            found[kind] = count + 1, size + sum(arrays)
    return found


def kinds(compiled):
    """Return how many there are of each kind."""
    return {kind: count for kind, (count, _) in collectives(compiled).items()}
