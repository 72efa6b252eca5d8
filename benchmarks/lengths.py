"""Time ragged batches: the layer with `lengths` over the layer without, on the same arrays.

Sequences have between half of L and all of it, at least one all. Both calls are programs of one
process, and sampled in turn; the masked one's results are compared with NumPy float64, sequence by
sequence, before anything is timed. Medians and their ratios are printed and written as JSON.
"""

import functools
import sys
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import flags, machine, reference, timing
from benchmarks.case import Case
from benchmarks.worker import Program, Worker
from benchmarks.workloads import Workload

PROGRAMS = ("forward", "forward_backward")
# `--check` wants the masked call this close to the unmasked one.
ALLOWED = 1.15


def lengths_of(workload: Workload) -> np.ndarray:
    """Draw the lengths of a batch."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(workload.length // 2, workload.length + 1, workload.batch)
    lengths[0] = workload.length
    return lengths.astype(np.int32)


def build(workload: Workload) -> dict[str, Program]:
    """Compile both calls; for a worker."""
    import jax

    from benchmarks.peers import in_jax, ours

    case = Case(workload)
    operands = [*map(jax.device_put, case.operands())]
    lengths = jax.device_put(lengths_of(workload))
    programs = {}
    for name, function in in_jax.functions(ours.layer_of(workload)).items():
        given = operands[: 4 if name == "forward" else 5]
        programs[name] = in_jax.program(function, given, case.read)

        def masked(lengths: Any, *given: Any, name: str = name) -> Any:
            layer = functools.partial(ours.layer_of(workload), lengths=lengths)
            return in_jax.functions(layer)[name](*given)

        programs[f"masked {name}"] = in_jax.program(masked, [lengths, *given], case.read)
    return programs


def expected(workload: Workload) -> dict[str, np.ndarray]:
    """Compute the results sequence by sequence, with zeros behind the ends."""
    lengths = map(int, lengths_of(workload))
    return reference.ragged(workload, Case(workload).operands(), lengths)


def measure(workload: Workload, worker: Worker, seconds: float) -> dict[str, Any]:
    """Compare the masked call with the definition, then time both; the record of a workload."""
    facts = worker.load("benchmarks.lengths:build", workload)
    right = expected(workload)
    for program in PROGRAMS:
        found = reference.mistakes(workload, worker.numbers(f"masked {program}"), right)
        if found:
            raise SystemExit(f"{workload.name}: masked {program}: {'; '.join(found)}")
    samples = timing.interleaved(
        {name: functools.partial(worker.times, name) for name in facts}, seconds
    )
    for name, values in samples.items():
        facts[name] |= timing.statistics_of(values)
    worker.drop()
    times = {name: fact["milliseconds"] for name, fact in facts.items()}
    return {
        "workload": workload.name,
        "shape": str(workload),
        "source": workload.source,
        "valid": float(lengths_of(workload).mean() / workload.length),
        "programs": facts,
        "masked_over_unmasked": {name: times[f"masked {name}"] / times[name] for name in PROGRAMS},
    }


def show(row: dict[str, Any]) -> str:
    """Format one row as a line."""
    columns = "".join(
        f"{row['programs'][name]['milliseconds']:10.2f}"
        f"{row['programs'][f'masked {name}']['milliseconds']:10.2f}"
        f"{row['masked_over_unmasked'][name]:8.2f}"
        for name in PROGRAMS
    )
    return f"{row['shape']:44}{row['valid']:7.0%}{columns}"


def main(argv: list[str]) -> None:
    """Parse the flags, measure, print, write, and check the ratios."""
    parser = flags.parser("lengths", __doc__)
    flags.add_seconds(parser, 1.0, "for one program")
    flags.add_output(parser, "lengths.json")
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"exit with 1 where a masked call takes over {ALLOWED} times the unmasked one's time",
    )
    arguments = parser.parse_args(argv)
    chosen = [workload for workload in flags.chosen(parser, arguments) if workload.filters]
    if not chosen:
        parser.error(f"--filter: {arguments.filter!r} finds only layers without a pointwise stage")
    flags.check(parser, arguments)
    if busy := machine.busy():
        print(busy)
    print(
        f"{'milliseconds (median)':44}{'valid':>7}"
        + "".join(f"{name:>10}{'masked':>10}{'ratio':>8}" for name in ("forward", "+backward"))
    )
    rows: list[dict[str, Any]] = []
    record = {**machine.facts("flax-sepconv", "jax", "jaxlib", "flax"), "rows": rows}
    with machine.kept(arguments.output, record, len(chosen)), Worker("flax_sepconv") as worker:
        for workload in tqdm(chosen, file=sys.stderr, disable=not sys.stderr.isatty()):
            rows.append(measure(workload, worker, arguments.seconds))
            tqdm.write(show(rows[-1]))
    behind = [row for row in rows if max(row["masked_over_unmasked"].values()) > ALLOWED]
    if arguments.check and behind:
        print(f"over {ALLOWED} times the unmasked call:", *map(show, behind), sep="\n")
        raise SystemExit(1)
