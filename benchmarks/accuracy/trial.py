"""One run of the trainer in a process of its own: `python -m benchmarks.accuracy.trial --help`."""

import argparse
import json
import os
import pathlib
import time


def main() -> None:
    """Train, or continue what was begun, and leave in the folder what was found.

    `found.json` has the accuracy, the number of parameters and the seconds that this process took;
    `probabilities.npz` the classes' probabilities (N, classes) of the test series, and the labels.
    """
    begin = time.perf_counter()
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("set", help="the data set")
    parser.add_argument("settings", help="of the run, as JSON")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--core", type=int, help="the only core to use, where that can be chosen")
    arguments = parser.parse_args()
    if arguments.core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {arguments.core})
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

    # Late, for JAX makes as many threads as there are cores when it is loaded.
    import numpy as np

    from flax_sepconv.memory import keep_memory
    from flax_sepconv.training import loop
    from flax_sepconv.training.config import from_config_dict
    from flax_sepconv.training.workdir import read_record

    keep_memory()
    config = from_config_dict(json.loads(arguments.settings))
    workdir = arguments.folder / "run"
    outcome = loop.complete(config, workdir, resume=(workdir / "config.json").exists())
    results = outcome.results
    np.savez(
        arguments.folder / "probabilities.npz",
        probabilities=outcome.answers,
        labels=outcome.targets,
    )
    found = {
        "accuracy": results["test_accuracy"],
        "errors": results["test_errors"],
        "training_series": read_record(workdir).contents["TRAIN"].series,
        "test_series": results["test_examples"],
        "parameters": results["parameters"],
        "seconds": time.perf_counter() - begin,
    }
    (arguments.folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
