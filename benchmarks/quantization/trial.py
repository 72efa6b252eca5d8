"""One run in a process of its own: `python -m benchmarks.quantization.trial --help`."""

import functools
import pathlib
from typing import Any

from benchmarks.accuracy import trial


def main() -> None:
    """Train in float32, make integers of the network in all ways, and leave what was found.

    `found.json` has the test accuracy, the bytes of the layers' weights and the milliseconds of a
    forward pass, by version.
    """
    trial.complete(main.__doc__, _versions)


def _versions(_: Any, folder: pathlib.Path) -> dict[str, Any]:
    from flax_sepconv.training import trained

    return compared(trained.load(folder / "run", None))


def compared(run: Any) -> dict[str, Any]:
    """Return what the versions of a trained network come to."""
    import jax
    import numpy as np

    from benchmarks import timing
    from benchmarks.quantization.training import train_on
    from benchmarks.quantization.versions import FLOAT, VERSIONS
    from flax_sepconv import quantization
    from flax_sepconv.training import data
    from flax_sepconv.training.evaluate import Evaluator

    config = run.record.config
    train, test = data.load(config.data)
    size = config.train.eval_batch_size
    batches = [
        (batch["inputs"], batch["lengths"])
        for batch in data.eval_batches(train, min(32, len(train)))
    ]
    weights = dict(run.weights)
    found: dict[str, Any] = {"training_series": len(train), "test_series": len(test)}
    versions: dict[str, Any] = {}
    programs = {}

    def note(name: str, model: Any, variables: Any) -> None:
        scored = Evaluator(model.apply, size)(variables, test)
        example = test.take(np.arange(min(32, len(test))))
        forward = jax.jit(functools.partial(model.apply, train=False))
        call = functools.partial(forward, variables, example.inputs, example.lengths)
        programs[name] = lambda: jax.block_until_ready(call())
        versions[name] = {"accuracy": float(scored["accuracy"]), "bytes": _bytes(variables)}

    note(FLOAT, run.model, weights)
    rounded = {}
    for name, version in VERSIONS.items():
        int8 = quantization.Int8(**version.settings)
        if version.trained == "after":
            made = quantization.quantize(run.model, weights, batches, int8, train=False)
        else:
            model = quantization.QuantizedModel(run.model, int8)
            variables = quantization.calibrate(model, weights, batches, train=False)
            variables = train_on(model, variables, train, config)
            scored = Evaluator(model.apply, size)(variables, test)
            rounded[name] = float(scored["accuracy"])
            made = model, quantization.convert(model, variables, *batches[0], train=False)
        note(name, *made)
        if name in rounded:
            versions[name]["accuracy_while_training"] = rounded[name]
    clocks = {name: functools.partial(timing.clock, call) for name, call in programs.items()}
    samples = timing.interleaved(clocks, 0.5)
    for name, seconds in timing.medians(samples).items():
        versions[name]["milliseconds"] = 1e3 * seconds
    return {**found, "versions": versions}


def _bytes(variables: Any) -> int:
    """Count the bytes of the weights of our layers, their scales included."""
    import jax

    total = 0
    for path, array in jax.tree_util.tree_leaves_with_path(variables):
        names = [str(getattr(key, "key", key)) for key in path]
        is_ours = any(name.startswith("SeparableConv1D") for name in names)
        if is_ours and names[0] in ("params", "quantization"):
            total += array.nbytes
    return total


if __name__ == "__main__":
    main()
