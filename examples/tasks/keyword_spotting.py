"""Keyword spotting: a small separable network classifies "words" of different lengths.

A word is a tone whose pitch moves in one of six ways, spoken at any pitch, speed and loudness, in
noise. The network sees log-mel frames (100 a second) in ragged batches: `lengths` says how many
frames of each row are real, and what stands behind them changes nothing. A real run:

7734 parameters, 1000 words to train on
epoch  3: loss 1.132
epoch  6: loss 0.531
epoch  9: loss 0.253
epoch 12: loss 0.152
epoch 15: loss 0.126
accuracy on 500 other words: 0.952
the shortest one (22 of 77 frames) alone: logits differ by 1e-07
5 s
"""

import math
import time
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import flax_sepconv as fsc

RATE = 8000  # samples a second
WINDOW, HOP, BANDS = 256, 80, 32  # samples, samples, mel bands
SHORTEST, LONGEST = 0.25, 0.8  # seconds
# The pitch in the course of a word, over the one that it begins with, in octaves.
WORDS = {
    "rise": (0.0, 0.5, 1.0),
    "fall": (0.0, -0.5, -1.0),
    "hill": (0.0, 1.0, 0.0),
    "valley": (0.0, -1.0, 0.0),
    "late rise": (0.0, 0.0, 1.0),
    "early rise": (0.0, 1.0, 1.0),
}


class Recordings(NamedTuple):
    """N words: samples (N, S) with zeros behind each; frames of each (N,); classes (N,)."""

    samples: np.ndarray
    lengths: np.ndarray
    classes: np.ndarray


def record(rng: np.random.Generator, count: int) -> Recordings:
    """Speak that many words."""
    samples = np.zeros((count, int(LONGEST * RATE)), np.float32)
    classes = rng.integers(len(WORDS), size=count)
    sizes = (rng.uniform(SHORTEST, LONGEST, count) * RATE).astype(int)
    for row, name, size in zip(samples, classes, sizes, strict=True):
        course = list(WORDS.values())[name]
        octaves = np.interp(np.linspace(0, 2, size), range(3), course) + rng.normal(0, 0.05)
        pitch = rng.uniform(500, 1200) * 2**octaves
        tone = np.sin(2 * np.pi * np.cumsum(pitch) / RATE + rng.uniform(0, 2 * np.pi))
        row[:size] = rng.uniform(0.2, 1.0) * tone + rng.normal(0, 0.2, size)
    return Recordings(samples, 1 + (sizes - WINDOW) // HOP, classes)


def mel_filters() -> np.ndarray:
    """Return triangles over the frequencies of a frame, evenly apart on the mel scale."""
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


@jax.jit
def log_mel(samples: jax.Array) -> jax.Array:
    """Return the frames (N, L, BANDS) of samples (N, S)."""
    frames = 1 + (samples.shape[1] - WINDOW) // HOP
    places = HOP * jnp.arange(frames)[:, None] + jnp.arange(WINDOW)
    power = jnp.abs(jnp.fft.rfft(samples[:, places] * jnp.hanning(WINDOW))) ** 2
    return jnp.log(power @ mel_filters() + 1e-3)


class Spotter(nn.Module):
    """Three separable convolutions, the largest value of each channel, and a dense layer."""

    width: int = 48

    @nn.compact
    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        """Return the logits (N, classes) of frames (N, L, BANDS)."""
        for strides in (2, 2, 1):
            layer = fsc.SeparableConv1D(
                self.width, 9, strides=strides, padding="same", activation="relu"
            )
            x = layer(x, lengths)  # zeros behind each sequence's end
            lengths = fsc.ops.output_length(lengths, 9, strides=strides, padding="same")
        return nn.Dense(len(WORDS))(x.max(axis=1))  # zeros are never above what relu gives


def main(train: int = 1000, test: int = 500, epochs: int = 15, batch: int = 25) -> float:
    """Train, print, and return the accuracy on words that were not trained on."""
    begin = time.perf_counter()
    rng = np.random.default_rng(0)
    spoken, unheard = record(rng, train), record(rng, test)
    x, x_test = log_mel(spoken.samples), log_mel(unheard.samples)
    mean, deviation = x.mean((0, 1)), x.std((0, 1))
    x, x_test = (x - mean) / deviation, (x_test - mean) / deviation

    model = Spotter()
    params = model.init(jax.random.key(0), x[:1], spoken.lengths[:1])
    tx = optax.adam(optax.cosine_decay_schedule(4e-3, epochs * (train // batch)))
    apply = jax.jit(model.apply)

    @jax.jit
    def step(params: Any, state: Any, rows: jax.Array) -> tuple[Any, Any, jax.Array]:
        def loss(params: Any) -> jax.Array:
            logits = model.apply(params, x[rows], lengths[rows])
            return optax.softmax_cross_entropy_with_integer_labels(logits, classes[rows]).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    lengths, classes = jnp.asarray(spoken.lengths), jnp.asarray(spoken.classes)
    state = tx.init(params)
    print(f"{sum(map(np.size, jax.tree.leaves(params)))} parameters, {train} words to train on")
    for epoch in range(1, epochs + 1):
        losses = []
        for rows in rng.permutation(train)[: train // batch * batch].reshape(-1, batch):
            params, state, value = step(params, state, rows)
            losses.append(value)
        if epoch % 3 == 0:
            print(f"epoch {epoch:2}: loss {np.mean(losses):.3f}")

    logits = apply(params, x_test, unheard.lengths)
    accuracy = float(np.mean(logits.argmax(-1) == unheard.classes))
    print(f"accuracy on {test} other words: {accuracy:.3f}")

    # The shortest word alone, without what pads it, gets the logits that it has in its batch.
    short = int(unheard.lengths.argmin())
    frames = unheard.lengths[short : short + 1]
    alone = model.apply(params, x_test[short : short + 1, : frames[0]], frames)
    apart = float(jnp.abs(alone - logits[short]).max() / jnp.abs(logits[short]).max())
    print(
        f"the shortest one ({frames[0]} of {x.shape[1]} frames) alone: logits differ by {apart:.0e}"
    )
    print(f"{time.perf_counter() - begin:.0f} s")
    return accuracy


if __name__ == "__main__":
    main()
