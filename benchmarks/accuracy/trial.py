"""One run of the trainer in a process of its own: `python -m benchmarks.accuracy.trial --help`."""

import argparse
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any


def main() -> None:
    """Train, or continue what was begun, and leave in the folder what was found.

    `found.json` has the accuracy, the number of parameters and the seconds that this process took;
    `probabilities.npz` the classes' probabilities (N, classes) of the test series, and the labels.
    """
    complete(main.__doc__, _accuracy)


def complete(about: str | None, found_of: Callable[[Any, pathlib.Path], dict[str, Any]]) -> None:
    """Train as the words of this process say, and leave what is found in `found.json`.

    Args:
        about: what the help says.
        found_of: takes what the run came to, and the folder, in which the run is in "run".
    """
    begin = time.perf_counter()
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("set", help="the data set")
    parser.add_argument("settings", help="of the run, as JSON")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--core", type=int, help="the only core to use, where that can be chosen")
    arguments = parser.parse_args()
    if arguments.core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {arguments.core})
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

    # Late, for JAX makes as many threads as there are cores when it is loaded.
    from flax_sepconv.memory import keep_memory
    from flax_sepconv.training import loop
    from flax_sepconv.training.config import from_config_dict

    keep_memory()
    config = from_config_dict(json.loads(arguments.settings))
    workdir = arguments.folder / "run"
    outcome = loop.complete(config, workdir, resume=(workdir / "config.json").exists())
    found = found_of(outcome, arguments.folder)
    found["seconds"] = time.perf_counter() - begin
    (arguments.folder / "found.json").write_text(json.dumps(found))


def _accuracy(outcome: Any, folder: pathlib.Path) -> dict[str, Any]:
    import numpy as np

    from flax_sepconv.training.workdir import read_record

    np.savez(
        folder / "probabilities.npz",
        probabilities=outcome.answers,
        labels=outcome.targets,
    )
    results = outcome.results
    return {
        "accuracy": results["test_accuracy"],
        "errors": results["test_errors"],
        "training_series": read_record(folder / "run").contents["TRAIN"].series,
        "test_series": results["test_examples"],
        "parameters": results["parameters"],
    }


if __name__ == "__main__":
    main()
