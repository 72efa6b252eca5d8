"""Time the layer in 8-bit integers beside our own float32, and beside what others run int8 by.

Weights, inputs, ranges and zero points are the same for all, static, and drawn once for a layer:
those of the layers that `python -m benchmarks` times, and some that nobody chose (`sweep`). ONNX
Runtime and OpenVINO run a graph of integers, in whichever of several forms is fastest; LiteRT runs
what its converter makes of Keras' layer. Each is a process of its own. Results are compared with
what NumPy float64 would round before anything is timed; then all are asked in turn. `--check` fails
where our integers gain less over float32 than is wanted of them (2.0 where channels and filters are
256 and more and the processor has VNNI, else 1.3).
"""

import argparse
import contextlib
import sys
import time
from typing import Any

from tqdm import tqdm

from benchmarks import flags, machine, workloads
from benchmarks.integers import measuring, picture, report
from benchmarks.integers.contenders import PEERS
from benchmarks.sweep import generator
from benchmarks.workloads import Workload


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the flags; unusable ones end the program before anything is measured."""
    parser = flags.parser("integers", __doc__)
    parser.add_argument(
        "--drawn", type=int, default=6, help="how many layers of the sweep, beside (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of their draw (%(default)s)")
    parser.add_argument("--peers", default="", help=f"of {','.join(PEERS)} (all; ours always)")
    parser.add_argument(
        "--patience",
        type=float,
        default=120,
        help="seconds, after which a program that gives no answer has failed (%(default)s)",
    )
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 where the gain is less than wanted"
    )
    flags.add_memory(parser)
    flags.add_seconds(parser, 0.25, "for one program of one peer")
    flags.add_output(parser, "integers.json")
    arguments = parser.parse_args(argv)
    if not arguments.patience > 0:
        parser.error(f"--patience: must be positive, got {arguments.patience}")
    if arguments.drawn < 0:
        parser.error(f"--drawn: must not be negative, got {arguments.drawn}")
    arguments.layers = layers(parser, arguments)
    if not arguments.layers:
        parser.error(f"--filter: {arguments.filter!r} finds only layers without a pointwise stage")
    flags.check(parser, arguments)
    arguments.peers = flags.named(parser, "--peers", arguments.peers, PEERS)
    if "ours" not in arguments.peers:
        arguments.peers.insert(0, "ours")
    return arguments


def layers(parser: flags.Parser, arguments: argparse.Namespace) -> list[Workload]:
    """Return the layers with both stages that are asked for; behind them those that are drawn."""
    chosen = [workload for workload in flags.chosen(parser, arguments) if workload.filters]
    drawn = generator.draw(arguments.seed, arguments.drawn)
    return chosen + [workload.within(workloads.ELEMENTS) for workload in drawn]


def main(argv: list[str]) -> None:
    """Parse the flags, measure, print, write, draw, and check."""
    arguments = parse(argv)
    start = time.perf_counter()
    names, absent = machine.present({name: PEERS[name] for name in arguments.peers})
    for name, reason in absent.items():
        print(f"left out: {name}, {reason}")
    if busy := machine.busy():
        print(busy)
    has_vnni = "vnni" in machine.processor()
    print(machine.processor())
    rows: list[dict[str, Any]] = []
    record = {
        **machine.facts(*sorted({package for name in names for package in PEERS[name].packages})),
        "seed": arguments.seed,
        "memory": arguments.memory,
        "absent": absent,
        "rows": rows,
    }
    chosen = arguments.layers
    with machine.kept(arguments.output, record, len(chosen)), contextlib.ExitStack() as stack:
        variables = flags.memory_environment(arguments)
        asked = {
            name: stack.enter_context(measuring.start(name, variables, arguments.patience))
            for name in names
        }
        for layer in tqdm(chosen, file=sys.stderr, disable=not sys.stderr.isatty()):
            rows.append(measuring.measure(layer, asked, arguments.seconds))
            record["summary"] = report.summarize(rows, has_vnni)
            record["seconds"] = round(time.perf_counter() - start)
            machine.save(arguments.output, record)  # So that nothing is lost in a long run.
            tqdm.write(report.times(rows[-1]))
    finish(record, arguments)


def finish(record: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print the table, draw, and end with an error for what is wrong, or too slow if asked."""
    rows = record["rows"]
    print(report.table(rows))
    print(report.tail(record["summary"]))
    picture.draw(record, arguments.output.with_suffix(".png"))
    if mistakes := report.mistaken(rows):
        raise SystemExit("\n".join(["our own layer is wrong:", *mistakes]))
    if arguments.check and record["summary"]["short"]:
        raise SystemExit(f"gain less than wanted: {', '.join(record['summary']['short'])}")
