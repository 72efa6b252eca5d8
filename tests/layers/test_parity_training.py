"""Ten training steps with every constraint and optimizer, weight by weight, against the rest."""

import functools
import types
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flax_sepconv as fsc
from tests import peers, settings

# Keras 3 reads its own variables in a way that NumPy 2 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS, B, L, C, K, M, F = 10, 4, 11, 3, 5, 2, 6

# Exact in binary, the powers of the last two as well: TensorFlow keeps them in float32.
RATE, MOMENTUM, BETA_1, BETA_2 = 1 / 32, 7 / 8, 1 / 4, 1 / 2
# Keras adds epsilon before the bias correction of Adam, optax after it: small enough, no matter.
EPSILON = 1e-30

# One constraint for each weight; where two norms make no sense for a bias, over its only axis.
CONSTRAINTS: dict[str, tuple[Any, Any, Any]] = {
    "none": (None, None, None),
    "max_norm": (("MaxNorm", {"max_value": 0.5}),) * 3,
    "max_norm over two axes": (
        ("MaxNorm", {"max_value": 0.75, "axis": [0, 1]}),
        ("MaxNorm", {"max_value": 0.5, "axis": [0, 1]}),
        ("MaxNorm", {"max_value": 0.25, "axis": 0}),
    ),
    "non_neg": (("NonNeg", {}),) * 3,
    "unit_norm": (("UnitNorm", {}),) * 3,
    "unit_norm over two axes": (
        ("UnitNorm", {"axis": [0, 1]}),
        ("UnitNorm", {"axis": [0, 1]}),
        ("UnitNorm", {"axis": -1}),
    ),
    "min_max_norm": (("MinMaxNorm", {"min_value": 0.25, "max_value": 0.5}),) * 3,
    "min_max_norm, slowly": (
        ("MinMaxNorm", {"min_value": 0.25, "max_value": 0.75, "rate": 0.5, "axis": [0, 1]}),
        ("MinMaxNorm", {"min_value": 0.5, "max_value": 0.75, "rate": 0.25, "axis": [0, 1]}),
        ("MinMaxNorm", {"max_value": 0.5, "rate": 0.75}),
    ),
    "by name": ("max_norm", "non_neg", "unit_norm"),
    "one of three": (None, ("NonNeg", {}), None),
}
# A projection sees weights and not the rule that moved them: every constraint meets one optimizer,
# and every optimizer each way in which weights are projected.
OPTIMIZERS = ("sgd", "momentum", "adam")
PROJECTIONS = ("none", "max_norm over two axes", "unit_norm", "min_max_norm, slowly")
CASES = [
    (constraints, optimizer)
    for constraints in CONSTRAINTS
    for optimizer in OPTIMIZERS
    if optimizer == "adam" or constraints in PROJECTIONS
]

Weights = dict[str, np.ndarray]


def arguments(library: types.ModuleType, constraints: tuple[Any, Any, Any]) -> dict[str, Any]:
    """Return the arguments of the layer, its constraints and regularizers made by the library."""

    def constraint(wanted: Any) -> Any:
        if wanted is None or isinstance(wanted, str):
            return wanted
        return getattr(library.constraints, wanted[0])(**wanted[1])

    depthwise, pointwise, bias = map(constraint, constraints)
    return {
        "filters": F,
        "kernel_size": K,
        "padding": "same",
        "depth_multiplier": M,
        "activation": "tanh",
        "depthwise_regularizer": library.regularizers.L2(1 / 64),
        "activity_regularizer": library.regularizers.L2(1 / 32),
        "depthwise_constraint": depthwise,
        "pointwise_constraint": pointwise,
        "bias_constraint": bias,
    }


def start(dtype: str) -> Weights:
    """Return weights that break every constraint but the absent one."""
    rng = np.random.default_rng(1)
    weights = {
        "depthwise_kernel": rng.standard_normal((K, C, M)),
        "pointwise_kernel": rng.standard_normal((1, C * M, F)),
        "bias": rng.standard_normal(F),
    }
    return {name: weight.astype(dtype) for name, weight in weights.items()}


def batches(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    xs, targets = rng.standard_normal((STEPS, B, L, C)), rng.standard_normal((STEPS, B, L, F))
    return xs.astype(dtype), targets.astype(dtype)


def ours(constraints: tuple[Any, Any, Any], optimizer: str, dtype: str) -> Weights:
    layer = fsc.SeparableConv1D(**arguments(fsc, constraints), param_dtype=dtype)
    xs, targets = batches(dtype)
    rule = {
        "sgd": optax.sgd(RATE),
        "momentum": optax.sgd(RATE, MOMENTUM),
        "adam": optax.adam(RATE, BETA_1, BETA_2, EPSILON),
    }[optimizer]

    def loss(params: Any, x: Any, target: Any) -> Any:
        y, recorded = layer.apply({"params": params}, x, mutable=["losses"])
        return jnp.mean((y - target) ** 2) + fsc.regularization_loss(recorded)

    def step(chain: Any, state: Any, batch: Any) -> Any:
        params, opt_state = state
        updates, opt_state = chain.update(jax.grad(loss)(params, *batch), opt_state, params)
        params = optax.apply_updates(params, updates)
        return (params, opt_state), params

    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        found = fsc.constraints_of(layer, jax.random.key(0), xs[0])
        chain = optax.chain(rule, fsc.keep_params_constrained(found))
        params = jax.tree.map(jnp.asarray, start(dtype))
        run = jax.jit(functools.partial(jax.lax.scan, functools.partial(step, chain)))
        _, history = run((params, chain.init(params)), (xs, targets))
        return {name: np.asarray(weights) for name, weights in history.items()}


def fit(keras: types.ModuleType, layer: Any, optimizer: Any, dtype: str, **options: Any) -> Weights:
    """Train by the Keras API itself, one batch at a time."""
    xs, targets = batches(dtype)
    model = keras.Sequential([keras.Input((L, C), dtype=dtype), layer])
    layer.set_weights(list(start(dtype).values()))
    model.compile(optimizer, loss="mse", **options)
    history = []
    for x, target in zip(xs, targets, strict=True):
        model.train_on_batch(x, target)
        history.append(layer.get_weights())
    return {name: np.stack(ws) for name, *ws in zip(settings.WEIGHTS, *history, strict=True)}


def optimizer_of_keras(optimizers: types.ModuleType, name: str) -> Any:
    if name == "adam":
        return optimizers.Adam(RATE, BETA_1, BETA_2, epsilon=EPSILON)
    return optimizers.SGD(RATE, MOMENTUM if name == "momentum" else 0.0)


def keras_3(constraints: tuple[Any, Any, Any], optimizer: str, dtype: str) -> Weights:
    keras = peers.keras()
    layer = keras.layers.SeparableConv1D(**arguments(keras, constraints), dtype=dtype)
    return fit(keras, layer, optimizer_of_keras(keras.optimizers, optimizer), dtype)


def keras_2(
    constraints: tuple[Any, Any, Any], optimizer: str, dtype: str, *, legacy: bool = False
) -> Weights:
    keras = peers.tf_keras()
    layer = keras.layers.SeparableConv1D(**arguments(keras, constraints), dtype=dtype)
    optimizers = keras.optimizers.legacy if legacy else keras.optimizers
    rule = optimizer_of_keras(optimizers, optimizer)
    return fit(keras, layer, rule, dtype, run_eagerly=True)


def tensorflow_1(constraints: tuple[Any, Any, Any], optimizer: str, dtype: str) -> Weights:
    tf, keras = peers.tf(), peers.tf_keras()
    v1 = tf.compat.v1
    xs, targets = batches(dtype)
    initializers = {
        f"{name.removesuffix('_kernel')}_initializer": v1.constant_initializer(weight)
        for name, weight in start(dtype).items()
    }
    rule = {
        "sgd": v1.train.GradientDescentOptimizer(RATE),
        "momentum": v1.train.MomentumOptimizer(RATE, MOMENTUM),
        "adam": v1.train.AdamOptimizer(RATE, BETA_1, BETA_2, EPSILON),
    }[optimizer]
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        x, target = v1.placeholder(dtype, (B, L, C)), v1.placeholder(dtype, (B, L, F))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the layer is deprecated
            y = v1.layers.separable_conv1d(x, **arguments(keras, constraints), **initializers)
        losses = v1.get_collection(v1.GraphKeys.REGULARIZATION_LOSSES)
        update = rule.minimize(tf.reduce_mean((y - target) ** 2) + sum(losses))
        session.run(v1.global_variables_initializer())
        history = []
        for feed in zip(xs, targets, strict=True):
            session.run(update, dict(zip((x, target), feed, strict=True)))
            history.append(session.run(v1.trainable_variables()))
    return {name: np.stack(ws) for name, *ws in zip(settings.WEIGHTS, *history, strict=True)}


def assert_same_history(ours: Weights, theirs: Weights, dtype: str) -> None:
    for name in settings.WEIGHTS:
        assert ours[name].dtype == theirs[name].dtype == np.dtype(dtype)
        assert len(theirs[name]) == STEPS
        settings.assert_close(ours[name], theirs[name], terms=B * L + STEPS, dtype=dtype, what=name)


@pytest.fixture
def double_precision() -> Iterator[None]:
    """Let Keras 2 compute in float64: its NonNeg and its handling of data ask for nothing else."""
    backend = peers.tf_keras().backend
    usual = backend.floatx()
    backend.set_floatx("float64")
    yield
    backend.set_floatx(usual)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(("constraints", "optimizer"), CASES)
def test_tensorflow_trains_alike(constraints: str, optimizer: str) -> None:
    case = CONSTRAINTS[constraints], optimizer, "float64"
    history = ours(*case)
    assert_same_history(history, keras_2(*case), "float64")
    assert_same_history(history, keras_2(*case, legacy=True), "float64")
    assert_same_history(history, tensorflow_1(*case), "float64")


@pytest.mark.parametrize(("constraints", "optimizer"), CASES)
def test_keras_3_trains_alike(constraints: str, optimizer: str) -> None:
    case = CONSTRAINTS[constraints], optimizer, "float32"
    assert_same_history(ours(*case), keras_3(*case), "float32")
