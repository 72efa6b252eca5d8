"""Eight devices: the same training on one device, with a divided batch, with divided sequences.

The code of the model and of the step does not change: it computes what its arrays say. Here XLA
makes eight devices of one CPU: the numbers are shown to be right, and nothing to be faster.
A real run:

one device: loss 0.2522 to 0.1598, apart by 0e+00; a step sends nothing
batch over 8: loss 0.2522 to 0.1598, apart by 1e-07; a step sends 1 all-reduce
time over 8: loss 0.2522 to 0.1598, apart by 9e-08; a step sends 1 all-reduce, 6 collective-permute
"""

import contextlib
import os

DEVICES = 8
if __name__ == "__main__":  # Before JAX looks which devices there are.
    given, flag = os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count"
    os.environ["XLA_FLAGS"] = f"{given} {flag}={DEVICES}".strip()

from typing import Any  # noqa: E402

import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import flax_sepconv as fsc  # noqa: E402

WAYS = {
    "one device": None,
    "batch over 8": P("devices"),
    "time over 8": P(None, "devices"),
}


class Denoiser(nn.Module):
    """Two separable convolutions around what they leave as it is."""

    width: int = 32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return (B, L, C) of (B, L, C)."""
        h = fsc.SeparableConv1D(self.width, 9, padding="same", activation="gelu")(x)
        return x + fsc.SeparableConv1D(x.shape[-1], 9, padding="same")(h)


def collectives(text: str) -> str:
    """Count in a compiled program what devices send each other."""
    kinds = ("all-reduce", "collective-permute", "all-gather", "reduce-scatter", "all-to-all")
    counts = {kind: text.count(f" {kind}(") + text.count(f" {kind}-start(") for kind in kinds}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "nothing"


def main(batch: int = 16, length: int = 1024, steps: int = 20) -> dict[str, list[float]]:
    """Train by each of `WAYS`; print and return the losses of every step."""
    if jax.device_count() != DEVICES:
        raise SystemExit(f"eight_devices needs {DEVICES} devices, there are {jax.device_count()}")
    rng = np.random.default_rng(0)
    clean = np.cumsum(rng.standard_normal((batch, length, 8), np.float32), axis=1)
    clean /= clean.std()
    noisy = clean + 0.5 * rng.standard_normal(clean.shape, np.float32)
    model = Denoiser()
    weights = model.init(jax.random.key(0), noisy)["params"]
    tx = optax.adam(1e-2)

    @jax.jit
    def step(params: Any, state: Any, x: jax.Array, target: jax.Array) -> tuple[Any, Any, Any]:
        def loss(params: Any) -> jax.Array:
            y: Any = model.apply({"params": params}, x)
            return jnp.mean((y - target) ** 2)

        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    mesh = jax.make_mesh((DEVICES,), ("devices",))
    losses: dict[str, list[float]] = {}
    for name, divided in WAYS.items():
        with contextlib.ExitStack() as stack:
            params, x, target = weights, noisy, clean
            if divided is not None:
                stack.enter_context(jax.set_mesh(mesh))
                x, target = jax.device_put((noisy, clean), divided)
                params = jax.device_put(weights, P())  # every device has all of them
            state = tx.init(params)
            compiled = step.lower(params, state, x, target).compile()
            losses[name] = []
            for _ in range(steps):
                params, state, value = compiled(params, state, x, target)
                losses[name].append(float(value))
        apart = np.abs(np.divide(losses[name], losses["one device"]) - 1).max()
        print(
            f"{name}: loss {losses[name][0]:.4f} to {losses[name][-1]:.4f}, "
            f"apart by {apart:.0e}; a step sends {collectives(compiled.as_text() or '')}"
        )
    return losses


if __name__ == "__main__":
    main()
