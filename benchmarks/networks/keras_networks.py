"""The networks in Keras on TensorFlow, trained by one `tf.function`."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.networks import trial
from benchmarks.networks.description import ADAM, Convolution, Description, Numbers, numbers
from benchmarks.networks.lite import Lite, fixed_filters
from benchmarks.networks.quartznet import QuartzNet
from benchmarks.worker import Program

# Layers are those of `keras`, tensors those between them.
Tensor = Any


def convolve(of: Convolution, x: Tensor) -> Tensor:
    """Apply a convolution."""
    make = keras.layers.SeparableConv1D if of.is_separable else keras.layers.Conv1D
    return make(
        of.filters,
        of.kernel_size,
        of.strides,
        padding="same",
        dilation_rate=of.dilation_rate,
        use_bias=False,
        name=of.name,
    )(x)


def normalize(description: Description, name: str, x: Tensor) -> Tensor:
    """Apply a batch normalisation."""
    return keras.layers.BatchNormalization(
        momentum=description.momentum, epsilon=description.epsilon, name=name
    )(x)


def relu(x: Tensor) -> Tensor:
    """Apply a rectifier."""
    return keras.layers.ReLU()(x)


def lite_network(description: Lite) -> keras.Model:
    """Return LITE: (B, L, 1) -> logits (B, classes)."""
    inputs = keras.Input(description.input_shape()[1:])
    bank = fixed_filters()
    fixed = keras.layers.Conv1D(
        bank.shape[-1],
        bank.shape[0],
        padding="same",
        use_bias=False,
        trainable=False,
        kernel_initializer=lambda shape, dtype: tf.constant(bank, dtype),
    )(inputs)
    parallel = [convolve(of, inputs) for of in description.parallel]
    x = keras.layers.Concatenate()([*parallel, relu(fixed)])
    x = relu(normalize(description, "parallel_norm", x))
    for of in description.separable:
        x = relu(normalize(description, f"{of.name}_norm", convolve(of, x)))
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(description.classes, name="head")(x))


def quartznet_network(description: QuartzNet) -> keras.Model:
    """Return QuartzNet: (B, L, C) -> logits (B, frames, classes)."""

    def apply(of: Convolution, x: Tensor) -> Tensor:
        return normalize(description, f"{of.name}_norm", convolve(of, x))

    inputs = keras.Input(description.input_shape()[1:])
    x = relu(apply(description.prologue, inputs))
    for block in description.blocks:
        y = x
        *inner, last = block.convolutions
        for of in inner:
            y = relu(apply(of, y))
        x = relu(keras.layers.Add()([apply(last, y), apply(block.residual, x)]))
    for of in description.epilogue:
        x = relu(apply(of, x))
    return keras.Model(inputs, keras.layers.Dense(description.classes, name="head")(x))


NETWORKS: dict[type, Callable[[Any], keras.Model]] = {
    Lite: lite_network,
    QuartzNet: quartznet_network,
}


def load(model: keras.Model, start: Numbers) -> None:
    """Give the model these weights; every trained weight has its place."""
    loaded = []
    for path, value in start.weights.items():
        layer, name = path.split("/")
        variable = getattr(model.get_layer(layer), name)
        variable.assign(value)
        loaded.append(variable.path)
    expected = sorted(variable.path for variable in model.trainable_variables)
    if sorted(loaded) != expected:
        raise ValueError(f"weights must be {expected}, got {sorted(loaded)}")


def build(description: Description) -> dict[str, Program]:
    """Build the programs of a network."""
    if keras.backend.backend() != "tensorflow":
        raise NotImplementedError("the backend of keras is not tensorflow")
    start = numbers(description)
    x, labels = tf.constant(start.inputs), tf.constant(start.labels)
    model = NETWORKS[type(description)](description)
    load(model, start)
    optimizer = keras.optimizers.Adam(description.learning_rate, **ADAM)
    weights = model.trainable_variables
    optimizer.build(weights)

    @tf.function
    def step(x: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        optimizer.apply(tape.gradient(loss, weights), weights)
        return loss, logits

    @tf.function
    def predict(x: tf.Tensor) -> tf.Tensor:
        return model(x, training=False)

    def run_step() -> tuple[np.ndarray, np.ndarray]:
        loss, logits = step(x, labels)
        return loss.numpy(), logits.numpy()

    def run_predict() -> np.ndarray:
        return predict(x).numpy()

    facts = {"parameters": sum(int(tf.size(weight.value)) for weight in weights)}
    # TensorFlow keeps the memory of a step for the next one: its peak cannot be told.
    return trial.programs(run_step, run_predict, facts, is_memory_known=False)
