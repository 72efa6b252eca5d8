"""Operations that end with an activation: the sums, then JAX's own function of them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.test_util import check_grads

import flax_sepconv as fsc
from flax_sepconv import ops
from tests import oracle
from tests.cases import LOWERINGS, Case
from tests.conftest import DEVICES

FUNCTIONS = {"relu": jax.nn.relu, "relu6": jax.nn.relu6, "silu": jax.nn.silu}
OPERATIONS = {"depthwise": ops.depthwise_conv1d, "separable": ops.separable_conv1d}
CASE = Case(3, 13, 5, 3, S=2, padding="causal")
every_activation = pytest.mark.parametrize("name", FUNCTIONS)
every_operation = pytest.mark.parametrize("stages", OPERATIONS)
is_native = pytest.mark.skipif("native" not in LOWERINGS, reason="the native library is not there")
PLACES = {
    "whole": {},
    "ragged": {"lengths": jnp.array([13, 0, 5])},
    "circular": {"padding": "circular"},
    "wide": {"padding": (9, 9)},
}


def arrays(stages, dtype="float32", channels=24, length=40, filters=20):
    """Draw x, the kernels and the bias."""
    shapes = [(3, length, channels), (5, channels, 2)]
    if stages == "separable":
        shapes.append((1, 2 * channels, filters))
    shapes.append((filters if stages == "separable" else 2 * channels,))
    x, *rest = (2 * jax.random.normal(jax.random.key(i), s, dtype) for i, s in enumerate(shapes))
    return (x, *rest)


def both(stages, name, **settings):
    """Return the operation with an activation, and the operation and then JAX's function."""
    plain = functools.partial(OPERATIONS[stages], **settings)
    return functools.partial(plain, activation=name), lambda *a: FUNCTIONS[name](plain(*a))


@every_activation
@every_operation
@pytest.mark.parametrize("lowering", [None, *LOWERINGS])
def test_output_against_numpy(name, stages, lowering):
    x, *weights = (np.asarray(a) for a in arrays(stages, channels=5, length=13)[:-1])
    define = oracle.separable if stages == "separable" else oracle.depthwise
    sums = define(x, *weights, **CASE.oracle)
    settings = {"activation": name, "implementation": lowering, **CASE.settings}
    y = OPERATIONS[stages](x, *weights, **settings)
    by_hand = {
        "relu": np.maximum(sums, 0),
        "relu6": np.clip(sums, 0, 6),
        "silu": sums / (1 + np.exp(-sums)),
    }
    np.testing.assert_allclose(y, by_hand[name], rtol=2e-5, atol=2e-5 * np.abs(sums).max())


@every_activation
@every_operation
@pytest.mark.parametrize("place", PLACES)
def test_gradients_are_those_of_two_steps(name, stages, place):
    operands = arrays(stages, channels=5, length=13, filters=20)
    one, two = both(stages, name, **{"padding": "same", **PLACES[place]})
    y, vjp = jax.vjp(jax.jit(one), *operands)
    wanted, of_two = jax.vjp(jax.jit(two), *operands)
    cotangent = jax.random.normal(jax.random.key(1), y.shape)
    for a, c in zip((y, *vjp(cotangent)), (wanted, *of_two(cotangent)), strict=True):
        np.testing.assert_allclose(a, c, rtol=2e-5, atol=2e-6 * np.abs(c).max())


@every_activation
@every_operation
def test_derivatives_of_both_modes_to_second_order(name, stages):
    with jax.enable_x64(True):
        x, k = CASE.arrays()
        weights = (k, np.linspace(-1, 1, 20).reshape(1, 5, 4), np.ones(4))
        weights = weights if stages == "separable" else (k, np.ones(CASE.C))
        f = functools.partial(OPERATIONS[stages], activation=name, **CASE.settings)
        check_grads(f, (x, *weights), order=2, modes=("fwd", "rev"))


def test_it_is_not_linear_in_anything():
    x, k, p, _ = arrays("separable")
    f = functools.partial(ops.separable_conv1d, x, k, activation="relu")
    y = f(p)
    with pytest.raises((NotImplementedError, AssertionError, ValueError)):
        jax.linear_transpose(f, p)(y)


@every_operation
def test_where_it_is_zero_relu_does_not_move(stages):
    """As JAX, TensorFlow and PyTorch have it, where the sums are exactly zero."""
    x, *weights, _ = map(jnp.ones_like, arrays(stages))
    f = functools.partial(OPERATIONS[stages], activation="relu")
    assert not jax.grad(lambda x: f(x, *weights).sum())(0 * x).any()


@every_activation
@every_operation
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits_are_rounded_once(name, stages, dtype):
    operands = arrays(stages, dtype)
    one, two = both(stages, name, preferred_element_type="float32")
    rounded = both(stages, name)[0](*operands)
    found, wide = one(*operands), jax.jit(two)(*operands)
    assert rounded.dtype == dtype
    if stages == "depthwise":
        np.testing.assert_array_equal(
            rounded.astype(np.float32), found.astype(dtype).astype(np.float32)
        )
    else:  # h is rounded in between.
        sums = OPERATIONS[stages](*operands).astype(np.float32)
        error = 2 * float(jnp.finfo(dtype).eps) * np.abs(sums).max()
        np.testing.assert_allclose(rounded.astype(np.float32), found, atol=error)
    np.testing.assert_allclose(found, wide, rtol=1e-5, atol=1e-5 * np.abs(wide).max())


@is_native
@every_operation
def test_silu_in_float32_is_as_exact_as_the_numbers(stages):
    """Over the range of float32, and for what is none of its numbers, as JAX's function."""
    z = np.concatenate([np.linspace(-90, 90, 4072), [0, 1e-30, -1e-30, 3e38, -3e38, 1e-3] * 4])
    f = functools.partial(OPERATIONS[stages], activation="silu")
    rows, lanes = (16, 16) if stages == "depthwise" else (1, 1)
    weights = (jnp.ones((1, rows, 1)),) + ((jnp.ones((1, 1, 1)),) if stages == "separable" else ())
    x = jnp.asarray(z, jnp.float32).reshape(1, -1, lanes)
    y = np.asarray(f(x, *weights)).ravel()
    wide = np.asarray(x, np.float64).ravel()
    with np.errstate(over="ignore"):
        exact = wide / (1 + np.exp(-wide))
    is_normal = np.abs(exact) > 1e-35
    np.testing.assert_allclose(y[is_normal], exact[is_normal], rtol=1e-6)
    assert np.abs(y[~is_normal]).max() < 2e-35
    odd = jnp.array([jnp.nan, jnp.inf, -jnp.inf] * 16).reshape(1, -1, lanes)
    for name, function in FUNCTIONS.items():
        found = OPERATIONS[stages](odd, *weights, activation=name)
        np.testing.assert_array_equal(found, function(odd))


@every_activation
@pytest.mark.parametrize("axes", [(1, None, None), (None, 0, 0)], ids=["rows", "kernels"])
def test_vmap(name, axes):
    x, k, b = arrays("depthwise", channels=6, length=11)
    operands = x, k, b
    if axes[1] == 0:
        operands = x, jnp.moveaxis(k, 2, 0)[..., None], b.reshape(2, 6)
    else:
        operands = jnp.stack([x, 2 * x], 1), k, b
    one, two = (jax.vmap(f, in_axes=axes) for f in both("depthwise", name))
    np.testing.assert_allclose(one(*operands), two(*operands), rtol=2e-5, atol=2e-5)


@every_activation
@pytest.mark.parametrize(
    "axes", [(1, None, None, None), (None, None, 0, 0)], ids=["rows", "weights"]
)
def test_vmap_of_both_stages(name, axes):
    operands = [
        a if axis is None else jnp.stack([a, 2 * a], axis)
        for a, axis in zip(arrays("separable", channels=6, length=11), axes, strict=True)
    ]
    one, two = (jax.vmap(f, in_axes=axes) for f in both("separable", name))
    wanted = two(*operands)
    np.testing.assert_allclose(one(*operands), wanted, atol=2e-6 * np.abs(wanted).max())


@is_native
@every_activation
# A panel, less and more than one; few rows, many rows, and weights too many to pack; the parts of
# deep sums.
@pytest.mark.parametrize(
    ("B", "L", "C", "F"),
    [(2, 40, 24, 33), (1, 5, 24, 32), (3, 40, 24, 3), (1, 30, 700, 300), (2, 60, 1100, 40)],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_way_that_sums_are_made(name, B, L, C, F, dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (B, L, C), dtype)
    k = jax.random.normal(keys[1], (3, C, 1), dtype)
    p, b = jax.random.normal(keys[2], (1, C, F), dtype), jnp.linspace(-9, 9, F, dtype=dtype)
    one, two = both("separable", name, padding="same")
    found, wanted = (np.asarray(jax.jit(f)(x, k, p, b), np.float32) for f in (one, two))
    size = np.abs(wanted).max()
    error = 2e-6 if dtype == "float32" else 2.0**-7
    np.testing.assert_allclose(found, wanted, rtol=2 * error, atol=error * size)


@every_activation
@pytest.mark.parametrize("T", [1, 12])
def test_chunks(name, T):
    x, *weights = arrays("separable", length=24)
    kernels = weights[0].shape
    state, outputs = ops.initial_state(x.shape, kernels), []
    f = functools.partial(
        ops.separable_conv1d, padding="causal", activation=name, return_state=True
    )
    step = jax.jit(lambda chunk, state: f(chunk, *weights, initial_state=state))
    for t in range(0, 24, T):
        y, state = step(x[:, t : t + T], state)
        outputs.append(y)
    wanted = FUNCTIONS[name](ops.separable_conv1d(x, *weights, padding="causal"))
    np.testing.assert_allclose(
        np.concatenate(outputs, 1), wanted, rtol=2e-5, atol=1e-5 * np.abs(wanted).max()
    )


@pytest.mark.skipif(DEVICES != 4, reason="for a mesh of four devices")
@every_activation
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("spec", [("a",), (None, None, "a"), (None, "a")], ids=str)
def test_on_meshes(name, kind, spec):
    """What is summed over devices is activated behind that sum."""
    x, *weights = arrays("separable", channels=8, length=16)
    f = functools.partial(ops.separable_conv1d, padding="same", activation=name)
    wanted = FUNCTIONS[name](ops.separable_conv1d(x, *weights, padding="same"))
    x = jnp.concatenate([x, x[:1]])  # one for each device
    with jax.set_mesh(jax.make_mesh((4,), ("a",), axis_types=(kind,))) as mesh:
        del mesh
        found = jax.jit(f)(jax.device_put(x, jax.P(*spec)), *weights)
    np.testing.assert_allclose(
        np.asarray(found)[:3], wanted, rtol=2e-5, atol=1e-5 * np.abs(wanted).max()
    )


@is_native
@pytest.mark.parametrize("activation", ["relu", "relu6", "swish", nn.relu, nn.silu])
@pytest.mark.parametrize(("dtype", "use_bias"), [("float32", True), ("bfloat16", False)])
@pytest.mark.parametrize(
    "layer", [fsc.DepthwiseConv1D, functools.partial(fsc.SeparableConv1D, 7)], ids=["dw", "sep"]
)
def test_a_layer_is_one_call(activation, dtype, use_bias, layer):
    """On CPU nothing but the call of the kernel is left of a layer with one of these."""
    x = arrays("depthwise", dtype)[0]
    layer = layer(
        kernel_size=3, activation=activation, use_bias=use_bias, dtype=dtype, param_dtype=dtype
    )
    variables = layer.init(jax.random.key(0), x)
    program = jax.jit(layer.apply).lower(variables, x)
    text = program.as_text()
    assert text.count("stablehlo.custom_call") == 1
    words = ("maximum", "logistic", "minimum", "clamp", "exponential")
    assert not any(word in text for word in words)


@every_operation
def test_what_it_may_be(stages):
    with pytest.raises(ValueError, match=r"activation must be .*'relu', 'relu6', 'silu'.*'tanh'"):
        OPERATIONS[stages](*arrays(stages), activation="tanh")
