"""Make the tables of choices that ship for accelerators, from what `aot` compiled.

    python -m benchmarks aot --candidates selected,stock,grouped_conv,shifted_sum,triton,mosaic
    python -m benchmarks choices runs/aot/*.json

What was compiled was not run, so a row chooses among XLA's own forms alone, and only where one is
at least 10 % below the time floor of what rules take; the kernels' figures stand beside it. Make
them with tables off (FLAX_SEPCONV_TUNED= python -m benchmarks aot ...): what "selected" means is
what rules select.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from benchmarks import flags, workloads
from benchmarks.workloads import Workload
from flax_sepconv.ops.choices import reading
from flax_sepconv.ops.choices.table import DEFAULT, Row, Table, file_of, to_json
from flax_sepconv.ops.lowerings import LOWERINGS
from flax_sepconv.ops.tuning.problems import Problem

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


def table_of(record: Mapping[str, Any], known: Mapping[str, Workload]) -> Table:
    """Make a target's table."""
    made = {"date": record["date"], "versions": record["versions"]}
    rows = []
    for compiled in record["rows"]:
        figures = {
            DEFAULT if name == "selected" else name: {
                "roof_microseconds": facts["roof_microseconds"]
            }
            for name, facts in compiled["candidates"].items()
            if "roof_microseconds" in facts
        }
        if DEFAULT in figures:
            problem = problem_of(known[compiled["workload"]])
            rows.append(
                Row(
                    of=problem.of(compiled["program"], compiled["dtype"]),
                    problem=str(problem),
                    choice=choice(figures),
                    candidates=figures,
                    kernels={
                        name: LOWERINGS[name].version for name in figures if name in LOWERINGS
                    },
                    made=made,
                )
            )
    return Table(KINDS[record["target"]], "compiled, not run", tuple(rows))


def choice(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Name the best of XLA's own forms, or the default.

    Example:
        >>> floors = {"default": 9.0, "grouped_conv": 5.0, "mosaic": 1.0}
        >>> choice({name: {"roof_microseconds": floor} for name, floor in floors.items()})
        'grouped_conv'
    """
    floors = {name: facts["roof_microseconds"] for name, facts in figures.items()}
    forms = [name for name in floors if name in LOWERINGS and LOWERINGS[name].is_portable]
    best = min(forms, key=lambda name: floors[name], default=DEFAULT)
    return best if CLEAR * floors[best] <= floors[DEFAULT] else DEFAULT


def main(argv: list[str]) -> None:
    """Read records, and write a table for each."""
    parser = flags.Parser(prog="python -m benchmarks choices", description=__doc__)
    parser.add_argument("records", nargs="+", type=pathlib.Path, metavar="FILE", help="of aot")
    parser.add_argument(
        "--output", type=pathlib.Path, default=reading.SHIPPED, help="a folder (%(default)s)"
    )
    arguments = parser.parse_args(argv)
    known = {workload.name: workload for workload in workloads.load()}
    for path in arguments.records:
        try:
            table = table_of(json.loads(path.read_text()), known)
        except (OSError, ValueError, KeyError) as error:
            parser.error(f"{path} is no record of aot: {error}")
        target = file_of(arguments.output, table.devices[0])
        target.write_text(to_json(table))
        chosen = [row.choice for row in table.rows if row.choice != DEFAULT]
        print(f"{target}: {len(table.rows)} rows, {len(chosen)} choose another than the rules")
