import functools
import inspect
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sepconv import activations
from flax_sepconv.activations import Configured
from tests import peers

OF_KERAS_2_ALONE = "hard_sigmoid_keras2"
ALL = sorted(activations._KNOWN)
NAMES = [name for name in ALL if name != OF_KERAS_2_ALONE]
ARGUMENTS = {"threshold": {"threshold": 0.3, "default_value": -1.5}}
CONFIGURED = [
    ("leaky_relu", {"negative_slope": 0.1}),
    ("relu", {"max_value": 3.0}),
    ("relu", {"max_value": 6}),
    ("relu", {"threshold": 1.0}),
    ("relu", {"negative_slope": 0.3, "max_value": 2.0, "threshold": 0.5}),
    ("relu", {"negative_slope": 0.3, "max_value": 2.0}),
    ("elu", {"alpha": 0.5}),
    ("celu", {"alpha": 2.0}),
    ("gelu", {"approximate": True}),
    ("glu", {"axis": 1}),
    ("softmax", {"axis": 1}),
    ("softmax", {"axis": [1, 2]}),
    ("log_softmax", {"axis": -2}),
    ("soft_shrink", {"threshold": 1.0}),
    ("hard_shrink", {"threshold": 1.0}),
    ("squareplus", {"b": 2.0}),
    ("threshold", ARGUMENTS["threshold"]),
]
# Keras 2 knows fewer names, and by one of them another function.
KERAS_2_NAMES = [
    *("elu", "exponential", "gelu", "linear", "mish", "relu", "selu", "sigmoid", "softmax"),
    *("softplus", "softsign", "swish", "tanh", "leaky_relu", "log_softmax", "relu6", "silu"),
    OF_KERAS_2_ALONE,
]


def draw(shape=(4, 6, 8), scale=4.0):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape) * scale, jnp.float32)


def value_and_vjp(function, x):
    y, vjp = jax.vjp(function, x)
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), y.dtype)
    return y, vjp(cotangent)[0]


def assert_same(ours, theirs, x):
    for a, b in zip(value_and_vjp(ours, x), value_and_vjp(theirs, x), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_every_name_of_keras_is_known():
    module = peers.keras().activations
    public = {name for name in dir(module) if inspect.isfunction(getattr(module, name))}
    assert public - {"get", "serialize", "deserialize"} == set(NAMES)
    for name in NAMES:
        ours, theirs = activations.get(name), module.get(name)
        assert activations.serialize(ours) == module.serialize(theirs)
        assert activations.serialize(ours) in ("silu", "hard_silu", name)
        ours, theirs = inspect.signature(ours).parameters, inspect.signature(theirs).parameters
        assert [(p.name, p.default) for p in ours.values()] == [
            (p.name, p.default) for p in theirs.values()
        ]


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"sparsemax"}))
def test_values_and_gradients_equal_keras(name):
    arguments = ARGUMENTS.get(name, {})
    theirs = functools.partial(peers.keras().activations.get(name), **arguments)
    assert_same(functools.partial(activations.get(name), **arguments), theirs, draw())


@pytest.mark.parametrize(("name", "arguments"), CONFIGURED)
def test_arguments_mean_what_they_mean_in_keras(name, arguments):
    ours = activations.get({"class_name": name, "config": arguments})
    as_tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    theirs = functools.partial(peers.keras().activations.get(name), **as_tuples)
    assert_same(ours, theirs, draw())
    assert ours == activations.get(json.loads(json.dumps(activations.serialize(ours))))
    assert ours == Configured(name, arguments)
    assert hash(ours) == hash(Configured(name, tuple(reversed(arguments.items()))))


@pytest.mark.parametrize("name", KERAS_2_NAMES)
def test_values_equal_keras_2(name):
    tf = peers.tf()
    x = draw((6, 8))
    theirs = peers.tf_keras().activations.get(name.removesuffix("_keras2"))
    variable = tf.Variable(np.asarray(x))
    with tf.GradientTape() as tape:
        y = theirs(variable)
    np.testing.assert_allclose(activations.get(name)(x), y.numpy(), rtol=2e-6, atol=1e-6)
    ones = jnp.ones(y.shape, jnp.float32)
    ours = jax.vjp(activations.get(name), x)[1](ones)[0]
    np.testing.assert_allclose(ours, tape.gradient(y, variable).numpy(), rtol=5e-6, atol=2e-6)


@pytest.mark.parametrize("name", ALL)
def test_large_arguments_stay_finite(name):
    sizes = np.array([1e2, 1e4, 1e8, 1e18], np.float32)[:, None]
    x = jnp.asarray(sizes * np.array([1, -1, 0.5, -0.5], np.float32))
    if name == "exponential":
        x = -jnp.abs(x)  # exp overflows by nature
    y, gradient = value_and_vjp(
        functools.partial(activations.get(name), **ARGUMENTS.get(name, {})), x
    )
    assert np.isfinite(y).all()
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_is_within_an_ulp_of_float32(name, dtype):
    function = functools.partial(activations.get(name), **ARGUMENTS.get(name, {}))
    x = draw().astype(dtype)
    y = jax.jit(function)(x)
    assert y.dtype == x.dtype
    exact = np.asarray(function(x.astype(jnp.float32)))
    ulp = float(jnp.finfo(dtype).eps)
    tiny = float(jnp.finfo(dtype).smallest_subnormal)
    np.testing.assert_allclose(np.asarray(y).astype(np.float32), exact, rtol=ulp, atol=tiny)


def simplex_projection(x):
    """Project by bisection, in float64: t such that sum(max(x - t, 0)) = 1."""
    x = np.asarray(x, np.float64)
    low, high = x.max(-1, keepdims=True) - 1, x.max(-1, keepdims=True)
    for _ in range(100):
        t = (low + high) / 2
        above = np.maximum(x - t, 0).sum(-1, keepdims=True) > 1
        low, high = np.where(above, t, low), np.where(above, high, t)
    return np.maximum(x - t, 0)


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_sparsemax_projects_onto_the_simplex(scale):
    x = draw(scale=scale)
    expected = simplex_projection(x)
    y, gradient = value_and_vjp(activations.sparsemax, x)
    np.testing.assert_allclose(y, expected, atol=1e-6)
    cotangent = np.random.default_rng(1).normal(size=y.shape)
    support = expected > 0
    mean = (cotangent * support).sum(-1, keepdims=True) / support.sum(-1, keepdims=True)
    np.testing.assert_allclose(gradient, support * (cotangent - mean), atol=1e-6)
    moved = activations.sparsemax(jnp.moveaxis(x, -1, 1), axis=1)
    np.testing.assert_allclose(jnp.moveaxis(moved, 1, -1), expected, atol=1e-6)


def test_sparsemax_equals_keras_where_keras_is_right():
    x = draw(scale=20.0)
    theirs = np.asarray(peers.keras().activations.sparsemax(x))
    right = np.abs(theirs.sum(-1) - 1) < 1e-6  # Keras <= 3.15 errs where two or more stay
    assert right.sum() > 5
    np.testing.assert_allclose(activations.sparsemax(x)[right], theirs[right], atol=1e-5)


def test_gelu_is_exact_by_default():
    erf = np.vectorize(math.erf)
    x = np.linspace(-4, 4, 41)
    exact = 0.5 * x * (1 + erf(x / np.sqrt(2)))
    np.testing.assert_allclose(activations.get("gelu")(jnp.float32(x)), exact, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_dicts_that_keras_writes_for_functions(name):
    keras = peers.keras()
    theirs = keras.saving.serialize_keras_object(keras.activations.get(name))
    assert theirs["class_name"] == "function"
    assert activations.get(theirs) is activations.get(name)
    assert activations.get({"class_name": name, "config": {}}) is activations.get(name)
    assert keras.activations.get(activations.serialize(activations.get(name))) is (
        keras.activations.get(name)
    )


@pytest.mark.parametrize(
    ("layer", "arguments"),
    [
        ("ReLU", {}),
        ("ReLU", {"max_value": 2.0, "negative_slope": 0.25, "threshold": 0.5}),
        ("LeakyReLU", {}),
        ("ELU", {"alpha": 0.5}),
        ("Softmax", {"axis": 1}),
        ("Activation", {"activation": "gelu"}),
    ],
)
@pytest.mark.parametrize("peer", ["keras", "tf_keras"])
def test_dicts_that_keras_writes_for_layers(peer, layer, arguments):
    package = getattr(peers, peer)()
    theirs = getattr(package.layers, layer)(**arguments)
    ours = activations.get(package.activations.serialize(theirs))
    x = draw()
    tensor = peers.tf().constant(np.asarray(x)) if peer == "tf_keras" else x
    np.testing.assert_allclose(ours(x), np.asarray(theirs(tensor)), rtol=1e-6, atol=1e-6)


def test_layers_without_a_config_have_the_layers_defaults():
    x = draw()
    theirs = peers.keras().layers.LeakyReLU()(x)
    ours = activations.get({"class_name": "LeakyReLU", "config": {}})(x)
    np.testing.assert_array_equal(ours, theirs)


def test_get_passes_callables():
    mine = functools.partial(jax.nn.elu, alpha=0.5)
    assert activations.get(mine) is mine
    assert activations.get(None) is activations.linear
    assert activations.get("swish") is activations.silu
    assert activations.get("hard_swish") is activations.hard_silu
    assert activations.serialize(None) == "linear"
    for foreign in (mine, jax.nn.relu, "relu"):
        with pytest.raises(TypeError, match=r"cannot be serialized: only celu, elu"):
            activations.serialize(foreign)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: activations.get("rellu"), ValueError, r"'rellu'; did you mean 'relu'\? Known: ce"),
        (lambda: activations.get("GELU"), ValueError, r"unknown activation 'GELU'; did .*'gelu'"),
        (lambda: activations.get(3), TypeError, r"activation must be None, a name, .*got 3"),
        (lambda: activations.get({"config": {}}), ValueError, r"must have a 'class_name'"),
        (
            lambda: activations.get({"class_name": "PReLU", "config": {}}),
            ValueError,
            r"unknown activation 'PReLU'",
        ),
        (
            lambda: activations.get({"class_name": "elu", "config": 0.5}),
            TypeError,
            r"config of activation elu must be a dict, got 0\.5",
        ),
        (
            lambda: activations.get({"class_name": "elu", "config": {"slope": 1, "s": 2}}),
            ValueError,
            r"activation elu has no argument 's', 'slope'; its arguments are: alpha",
        ),
        (
            lambda: activations.get(
                {"class_name": "function", "module": "mine", "config": "f", "registered_name": "f"}
            ),
            ValueError,
            r"of module 'mine' is a custom object",
        ),
        (lambda: Configured("tanh", {"x": 1}), ValueError, r"its arguments are: none"),
        (lambda: Configured("threshold", {}), ValueError, r"needs the argument threshold, defa"),
        (lambda: Configured("elu", {"alpha": "1"}), TypeError, r"alpha of elu must be a number"),
        (lambda: Configured("elu", {"alpha": np.nan}), ValueError, r"alpha of elu .*got nan"),
        (lambda: Configured("softmax", {"axis": 1.0}), TypeError, r"axis of softmax must be an i"),
        (lambda: activations.glu(np.ones((2, 3))), ValueError, r"even size along axis -1.*\(2, 3"),
    ],
)
def test_wrong_calls(make, error, message):
    with pytest.raises(error, match=message):
        make()
