"""Short programs in XLA's own text."""

import textwrap

from benchmarks.aot import hlo, traffic


def program(*lines, computations=""):
    """Parse an entry computation of these lines, the last of which is its root."""
    *first, last = lines
    body = "\n".join([*(f"  {line}" for line in first), f"  ROOT {last}"])
    entry = f"ENTRY %main (p: f32[]) -> f32[] {{\n{body}\n}}\n"
    text = textwrap.dedent(computations) + "\n" + entry
    return hlo.parse("HloModule test, is_scheduled=true\n" + text)


def counted(*lines, computations=""):
    """Return read and written bytes by the names of the operations."""
    operations = traffic.operations(program(*lines, computations=computations))
    return {each.name: (each.read, each.written) for each in operations}
