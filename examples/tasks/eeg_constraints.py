"""Max-norm constraints: an EEG-like task with few trials, trained with and without them.

As in EEGNet, each electrode is filtered over time (depthwise), the electrodes are mixed
(pointwise), and the norms of the filters are bounded. The signals are made: each trial is an
oscillation of 10 or of 22 Hz from a source on the left or the right, in noise that electrodes
share; which of the four it is has to be told. After the training the bounds are verified. The same
network is trained without them too, on the same trials from the same weights. What the bounds are
worth depends on the task: with longer trials of more electrodes (1.5 s, 16) and 60 epochs it was
+0.005, with a standard error of 0.008. A real run:

120 trials to train on, 400 to test, 5 seeds; chance is 0.25
with    constraints: accuracy 0.589 (0.490 to 0.680), norms up to 1.000 depthwise, 1.000 pointwise
without constraints: accuracy 0.561 (0.468 to 0.635), norms up to 1.572 depthwise, 1.884 pointwise
the constraints are worth +0.027, with a standard error of 0.006
13 s
"""

import functools
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import flax_sepconv as fsc

RATE, SECONDS, ELECTRODES = 128, 1.25, 12
CLASSES = tuple((side, hertz) for side in (-0.5, 0.5) for hertz in (10.0, 22.0))
BOUND = 1.0


def trials(rng: np.random.Generator, count: int, noise: float = 1.5) -> tuple[Any, Any]:
    """Return signals (count, steps, electrodes), of deviation 1, and their classes."""
    steps = int(RATE * SECONDS)
    places = np.linspace(-1, 1, ELECTRODES)
    time_ = np.arange(steps) / RATE
    # Noise of six sources anywhere, whose power falls with the frequency, and of each electrode.
    white = np.fft.rfft(rng.standard_normal((count, 6, steps)))
    pink = np.fft.irfft(white / np.sqrt(np.maximum(np.fft.rfftfreq(steps, 1 / RATE), 1)), steps)
    spread = np.exp(-((places - rng.uniform(-1, 1, (count, 6, 1))) ** 2) / 0.3)
    x = 4 * noise * np.einsum("nsl,nse->nle", pink, spread)
    x += noise * rng.standard_normal((count, steps, ELECTRODES))
    classes = rng.integers(len(CLASSES), size=count)
    for signal, which in zip(x, classes, strict=True):
        side, hertz = CLASSES[which]
        wave = np.sin(2 * np.pi * rng.normal(hertz, 0.7) * time_ + rng.uniform(0, 2 * np.pi))
        signal += wave[:, None] * np.exp(-((places - rng.normal(side, 0.15)) ** 2) / 0.2)
    return jnp.asarray(x / x.std((1, 2), keepdims=True), jnp.float32), jnp.asarray(classes)


class Decoder(nn.Module):
    """Two separable convolutions and a dense layer, with constraints as EEGNet's or without."""

    constrained: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return logits (N, classes) of signals (N, L, electrodes)."""
        taps = fsc.constraints.MaxNorm(BOUND, axis=0) if self.constrained else None
        inputs = fsc.constraints.MaxNorm(BOUND, axis=[0, 1]) if self.constrained else None
        layer = functools.partial(
            fsc.SeparableConv1D,
            padding="same",
            depthwise_constraint=taps,  # over the taps of each depthwise filter
            pointwise_constraint=inputs,  # over the inputs of each pointwise filter
        )
        x = layer(filters=16, kernel_size=32, depth_multiplier=2)(x)
        x = nn.avg_pool(x**2, (8,), (8,))  # the power of what the filters let through
        x = layer(filters=16, kernel_size=8, activation="elu")(jnp.log(x + 1e-2))
        return nn.Dense(len(CLASSES))(x.mean(axis=1))


def norms(params: Any) -> dict[str, float]:
    """Return the largest norm of a depthwise and of a pointwise filter."""
    axes = {"depthwise_kernel": (0,), "pointwise_kernel": (0, 1)}
    found: dict[str, float] = dict.fromkeys(axes, 0.0)
    for layer in params.values():
        for name in axes.keys() & layer.keys():
            largest = jnp.sqrt((layer[name] ** 2).sum(axes[name])).max()
            found[name] = max(found[name], float(largest))
    return found


def train(constrained: bool, x: Any, classes: Any, seed: int, epochs: int) -> tuple[Any, Any]:
    """Return the trained weights, and the function of them and signals that gives logits."""
    model, batch = Decoder(constrained), 20
    params = model.init(jax.random.key(seed), x[:1])["params"]
    constraints = fsc.constraints_of(model, jax.random.key(seed), x[:1])
    tx = optax.chain(optax.adam(5e-3), fsc.keep_params_constrained(constraints))

    def logits(params: Any, x: jax.Array) -> jax.Array:
        return model.apply({"params": params}, x)  # type: ignore[return-value]

    def step(carry: Any, rows: jax.Array) -> tuple[Any, None]:
        def loss(params: Any) -> jax.Array:
            told = logits(params, x[rows])
            return optax.softmax_cross_entropy_with_integer_labels(told, classes[rows]).mean()

        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(x)) for _ in range(epochs)]).reshape(-1, batch)
    (params, _), _ = jax.jit(lambda c, o: jax.lax.scan(step, c, o))(
        (params, tx.init(params)), order
    )
    return params, jax.jit(logits)


def main(seeds: int = 5, count: int = 120, test: int = 400, epochs: int = 40) -> dict[bool, Any]:
    """Train `seeds` times with and without constraints; print and return what came out."""
    begin = time.perf_counter()
    results: dict[bool, Any] = {}
    print(f"{count} trials to train on, {test} to test, {seeds} seeds; chance is 0.25")
    for constrained in (True, False):
        accuracies, largest = [], {"depthwise_kernel": 0.0, "pointwise_kernel": 0.0}
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            (x, classes), (x_test, classes_test) = trials(rng, count), trials(rng, test)
            params, logits = train(constrained, x, classes, seed, epochs)
            accuracies.append(float((logits(params, x_test).argmax(-1) == classes_test).mean()))
            largest = {name: max(largest[name], norm) for name, norm in norms(params).items()}
        if constrained:
            assert max(largest.values()) <= BOUND * (1 + 1e-6), largest
        results[constrained] = accuracies, largest
        depthwise, pointwise = largest.values()
        print(
            f"{'with' if constrained else 'without':7} constraints: accuracy "
            f"{np.mean(accuracies):.3f} ({min(accuracies):.3f} to {max(accuracies):.3f}), "
            f"norms up to {depthwise:.3f} depthwise, {pointwise:.3f} pointwise"
        )
    better = [a - b for a, b in zip(results[True][0], results[False][0], strict=True)]
    error = np.std(better, ddof=1) / len(better) ** 0.5 if seeds > 1 else np.nan
    print(f"the constraints are worth {np.mean(better):+.3f}, with a standard error of {error:.3f}")
    print(f"{time.perf_counter() - begin:.0f} s")
    return results


if __name__ == "__main__":
    main()
