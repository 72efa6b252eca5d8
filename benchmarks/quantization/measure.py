"""Train networks, and compare them with the 8-bit integers that are made of them.

Every run is a process of its own on one core. The recipes are the trainer's own, and no choice is
made here. What is done is kept: the command, given again, goes on where it was stopped.
"""

import argparse
import os
import pathlib
from typing import Any

import numpy as np

from benchmarks import flags, machine
from benchmarks.accuracy import measure as accuracy
from benchmarks.quantization import picture, table, versions

SETS = ("GunPoint", "ItalyPowerDemand", "JapaneseVowels")

Row = dict[str, Any]


def folder_of(runs: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    """Return the folder of a run; other settings have another."""
    return accuracy.folder_of(runs, name, seed, versions.VERSIONS, versions.EPOCHS, versions.RATE)


def run(runs: pathlib.Path, name: str, seed: int, core: int | None) -> Row:
    """Make a run in a process of its own, if it is not there; return what it found.

    Raises:
        WorkerError: it failed.
    """
    folder = folder_of(runs, name, seed)
    return accuracy.made(folder, "benchmarks.quantization.trial", name, seed, core)


def summarize(rows: list[Row]) -> dict[str, Row]:
    """Return what the runs of each set found together: means, and medians of times."""
    sets: dict[str, Row] = {}
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        summed = {}
        for version in own[0]["versions"]:
            facts = [row["versions"][version] for row in own]
            summed[version] = {
                "accuracy": float(np.mean([fact["accuracy"] for fact in facts])),
                "bytes": facts[0]["bytes"],
                "milliseconds": float(np.median([fact["milliseconds"] for fact in facts])),
            }
        sets[name] = {
            "seeds": [row["seed"] for row in own],
            "training_series": own[0]["training_series"],
            "test_series": own[0]["test_series"],
            "versions": summed,
        }
    return sets


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the flags; unusable ones end the program before anything is trained."""
    parser = flags.Parser(
        prog="python -m benchmarks quantization",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = ",".join(accuracy.RECIPES)
    parser.add_argument("--sets", default=",".join(SETS), help=f"of {known} (%(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 on (%(default)s)")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/quantization"),
                        help="the folder of the runs (%(default)s)")  # fmt: skip
    flags.add_output(parser, "quantization.json")
    arguments = parser.parse_args(argv)
    arguments.sets = flags.named(parser, "--sets", arguments.sets, accuracy.RECIPES)
    if arguments.seeds < 1:
        parser.error(f"--seeds: must be positive, got {arguments.seeds}")
    flags.check_writable(parser, arguments.output)
    return arguments


def main(argv: list[str]) -> None:
    """Parse the flags, train, print, write and draw."""
    arguments = parse(argv)
    wanted = [(name, seed) for name in arguments.sets for seed in range(arguments.seeds)]
    record: dict[str, Any] = {**machine.facts(*accuracy.PACKAGES), "rows": []}
    record["trained_on"] = {"epochs": versions.EPOCHS, "rate": versions.RATE}
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    with machine.kept(arguments.output, record, len(wanted)):
        for name, seed in wanted:
            row = run(arguments.runs, name, seed, core)
            record["rows"].append(row)
            told = ", ".join(f"{v} {f['accuracy']:.4f}" for v, f in row["versions"].items())
            print(f"{name} seed {seed}: {told}", flush=True)
            record["sets"] = summarize(record["rows"])
            machine.save(arguments.output, record)
    print(table.text(record["sets"]))
    picture.draw(record, arguments.output.with_suffix(".png"))
