"""The networks of `examples/`, and with Flax's own layers in them; they train in one program."""

import contextlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

import examples.conformer
import examples.conv_tasnet
import examples.lite
import examples.quartznet
import flax_sepconv as fsc
from benchmarks.networks import trial
from benchmarks.networks.conformer import Conformer
from benchmarks.networks.conv_tasnet import ConvTasNet
from benchmarks.networks.description import ADAM, Description, numbers
from benchmarks.networks.lite import Lite
from benchmarks.networks.quartznet import QuartzNet
from benchmarks.worker import Program


def network_of(description: Description) -> nn.Module:
    """Return the module of `examples/` with these sizes."""
    match description:
        case Lite() as of:
            return examples.lite.Lite(of.classes, of.filters, of.kernel_size)
        case QuartzNet() as of:
            return examples.quartznet.QuartzNet(
                of.classes, 1, of.repeats, of.filters, of.kernel_sizes
            )
        case Conformer() as of:
            return examples.conformer.Conformer(
                of.classes, of.width, of.blocks, of.heads, of.kernel_size
            )
        case ConvTasNet() as of:
            separator = examples.conv_tasnet.Separator(
                of.sources,
                of.bottleneck,
                of.hidden,
                of.skip,
                of.kernel_size,
                of.blocks,
                of.repeats,
            )
            return examples.conv_tasnet.ConvTasNet(separator, of.filters, of.window)
    raise TypeError(f"description: no network is described by a {type(description).__name__}")


def stock(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    """Replace a layer of this package by Flax's own with the same weights."""
    layer = context.module
    is_ours = isinstance(layer, fsc.SeparableConv1D | fsc.DepthwiseConv1D)
    if not is_ours or context.method_name != "__call__":
        return call(*args, **kwargs)
    x, weights = args[0], layer.variables["params"]
    kernel = weights["depthwise_kernel"]
    K, C, _ = kernel.shape
    inner = {"kernel": kernel.reshape(K, 1, C)}
    if "bias" in weights:  # the separable layers of these networks have none
        inner["bias"] = weights["bias"]
    x = nn.Conv(
        C,
        K,
        layer.strides,
        "SAME",
        kernel_dilation=layer.dilation_rate,
        feature_group_count=C,
        use_bias="bias" in inner,
        parent=None,
    ).apply({"params": inner}, x)
    if "pointwise_kernel" not in weights:
        return x
    (kernel,) = weights["pointwise_kernel"]
    dense = nn.Dense(kernel.shape[-1], use_bias=False, parent=None)
    return dense.apply({"params": {"kernel": kernel}}, x)


LAYERS = ("ours", "stock")


def layers(name: str) -> contextlib.AbstractContextManager[None]:
    """Let the networks that are called in the `with` block have these layers of `LAYERS`."""
    return nn.intercept_methods(stock) if name == "stock" else contextlib.nullcontext()


def variables_of(network: nn.Module, weights: dict[str, np.ndarray], x: jax.Array) -> Any:
    """Return the network's variables with these weights; every weight has its place."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    expected = traverse_util.flatten_dict(shapes["params"], sep="/")
    found = {path: value.shape for path, value in weights.items()}
    if found != {path: leaf.shape for path, leaf in expected.items()}:
        raise ValueError(f"weights must be {expected}, got {found}")
    params = {path: jnp.asarray(value) for path, value in weights.items()}
    variables = {"params": traverse_util.unflatten_dict(params, sep="/")}
    if "batch_stats" in shapes:
        start = {"mean": jnp.zeros, "var": jnp.ones}
        variables["batch_stats"] = jax.tree.map_with_path(
            lambda path, leaf: start[path[-1].key](leaf.shape), shapes["batch_stats"]
        )
    return variables


def loss_of(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the mean cross-entropy of classes, or the mean square of what is missing."""
    if jnp.issubdtype(targets.dtype, jnp.integer):
        return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()
    return jnp.square(outputs - targets).mean()


def step_of(
    apply: Callable[..., Any], optimizer: optax.GradientTransformation
) -> Callable[..., Any]:
    """Return the training step: (state, x, targets) -> (state, loss, outputs)."""

    def step(state: Any, x: jax.Array, targets: jax.Array) -> Any:
        variables, memory = state

        def loss(params: Any) -> Any:
            outputs, updated = apply(variables | {"params": params}, x, train=True)
            return loss_of(outputs, targets), (outputs, updated)

        (value, (outputs, updated)), gradients = jax.value_and_grad(loss, has_aux=True)(
            variables["params"]
        )
        updates, memory = optimizer.update(gradients, memory, variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        return ({"params": params, **updated}, memory), value, outputs

    return step


def build(description: Description, name: str) -> dict[str, Program]:
    """Build the programs of a network with layers of `LAYERS`."""
    start = numbers(description)
    x, targets = jnp.asarray(start.inputs), jnp.asarray(start.targets)
    network = network_of(description)
    variables = variables_of(network, start.weights, x)

    def apply(variables: Any, x: jax.Array, train: bool) -> Any:
        settings: dict[str, Any] = {"train": train} if "batch_stats" in variables else {}
        with layers(name):
            return network.apply(variables, x, mutable=["batch_stats"], **settings)

    optimizer = optax.adam(
        description.learning_rate, ADAM["beta_1"], ADAM["beta_2"], ADAM["epsilon"]
    )
    state = variables, optimizer.init(variables["params"])
    step = jax.jit(step_of(apply, optimizer), donate_argnums=0)
    predict = jax.jit(lambda variables, x: apply(variables, x, train=False)[0])

    def run_step() -> tuple[jax.Array, jax.Array]:
        nonlocal state
        state, loss, outputs = jax.block_until_ready(step(state, x, targets))
        return loss, outputs

    def run_predict() -> jax.Array:
        return jax.block_until_ready(predict(state[0], x))

    facts: dict[str, Any] = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    }
    if name == "ours":
        facts["selection"] = selection()
    return trial.programs(run_step, run_predict, facts)


def selection() -> str:
    """Tell which lowering the layers take, and why; on CPU it is the same for all of them."""
    name, reason = fsc.ops.select_implementation((1, 8, 8), (1, 8, 1), platform="cpu")
    return f"{name}: {reason}"
