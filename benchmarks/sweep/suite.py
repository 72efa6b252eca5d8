"""Time layers that nobody chose: drawn at random from the ranges of published networks.

A seed draws kinds of layers, then sizes. Ours in float32 and bfloat16 stands beside PyTorch in
both, TensorFlow, the matrix products alone (the floor), and forward beside ONNX Runtime and
OpenVINO, whose weights are constants. Each is a process of its own. All numbers are compared with
NumPy float64 before anything is timed; then all are asked in turn. Tables have the layer where we
lead least at the top, and say how far anybody could lead there who does what this machine can
(`roofline.py`). `--check` fails where the best of the others is faster by more than 3 %.

Results of many megabytes are written into memory that the system has to give page by page, unless
the C library keeps it from call to call: `--memory kept` has all processes keep it.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from benchmarks import flags, machine, roofline
from benchmarks.peers import PEERS
from benchmarks.summary import PROGRAMS
from benchmarks.sweep import contenders, generator, measuring, picture, report
from benchmarks.sweep.contenders import Contender


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the flags; unusable ones end the program before anything is measured."""
    parser = flags.Parser(
        prog="python -m benchmarks sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw (%(default)s)")
    parser.add_argument(
        "--layers",
        type=int,
        default=28,
        help=f"how many; {len(generator.KINDS)} and more cover every kind (%(default)s)",
    )
    parser.add_argument("--kinds", default="", help=f"only of {','.join(generator.KINDS)}")
    parser.add_argument(
        "--peers",
        default=",".join(contenders.DEFAULT),
        help=f"of {','.join(PEERS)} (%(default)s; ours always)",
    )
    parser.add_argument("--dtypes", default="", help=f"of {','.join(contenders.DTYPES)} (all)")
    parser.add_argument(
        "--patience",
        type=float,
        default=120,
        help="seconds, after which a program that gives no answer has failed (%(default)s)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"exit with 1 where a lead is under {report.TOLERANCE}",
    )
    flags.add_memory(parser)
    flags.add_seconds(parser, 0.25, "for one program of one peer")
    flags.add_output(parser, "sweep.json")
    arguments = parser.parse_args(argv)
    for name in ("layers", "patience"):
        if not getattr(arguments, name) > 0:
            parser.error(f"--{name}: must be positive, got {getattr(arguments, name)}")
    flags.check(parser, arguments)
    tables: dict[str, Iterable[str]] = {
        "kinds": generator.KINDS,
        "peers": PEERS,
        "dtypes": contenders.DTYPES,
    }
    for flag, known in tables.items():
        setattr(arguments, flag, flags.named(parser, f"--{flag}", getattr(arguments, flag), known))
    if "ours" not in arguments.peers:
        arguments.peers.insert(0, "ours")
    return arguments


def main(argv: list[str]) -> None:
    """Parse the flags, measure, print, write, draw, and check."""
    arguments = parse(argv)
    start = time.perf_counter()
    peers, absent = machine.present({name: PEERS[name] for name in arguments.peers})
    for name, reason in absent.items():
        print(f"left out: {name}, {reason}")
    if busy := machine.busy():
        print(busy)
    chosen = [
        layer
        for layer in generator.draw(arguments.seed, arguments.layers)
        if generator.kind_of(layer) in arguments.kinds
    ]
    rates = roofline.measure()
    print(f"matmul {rates['matmul_gigaflops']:.0f} GFLOP/s; {machine.processor()}")
    rows: list[dict[str, Any]] = []
    record = {
        **machine.facts(*sorted({package for name in peers for package in PEERS[name].packages})),
        "seed": arguments.seed,
        "layers": arguments.layers,
        "memory": arguments.memory,
        "absent": absent,
        "rates": rates,
        "rows": rows,
    }
    with machine.kept(arguments.output, record, len(chosen)), contextlib.ExitStack() as stack:
        variables = flags.memory_environment(arguments)
        asked = [
            stack.enter_context(Contender(name, variables, arguments.patience))
            for name in contenders.names(peers, arguments.dtypes)
        ]
        for layer in tqdm(chosen, file=sys.stderr, disable=not sys.stderr.isatty()):
            row = measuring.measure(layer, asked, arguments.seconds)
            rows.append({**row, "bounds": roofline.bounds(layer, rates)})
            record["summary"] = report.summarize(rows)
            record["seconds"] = round(time.perf_counter() - start)
            machine.save(arguments.output, record)  # So that nothing is lost in a long run.
            tqdm.write(report.times(rows[-1]))
    finish(record, arguments)


def finish(record: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print the tables, draw, and end with an error for what is wrong, or behind if asked."""
    rows = record["rows"]
    if not rows:
        print("no layer of these kinds was drawn")
        return
    for program in PROGRAMS:
        print(report.table(rows, program))
    print(report.tail(record["summary"]))
    picture.draw(record, arguments.output.with_suffix(".png"))
    if mistakes := report.mistaken(rows):
        raise SystemExit("\n".join(["our own layer is wrong:", *mistakes]))
    behind = [title for title, its in record["summary"].items() if its["behind"]]
    if arguments.check and behind:
        raise SystemExit(f"behind the best of the others: {', '.join(behind)}")
