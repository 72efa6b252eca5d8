"""Tables of choices as somebody may have them."""

import json

from flax_sepconv.ops.choices.table import Row, Table, file_of, to_json
from flax_sepconv.ops.lowerings import LOWERINGS
from flax_sepconv.ops.tuning.problems import Problem

SHAPE = Problem(2, 40, 8, 16, 5)
VERSIONS = {name: lowering.version for name, lowering in LOWERINGS.items()}


def row(choice, program="forward", shape=SHAPE, dtype="float32", wrong=(), kernels=VERSIONS):
    """Return a row that chooses a lowering; others may have been wrong."""
    candidates = {"default": {"milliseconds": 2.0}, choice: {"milliseconds": 1.0}}
    candidates |= {name: {"wrong": ["y is off by 1.0e+00 (allowed: 1.0e-06)"]} for name in wrong}
    made = {"date": "2026-01-01", "versions": {}}
    return Row(shape.of(program, dtype), str(shape), choice, candidates, kernels, made)


def rows(choice, **more):
    """Return a row for each program of the shape."""
    return [row(choice, program, **more) for program in ("forward", "forward_backward")]


def table(kind, *rows, evidence="measured"):
    return Table((kind,), evidence, tuple(rows))


def write(folder, kind, *rows, evidence="measured"):
    """Write a table, and return its path."""
    path = file_of(folder, kind)
    path.write_text(to_json(table(kind, *rows, evidence=evidence)))
    return path


def changed(text, change):
    """Return a table's text after a change to what it holds."""
    held = json.loads(text)
    change(held)
    return json.dumps(held)
