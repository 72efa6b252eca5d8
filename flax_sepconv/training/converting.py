"""A run's network as a file for other programs: what `export` starts, in a process of its own.

Converters replace functions of JAX for good and tell much, and one of them knows no more than one
device: none of it is to reach the process of the command.
"""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import flax_sepconv as fsc
from flax_sepconv.interop.export import export_model
from flax_sepconv.training import tasks, trained
from flax_sepconv.training.config import UserError
from flax_sepconv.training.model import mask_of, masked
from flax_sepconv.training.splits import Scaling
from flax_sepconv.training.trained import Trained

Call = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Converted(NamedTuple):
    """A file, what runs it (None: nothing here does), and which lengths it takes, in words."""

    contents: bytes
    call: Call | None
    lengths: str


def _scaled(inputs: jax.Array, inside: jax.Array, scaling: Scaling | None) -> jax.Array:
    """Standardise (B, L, C) as the run's data were, and make what pads them zero."""
    if scaling is not None:
        mean, deviation = (jnp.float32(part) for part in (scaling.mean, scaling.deviation))
        return masked((inputs - mean) / deviation, inside)
    count = jnp.maximum(inside.sum(1, keepdims=True), 1)
    # From the first step on, so that what all steps share takes no digits away.
    moved = masked(inputs - inputs[:, :1], inside)
    centred = masked(moved - moved.sum(1, keepdims=True) / count, inside)
    deviation = jnp.sqrt((centred * centred).sum(1, keepdims=True) / count)
    return centred / jnp.maximum(deviation, 1e-8)


def _without_lengths(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Give a layer zeros for what pads its series, in place of their lengths: converters know it.

    It is the same where strides are 1 and padding is "same" or "causal", as in this network.
    """
    if not isinstance(context.module, fsc.SeparableConv1D) or context.method_name != "__call__":
        return next_fun(*args, **kwargs)
    x, lengths = args
    inside = mask_of(x, lengths)
    return masked(next_fun(masked(x, inside)), inside)


def _function(run: Trained, *, for_tools: bool) -> Callable[..., jax.Array]:
    """Return the network as a function of its weights, inputs (B, L, C) and lengths (B,)."""
    model = run.model.clone(implementation="grouped_conv" if for_tools else None)

    def answers(weights: Any, inputs: jax.Array, lengths: jax.Array) -> jax.Array:
        inside = mask_of(inputs, lengths)
        x = _scaled(masked(inputs, inside), inside, run.record.scaling)
        with nn.intercept_methods(_without_lengths if for_tools else _as_it_is):
            outputs: Any = model.apply(weights, x, lengths)
        found = tasks.TASKS[run.record.config.data.task].answers(outputs)
        if (scaling := run.record.target_scaling) is None:
            return found
        return found * jnp.float32(scaling.deviation[0]) + jnp.float32(scaling.mean[0])

    return answers


def _as_it_is(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
    return next_fun(*args, **kwargs)


def _period(run: Trained) -> int:
    """Return what lengths must be a multiple of where pooling windows may not be cut short."""
    model = run.record.config.model
    return int(model.pool ** (model.blocks - 1))


def _to_jax(run: Trained) -> Converted:
    inputs = f"b, l, {run.channels}", ("b", "int32")
    exported = export_model(_function(run, for_tools=False), run.weights, *inputs)
    blob = exported.serialize()
    reloaded = jax.export.deserialize(blob)
    return Converted(bytes(blob), lambda *given: np.asarray(reloaded.call(*given)), "any length")


def _to_onnx(run: Trained) -> Converted:
    import jax2onnx

    length: int | str = "L"
    if (period := _period(run)) > 1:
        longest = max(contents.longest for contents in run.record.contents.values())
        length = -(-longest // period) * period
    shapes = [("B", length, run.channels), jax.ShapeDtypeStruct(("B",), jnp.int32)]
    function = functools.partial(_function(run, for_tools=True), run.weights)
    model = jax2onnx.to_onnx(function, shapes)
    contents = model.SerializeToString()
    said = "any length" if length == "L" else f"padded to length {length}"
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return Converted(contents, None, said)
    session = onnxruntime.InferenceSession(contents)
    names = [each.name for each in session.get_inputs()]

    def call(inputs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        found: list[np.ndarray] = session.run(
            None, dict(zip(names, (inputs, lengths), strict=True))
        )
        return found[0]

    return Converted(contents, call, said)


def _to_litert(run: Trained) -> Converted:
    import tensorflow as tf
    from jax.experimental import jax2tf

    period = _period(run)
    length = "l" if period == 1 else f"{period}*l"
    shape = f"b, {length}, {run.channels}"
    exported = export_model(
        _function(run, for_tools=True),
        run.weights,
        shape,
        ("b", "int32"),
        platforms=["cpu"],
        implementation="grouped_conv",
    )
    convert = jax2tf.convert(exported.call, polymorphic_shapes=[shape, "b"], with_gradient=False)
    types = [tf.TensorSpec((None, None, run.channels)), tf.TensorSpec((None,), tf.int32)]
    concrete = tf.function(convert, input_signature=types, autograph=False).get_concrete_function()
    contents = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
    interpreter = tf.lite.Interpreter(model_content=contents)

    def call(inputs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        details = interpreter.get_input_details()
        given = {3: inputs, 1: lengths}  # by their ranks: the converter may change the order
        for each in details:
            value = given[len(each["shape_signature"])]
            interpreter.resize_tensor_input(each["index"], value.shape)
        interpreter.allocate_tensors()
        for each in details:
            interpreter.set_tensor(each["index"], given[len(each["shape_signature"])])
        interpreter.invoke()
        found: np.ndarray = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        return found

    said = "any length" if period == 1 else f"padded to a multiple of {period} steps"
    return Converted(contents, call, said)


FORMATS: dict[str, Callable[[Trained], Converted]] = {
    "jax": _to_jax,
    "onnx": _to_onnx,
    "litert": _to_litert,
}


def _samples(run: Trained) -> list[np.ndarray]:
    """Return three series of different lengths (L, C), about as large as those of the run."""
    rng = np.random.default_rng(0)
    longest = max(contents.longest for contents in run.record.contents.values())
    scaling = run.record.scaling or Scaling(np.zeros(run.channels), np.ones(run.channels))
    lengths = longest, -(-longest // 2), 1
    rows = [rng.standard_normal((n, run.channels)) for n in lengths]
    return [np.float32(scaling.mean + row * scaling.deviation).astype(float) for row in rows]


def _batch(samples: list[np.ndarray], period: int) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(values) for values in samples], np.int32)
    longest = -(-lengths.max() // period) * period
    inputs = np.full((len(samples), longest, samples[0].shape[1]), np.nan, np.float32)
    for row, values in zip(inputs, samples, strict=True):
        row[: len(values)] = values
    return inputs, lengths


def convert(workdir: Path, checkpoint: str, form: str, output: Path) -> dict[str, Any]:
    """Write a file, and return what is to be told of it.

    Returns:
      ``lengths``: which it takes, in words; ``difference``: the largest one to what the network
      says of some series, or None where nothing here runs such a file. Of values it is in
      deviations of the training targets.
    """
    run = trained.load(workdir, checkpoint)
    samples = _samples(run)
    wanted = run.answers(run.split(samples))  # before a converter replaces what computes it
    made = FORMATS[form](run)
    difference = None
    if made.call:
        found = made.call(*_batch(samples, _period(run)))
        scaling = run.record.target_scaling
        unit = 1.0 if scaling is None else scaling.deviation[0]
        difference = float((np.abs(found - wanted) / unit).max())
    output.write_bytes(made.contents)
    return {"lengths": made.lengths, "difference": difference}


def main() -> None:
    """Convert as the command line says, and print what `convert` returns as JSON."""
    workdir, checkpoint, form, output = sys.argv[1:]
    try:
        told = convert(Path(workdir), checkpoint, form, Path(output))
    except ModuleNotFoundError as error:
        told = {"missing": str(error)}
    except UserError as error:
        told = {"error": str(error)}
    except Exception as error:  # converters raise anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = {"failed": f"{type(error).__name__}: {(lines or [''])[0][:300]}"}
    print(f"\n{json.dumps(told)}")


if __name__ == "__main__":
    main()
