"""The networks in Flax, whatever their separable convolutions are; they train in one program."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jax import lax

import flax_sepconv as fsc
from benchmarks.networks import trial
from benchmarks.networks.description import ADAM, Convolution, Description, numbers
from benchmarks.networks.lite import Lite, fixed_filters
from benchmarks.networks.quartznet import QuartzNet
from benchmarks.worker import Program

Separable = Callable[[Convolution], nn.Module]


def ours(of: Convolution) -> nn.Module:
    """Make the layer of this package."""
    return fsc.SeparableConv1D(
        of.filters,
        of.kernel_size,
        of.strides,
        padding="same",
        dilation_rate=of.dilation_rate,
        use_bias=False,
        name=of.name,
    )


class StockSeparable(nn.Module):
    """The layer made of Flax's own."""

    of: Convolution

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply it: (B, L, C) -> (B, output length, F)."""
        of = self.of
        x = nn.Conv(
            of.channels,
            of.kernel_size,
            of.strides,
            kernel_dilation=of.dilation_rate,
            feature_group_count=of.channels,
            use_bias=False,
            name="depthwise",
        )(x)
        return nn.Dense(of.filters, use_bias=False, name="pointwise")(x)


def stock(of: Convolution) -> nn.Module:
    """Make the layer of Flax's own."""
    return StockSeparable(of, name=of.name)


SEPARABLE: dict[str, Separable] = {"ours": ours, "stock": stock}
# What Flax calls the weights.
NAMES = {"gamma": "scale", "beta": "bias"}
STOCK_NAMES = {"depthwise_kernel": "depthwise/kernel", "pointwise_kernel": "pointwise/kernel"}


def convolve(of: Convolution, separable: Separable, x: jax.Array) -> jax.Array:
    """Apply a convolution."""
    if of.is_separable:
        return separable(of)(x)
    return nn.Conv(of.filters, of.kernel_size, use_bias=False, name=of.name)(x)


def normalize(description: Description, name: str, train: bool, x: jax.Array) -> jax.Array:
    """Apply a batch normalisation."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=description.momentum,
        epsilon=description.epsilon,
        name=name,
    )(x)


class LiteNetwork(nn.Module):
    """LITE."""

    description: Lite
    separable: Separable

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return logits (B, classes)."""
        description = self.description
        bank, layout = jnp.asarray(fixed_filters()), ("NWC", "WIO", "NWC")
        fixed = lax.conv_general_dilated(x, bank, (1,), "SAME", dimension_numbers=layout)
        parallel = [convolve(of, self.separable, x) for of in description.parallel]
        x = jnp.concatenate([*parallel, nn.relu(fixed)], axis=-1)
        x = nn.relu(normalize(description, "parallel_norm", train, x))
        for of in description.separable:
            x = convolve(of, self.separable, x)
            x = nn.relu(normalize(description, f"{of.name}_norm", train, x))
        return nn.Dense(description.classes, name="head")(x.mean(axis=1))


class QuartzNetNetwork(nn.Module):
    """QuartzNet."""

    description: QuartzNet
    separable: Separable

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return logits (B, frames, classes)."""
        description = self.description

        def apply(of: Convolution, x: jax.Array) -> jax.Array:
            x = convolve(of, self.separable, x)
            return normalize(description, f"{of.name}_norm", train, x)

        x = nn.relu(apply(description.prologue, x))
        for block in description.blocks:
            y = x
            *inner, last = block.convolutions
            for of in inner:
                y = nn.relu(apply(of, y))
            x = nn.relu(apply(last, y) + apply(block.residual, x))
        for of in description.epilogue:
            x = nn.relu(apply(of, x))
        return nn.Dense(description.classes, name="head")(x)


NETWORKS: dict[type, Any] = {Lite: LiteNetwork, QuartzNet: QuartzNetNetwork}


def variables_of(network: nn.Module, weights: dict[str, np.ndarray], x: jax.Array) -> Any:
    """Return the network's variables with these weights; every weight has its place."""
    shapes = jax.eval_shape(functools.partial(network.init, train=True), jax.random.key(0), x)
    names = NAMES | (STOCK_NAMES if network.separable is stock else {})
    flat = {}
    for path, value in weights.items():
        layer, name = path.split("/")
        flat[f"{layer}/{names.get(name, name)}"] = value
    expected = traverse_util.flatten_dict(shapes["params"], sep="/")
    if flat.keys() != expected.keys():
        raise ValueError(f"weights must be {sorted(expected)}, got {sorted(flat)}")
    params = {path: jnp.reshape(flat[path], leaf.shape) for path, leaf in expected.items()}
    start = {"mean": jnp.zeros, "var": jnp.ones}
    statistics = {
        path: start[path[-1]](leaf.shape)
        for path, leaf in traverse_util.flatten_dict(shapes["batch_stats"]).items()
    }
    return {
        "params": traverse_util.unflatten_dict(params, sep="/"),
        "batch_stats": traverse_util.unflatten_dict(statistics),
    }


def step_of(network: nn.Module, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """Return the training step: (state, x, labels) -> (state, loss, logits)."""

    def step(state: Any, x: jax.Array, labels: jax.Array) -> Any:
        variables, memory = state

        def loss_of(params: Any) -> Any:
            logits, updated = network.apply(
                variables | {"params": params}, x, train=True, mutable=["batch_stats"]
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, (logits, updated)

        (loss, (logits, updated)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            variables["params"]
        )
        updates, memory = optimizer.update(gradients, memory, variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        return ({"params": params, **updated}, memory), loss, logits

    return step


def build(description: Description, separable: str) -> dict[str, Program]:
    """Build the programs of a network with a layer of `SEPARABLE`."""
    start = numbers(description)
    x, labels = jnp.asarray(start.inputs), jnp.asarray(start.labels)
    network = NETWORKS[type(description)](description, SEPARABLE[separable])
    optimizer = optax.adam(
        description.learning_rate, ADAM["beta_1"], ADAM["beta_2"], ADAM["epsilon"]
    )
    variables = variables_of(network, start.weights, x)
    state = variables, optimizer.init(variables["params"])
    step = jax.jit(step_of(network, optimizer), donate_argnums=0)
    predict = jax.jit(functools.partial(network.apply, train=False))

    def run_step() -> tuple[jax.Array, jax.Array]:
        nonlocal state
        state, loss, logits = jax.block_until_ready(step(state, x, labels))
        return loss, logits

    def run_predict() -> jax.Array:
        return jax.block_until_ready(predict(state[0], x))

    facts: dict[str, Any] = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    }
    if separable == "ours":
        facts["selection"] = selection(x)
    return trial.programs(run_step, run_predict, facts)


def selection(x: jax.Array) -> str:
    """Tell which lowering the layers take, and why; on CPU it is the same for all of them."""
    name, reason = fsc.ops.select_implementation(x.shape, (1, x.shape[-1], 1), platform="cpu")
    return f"{name}: {reason}"
