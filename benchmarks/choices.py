"""Make the tables of choices that ship for accelerators, from what `aot` compiled.

    FLAX_SEPCONV_TUNED= python -m benchmarks aot --candidates selected,stock,triton,mosaic
    python -m benchmarks choices --force grouped_conv --output runs/forced
    FLAX_SEPCONV_TUNED=runs/forced python -m benchmarks aot --candidates selected --output runs/conv
    python -m benchmarks choices runs/aot grouped_conv=runs/conv

First what rules select, then the same as if tables chose a lowering; then the tables of both. What
was compiled was not run, so a row chooses among XLA's own forms alone, and only where one is at
least 10 % below the time floor of what rules take; the kernels' figures stand beside it.
"""

import argparse
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from benchmarks import flags, workloads
from benchmarks.workloads import Workload
from flax_sepconv.ops.choices import reading
from flax_sepconv.ops.choices.classes import Program
from flax_sepconv.ops.choices.table import DEFAULT, Row, Table, file_of, to_json
from flax_sepconv.ops.lowerings import LOWERINGS, PORTABLE
from flax_sepconv.ops.tuning.problems import ACCELERATOR_SUITE, Problem

# As JAX names the devices of targets.
KINDS = {
    "v4": ("TPU v4",),
    "v5e": ("TPU v5 lite", "TPU v5e"),
    "v5p": ("TPU v5", "TPU v5p"),
    "v6e": ("TPU v6 lite", "TPU v6e"),
    "h100": ("NVIDIA H100 80GB HBM3",),
}
# Floors do not see stalls: less than this is no difference.
CLEAR = 1.1


def problem_of(workload: Workload) -> Problem:
    """Return a workload as the package's problem.

    Example:
        >>> str(problem_of(workloads.load()[0]))
        'B32 L1670 C64->256 K33 S2 D1 M1 same'
    """
    w = workload
    sizes = (w.batch, w.length, w.channels, w.filters, w.kernel_size)
    return Problem(*sizes, w.strides, w.dilation_rate, w.depth_multiplier, w.padding)


Records = Sequence[tuple[str, Mapping[str, Any]]]


def table_of(records: Records, known: Mapping[str, Workload]) -> Table:
    """Make a target's table.

    XLA's forms that were compiled by name are passed over: they are traced as other programs than
    a table makes of them.

    Args:
        records: of `aot`, with what "selected" is in each: "default", or what was forced.
        known: all workloads by name.
    """
    figures: dict[tuple[str, str, str], dict[str, dict[str, float]]] = {}
    for selected, record in records:
        for row in record["rows"]:
            own = figures.setdefault((row["workload"], row["program"], row["dtype"]), {})
            for name, facts in row["candidates"].items():
                if "roof_microseconds" in facts and not is_form(name):
                    floor = facts["roof_microseconds"]
                    own[selected if name == "selected" else name] = {"roof_microseconds": floor}
    first = records[0][1]
    made = {"date": first["date"], "versions": first["versions"]}
    rows = []
    for (workload, program, dtype), own in figures.items():
        problem = problem_of(known[workload])
        of = problem.of(cast(Program, program), dtype)
        tried = {name: LOWERINGS[name].version for name in own if name in LOWERINGS}
        if DEFAULT in own:
            rows.append(Row(of, str(problem), choice(own), own, tried, made))
    return Table(KINDS[first["target"]], "compiled, not run", tuple(rows))


def is_form(name: str) -> bool:
    """Tell whether it is a lowering of XLA's own operations."""
    return name in LOWERINGS and LOWERINGS[name].is_portable


def forced(name: str) -> Iterator[Table]:
    """Make tables that choose one lowering for the whole suite."""
    tried = {name: LOWERINGS[name].version}
    rows = tuple(
        Row(problem.of(program, dtype), str(problem), name, {name: {}}, tried, {})
        for problem in ACCELERATOR_SUITE
        for program in problem.programs
        for dtype in ("bfloat16", "float32")
    )
    for kinds in KINDS.values():
        yield Table(kinds, "compiled, not run", rows)


def choice(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Name the best of XLA's own forms, or the default.

    Example:
        >>> floors = {"default": 9.0, "grouped_conv": 5.0, "mosaic": 1.0}
        >>> choice({name: {"roof_microseconds": floor} for name, floor in floors.items()})
        'grouped_conv'
    """
    floors = {name: facts["roof_microseconds"] for name, facts in figures.items()}
    best = min(filter(is_form, floors), key=lambda name: floors[name], default=DEFAULT)
    return best if CLEAR * floors[best] <= floors[DEFAULT] else DEFAULT


def main(argv: list[str]) -> None:
    """Read records, and write a table for each target that all folders have."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = flags.Parser(
        prog="python -m benchmarks choices", description=__doc__, formatter_class=raw
    )
    parser.add_argument("folders", nargs="*", metavar="[NAME=]DIR", help="where aot wrote to")
    parser.add_argument("--force", choices=PORTABLE, help="for aot: choose it everywhere")
    parser.add_argument(
        "--output", type=pathlib.Path, default=reading.SHIPPED, help="a folder (%(default)s)"
    )
    arguments = parser.parse_args(argv)
    if bool(arguments.folders) == bool(arguments.force):
        parser.error("give either folders or --force")
    arguments.output.mkdir(parents=True, exist_ok=True)
    tables = forced(arguments.force) if arguments.force else tables_of(parser, arguments.folders)
    for table in tables:
        target = file_of(arguments.output, table.devices[0])
        target.write_text(to_json(table))
        chosen = [row.choice for row in table.rows if row.choice != DEFAULT]
        print(f"{target}: {len(table.rows)} rows, {len(chosen)} choose another than the rules")


def tables_of(parser: flags.Parser, folders: Iterable[str]) -> Iterator[Table]:
    """Make the tables of all targets that were compiled by rules."""
    known = {workload.name: workload for workload in workloads.load()}
    named = [text.rpartition("=")[::2] for text in folders]
    for target in KINDS:
        paths = [(name or DEFAULT, pathlib.Path(path, f"{target}.json")) for name, path in named]
        try:
            records = [
                (name, json.loads(path.read_text())) for name, path in paths if path.exists()
            ]
        except ValueError as error:
            parser.error(f"{target}.json: {error}")
        if DEFAULT in dict(records):
            yield table_of(records, known)
