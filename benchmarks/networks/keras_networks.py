"""The networks in Keras on TensorFlow, trained by one `tf.function`."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from benchmarks.networks import trial
from benchmarks.networks.conformer import Conformer
from benchmarks.networks.conv_tasnet import ConvTasNet
from benchmarks.networks.description import ADAM, Description, numbers
from benchmarks.networks.keras_layers import Apply, Tensor, layers_of, load
from benchmarks.networks.lite import Lite
from benchmarks.networks.quartznet import QuartzNet
from benchmarks.worker import Program


def lite_network(description: Lite, inputs: Tensor, apply: Apply) -> Tensor:
    """Return LITE's logits: (B, L, 1) -> (B, classes)."""
    from examples.lite import fixed_filters

    bank = fixed_filters()
    fixed = keras.layers.Conv1D(
        bank.shape[-1],
        bank.shape[0],
        padding="same",
        use_bias=False,
        trainable=False,
        kernel_initializer=lambda shape, dtype: tf.constant(bank, dtype),
    )(inputs)
    parallel = [apply(f"parallel{i}", inputs) for i in range(3)]
    x = ops.concatenate([*parallel, ops.relu(fixed)], axis=-1)
    x = ops.relu(apply("parallel_norm", x))
    for name in ("separable0", "separable1"):
        x = ops.relu(apply(f"{name}_norm", apply(name, x)))
    return apply("head", ops.mean(x, axis=1))


def quartznet_network(description: QuartzNet, inputs: Tensor, apply: Apply) -> Tensor:
    """Return QuartzNet's logits: (B, L, C) -> (B, frames, classes)."""

    def convolve(block: str, r: int, x: Tensor) -> Tensor:
        return apply(f"{block}/norm{r}", apply(f"{block}/conv{r}", x))

    x = ops.relu(convolve("prologue", 0, inputs))
    for block in description.blocks:
        y, last = x, description.repeats - 1
        for r in range(last):
            y = ops.relu(convolve(block, r, y))
        residual = apply(f"{block}/residual_norm", apply(f"{block}/residual", x))
        x = ops.relu(convolve(block, last, y) + residual)
    x = ops.relu(convolve("epilogue", 0, x))
    return apply("head", ops.relu(apply("wide_norm", apply("wide", x))))


def conformer_network(description: Conformer, inputs: Tensor, apply: Apply) -> Tensor:
    """Return Conformer's logits: (B, L, C) -> (B, L, classes)."""
    parts = (-1, description.length, description.heads, description.width // description.heads)

    def feed(name: str, x: Tensor) -> Tensor:
        y = ops.silu(apply(f"{name}/expand", apply(f"{name}/norm", x)))
        return x + 0.5 * apply(f"{name}/project", y)

    def attend(name: str, x: Tensor) -> Tensor:
        y = apply(f"{name}/norm", x)
        q, k, v = (
            ops.reshape(apply(f"{name}/{each}", y), parts) for each in ("query", "key", "value")
        )
        y = ops.reshape(ops.dot_product_attention(q, k, v), (-1, parts[1], description.width))
        return x + apply(f"{name}/out", y)

    def convolve(name: str, x: Tensor) -> Tensor:
        y = ops.glu(apply(f"{name}/expand", apply(f"{name}/norm", x)))
        y = apply(f"{name}/depthwise_norm", apply(f"{name}/depthwise", y))
        return x + apply(f"{name}/project", ops.silu(y))

    x = apply("input", inputs)
    for b in range(description.blocks):
        x = attend(f"block{b}/attention", feed(f"block{b}/feed0", x))
        x = feed(f"block{b}/feed1", convolve(f"block{b}/convolution", x))
        x = apply(f"block{b}/norm", x)
    return apply("head", x)


def conv_tasnet_network(
    description: ConvTasNet, inputs: Tensor, apply: Apply
) -> tuple[Tensor, Tensor]:
    """Return Conv-TasNet's voices: (B, samples) -> (B, sources, samples), and one thing more."""
    samples, hop = description.samples, description.window // 2
    N, sources = description.filters, description.sources
    wave = ops.pad(inputs, ((0, 0), (hop, hop + -samples % hop)))
    pieces = ops.reshape(wave, (-1, wave.shape[1] // hop, hop))
    frames = ops.concatenate([pieces[:, :-1], pieces[:, 1:]], axis=-1)
    T = frames.shape[1]
    frames = apply("encoder", frames)
    y = apply("separator/bottleneck", apply("separator/norm", frames))
    skips = []
    for block in description.block_names:
        h = y
        for stage in ("expand", "depthwise"):
            h = apply(f"{block}/{stage}_prelu", apply(f"{block}/{stage}", h))
            h = apply(f"{block}/{stage}_norm", h)
        y = y + apply(f"{block}/residual", h)
        skips.append(apply(f"{block}/skip", h))
    total = apply("separator/masks_prelu", keras.layers.Add()(skips))
    masks = ops.sigmoid(apply("separator/masks", total))
    masked = ops.reshape(masks, (-1, T, sources, N)) * frames[:, :, None]
    waves = apply("decoder", masked)
    waves = waves[:, 1:, :, :hop] + waves[:, :-1, :, hop:]
    voices = ops.reshape(ops.swapaxes(waves, 1, 2), (-1, sources, (T - 1) * hop))
    # The last block's residual adds to nothing; without it the model would have fewer weights.
    return voices[..., :samples], y


NETWORKS: dict[type, Callable[[Any, Tensor, Apply], Any]] = {
    Lite: lite_network,
    QuartzNet: quartznet_network,
    Conformer: conformer_network,
    ConvTasNet: conv_tasnet_network,
}


def first(made: Any) -> Any:
    """Return what a network is asked for, of all that it makes."""
    return made[0] if isinstance(made, list | tuple) else made


def loss_of(outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Return the mean cross-entropy of classes, or the mean square of what is missing."""
    if targets.dtype.is_integer:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, outputs))
    return tf.reduce_mean(tf.square(outputs - targets))


def build(description: Description) -> dict[str, Program]:
    """Build the programs of a network."""
    if keras.backend.backend() != "tensorflow":
        raise NotImplementedError("the backend of keras is not tensorflow")
    start = numbers(description)
    x, targets = tf.constant(start.inputs), tf.constant(start.targets)
    inputs = keras.Input(description.input_shape()[1:])
    made = NETWORKS[type(description)](description, inputs, layers_of(description))
    model = keras.Model(inputs, made)
    load(model, description, start.weights)
    optimizer = keras.optimizers.Adam(description.learning_rate, **ADAM)
    weights = model.trainable_variables
    optimizer.build(weights)

    @tf.function
    def step(x: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            outputs = first(model(x, training=True))
            loss = loss_of(outputs, targets)
        none = tf.UnconnectedGradients.ZERO
        optimizer.apply(tape.gradient(loss, [each.value for each in weights], None, none), weights)
        return loss, outputs

    @tf.function
    def predict(x: tf.Tensor) -> tf.Tensor:
        return first(model(x, training=False))

    def run_step() -> tuple[np.ndarray, np.ndarray]:
        loss, outputs = step(x, targets)
        return loss.numpy(), outputs.numpy()

    def run_predict() -> np.ndarray:
        return predict(x).numpy()

    facts = {"parameters": sum(int(tf.size(weight.value)) for weight in weights)}
    # TensorFlow keeps the memory of a step for the next one: its peak cannot be told.
    return trial.programs(run_step, run_predict, facts, is_memory_known=False)
