"""Train the recipes on the seven data sets that come with aeon, with several seeds.

Every run is a process of its own on one core, as many at a time as there are cores: small networks
train faster so than on several cores one after another. What is done is kept: the command, given
again, goes on where it was stopped, also inside a run. Test series are scored once a run, by the
weights at its end; no choice is made here.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import queue
import subprocess
import sys
from typing import Any

import numpy as np

from benchmarks import flags, machine
from benchmarks.accuracy import picture, published, table
from benchmarks.worker import WorkerError
from flax_sepconv.training.recipes import multivariate, univariate

RECIPES = {
    "ACSF1": univariate,
    "ArrowHead": univariate,
    "BasicMotions": multivariate,
    "GunPoint": univariate,
    "ItalyPowerDemand": univariate,
    "JapaneseVowels": multivariate,
    "OSULeaf": univariate,
}
COSTLY = ("ACSF1", "OSULeaf")  # first, so that no core waits for them at the end
PACKAGES = ("flax-sepconv", "jax", "jaxlib", "flax", "optax", "aeon")

Row = dict[str, Any]


def settings(name: str, seed: int) -> dict[str, Any]:
    """Return the settings of a run."""
    config = RECIPES[name](name)
    config.train.seed = seed
    config.train.report_every = 10
    config.train.checkpoint_every = 100
    return dict(config.to_dict())


def folder_of(runs: pathlib.Path, name: str, seed: int, *more: Any) -> pathlib.Path:
    """Return the folder of a run; another recipe, or more that counts, has another."""
    told = settings(name, seed)
    text = json.dumps([told, *more] if more else told, sort_keys=True)
    return runs / f"{name}-{seed}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def train(runs: pathlib.Path, name: str, seed: int, core: int | None) -> Row:
    """Make a run in a process of its own, if it is not there; return what it found.

    Raises:
        WorkerError: it failed.
    """
    return made(folder_of(runs, name, seed), "benchmarks.accuracy.trial", name, seed, core)


def made(folder: pathlib.Path, module: str, name: str, seed: int, core: int | None) -> Row:
    """Run a module whose `main` is `trial.complete`, if its folder has no result; return that.

    Raises:
        WorkerError: it failed.
    """
    found = folder / "found.json"
    if not found.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", module, name]
        command += [json.dumps(settings(name, seed)), str(folder)]
        command += [] if core is None else ["--core", str(core)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip() or f"status {done.returncode}"
            run = f"{name}, seed {seed}"
            raise WorkerError(f"{run}: {said[-2000:]}", f"{run}: {said.splitlines()[-1]}")
    return {"set": name, "seed": seed, **json.loads(found.read_text())}


def averaged(runs: pathlib.Path, rows: list[Row]) -> float:
    """Return the accuracy of the mean of the runs' probabilities, all of one set."""
    total, labels = np.zeros(()), np.zeros(())
    for row in rows:
        with np.load(folder_of(runs, row["set"], row["seed"]) / "probabilities.npz") as file:
            total, labels = total + file["probabilities"], file["labels"]
    return float((total.argmax(-1) == labels).mean())


def summarize(runs: pathlib.Path, rows: list[Row]) -> dict[str, Row]:
    """Return what the runs of each set found together."""
    sets = {}
    for name in RECIPES:
        if of_set := [row for row in rows if row["set"] == name]:
            accuracies = [row["accuracy"] for row in of_set]
            sets[name] = {
                "accuracies": accuracies,
                "mean": float(np.mean(accuracies)),
                "averaged": averaged(runs, of_set),
                "parameters": of_set[0]["parameters"],
                "training_series": of_set[0]["training_series"],
                "test_series": of_set[0]["test_series"],
                "seconds": float(np.median([row["seconds"] for row in of_set])),
            }
    return sets


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the flags; unusable ones end the program before anything is trained."""
    parser = flags.Parser(
        prog="python -m benchmarks accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sets", default="", help=f"only those of {','.join(RECIPES)}")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="(%(default)s)")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/accuracy"),
                        help="the folder of the runs (%(default)s)")  # fmt: skip
    parser.add_argument("--workers", type=int, default=os.cpu_count(),
                        help="how many run at a time, each on a core (%(default)s)")  # fmt: skip
    flags.add_output(parser, "accuracy.json")
    arguments = parser.parse_args(argv)
    arguments.sets = flags.named(parser, "--sets", arguments.sets, RECIPES)
    try:
        arguments.seeds = [int(word) for word in arguments.seeds.split(",")]
    except ValueError:
        parser.error(f"--seeds: must be integers, got {arguments.seeds}")
    if min(arguments.seeds) < 0 or len(set(arguments.seeds)) < len(arguments.seeds):
        parser.error(f"--seeds: must be different and >= 0, got {arguments.seeds}")
    if arguments.workers < 1:
        parser.error(f"--workers: must be positive, got {arguments.workers}")
    flags.check_writable(parser, arguments.output)
    return arguments


def main(argv: list[str]) -> None:
    """Parse the flags, train, print, write and draw."""
    arguments = parse(argv)
    names = sorted(arguments.sets, key=lambda name: name not in COSTLY)
    wanted = [(name, seed) for seed in arguments.seeds for name in names]
    record: dict[str, Any] = {**machine.facts(*PACKAGES), "seeds": arguments.seeds, "rows": []}
    record["workers"] = arguments.workers
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]
    cores: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    for worker in range(arguments.workers):
        cores.put(usable[worker % len(usable)])

    def one(name: str, seed: int) -> Row:
        core = cores.get()
        try:
            return train(arguments.runs, name, seed, core)
        finally:
            cores.put(core)

    with (
        machine.kept(arguments.output, record, len(wanted)),
        concurrent.futures.ThreadPoolExecutor(arguments.workers) as pool,
    ):
        runs = [pool.submit(one, *run) for run in wanted]
        try:
            for run in runs:
                row = run.result()
                record["rows"].append(row)
                print(f"{row['set']} seed {row['seed']}: {row['accuracy']:.4f}, "
                      f"{row['seconds']:.0f} s", flush=True)  # fmt: skip
                record["sets"] = summarize(arguments.runs, record["rows"])
                machine.save(arguments.output, record)
        finally:
            pool.shutdown(cancel_futures=True)
    record["rows"].sort(key=lambda row: (row["set"], row["seed"]))
    record["sets"] = summarize(arguments.runs, record["rows"])
    machine.save(arguments.output, record)
    print(table.text(record["sets"], published.METHODS))
    picture.draw(record, arguments.output.with_suffix(".png"))
