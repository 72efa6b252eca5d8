"""Lengths and segments as limits of the primitives: what programs are made of them."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from flax_sepconv import ops
from flax_sepconv.ops import native
from tests import oracle
from tests.conftest import DEVICES

with_native = pytest.mark.skipif(native.ABSENCE is not None, reason=str(native.ABSENCE))
RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 40, 6)).astype(np.float32)
K = RNG.standard_normal((5, 6, 2)).astype(np.float32)
W = RNG.standard_normal((1, 12, 7)).astype(np.float32)
B = RNG.standard_normal(7).astype(np.float32)
N = np.array([40, 0, 7, 23], np.int32)
IDS = np.sort(RNG.integers(0, 4, (4, 40))).astype(np.int32)
LIMITS = {"lengths": N, "segment_ids": IDS}
every_limit = pytest.mark.parametrize("limit", LIMITS)


def layer(limit, x, k, w, b, limits, **settings):
    return ops.separable_conv1d(x, k, w, b, padding="same", **{limit: limits}, **settings)


def calls(function, *operands, copies=True):
    """Name the native calls of a compiled program, which may have copies in it or not."""
    text = jax.jit(function).lower(*operands).compile().as_text()
    assert copies or " copy(" not in text[text.index("ENTRY") :]
    return sorted(re.findall(r'custom_call_target="flax_sepconv_(\w+)"', text))


def gradients(function, *operands):
    def step(*operands):
        y, pullback = jax.vjp(lambda *weights: function(*weights, *operands[4:]), *operands[:4])
        return y, pullback(jnp.ones_like(y))

    return calls(step, *operands, copies=False)


@with_native
@every_limit
def test_both_stages_and_their_gradients_are_native(limit):
    f = functools.partial(layer, limit)
    operands = (X, K, W, B, LIMITS[limit])
    assert calls(f, *operands, copies=False) == ["separable_output"]
    # The gradient of x takes other pieces of segments than that of the weights.
    by_pieces = ["input_gradient", "kernel_gradient", "separable_gradients", "separable_output"]
    whole = ["separable_gradients", "separable_output"]
    assert gradients(f, *operands) == (whole if limit == "lengths" else by_pieces)


@with_native
@every_limit
def test_bfloat16_is_native(limit):
    operands = [jnp.asarray(a, jnp.bfloat16) for a in (X, K)]
    f = functools.partial(ops.depthwise_conv1d, padding="same", **{limit: LIMITS[limit]})
    assert calls(f, *operands) == ["output"]
    step = jax.grad(lambda x, k: f(x, k).sum(), (0, 1))
    assert calls(step, *operands) == ["input_gradient", "kernel_gradient"]


@with_native
@every_limit
@pytest.mark.parametrize("mapped", ["x", "limits", "both"])
def test_a_mapped_call_is_one_native_call(limit, mapped):
    f, limits = functools.partial(layer, limit), LIMITS[limit]
    x = np.stack([X, 2 * X, 3 * X]) if mapped != "limits" else X
    n = np.stack([limits, limits[::-1], limits]) if mapped != "x" else limits
    axes = (None if x.ndim == 3 else 0, None, None, None, None if n is limits else 0)
    together = jax.vmap(f, in_axes=axes)
    assert calls(together, x, K, W, B, n) == ["separable_output"]
    y = together(x, K, W, B, n)
    for i in range(3):
        own = x[i] if x.ndim == 4 else x, K, W, B, n if n is limits else n[i]
        np.testing.assert_allclose(y[i], f(*own), rtol=1e-6, atol=1e-5)


@every_limit
@pytest.mark.parametrize("implementation", [None, "native", "shifted_sum"])
def test_gradients_of_each_example(limit, implementation):
    """Kernels and limits are mapped at once; a lowering that is named is not replaced."""
    if implementation == "native" and native.ABSENCE is not None:
        pytest.skip(native.ABSENCE)

    def loss(k, x, n):
        settings = {"padding": "same", "implementation": implementation, limit: n[None]}
        return (ops.depthwise_conv1d(x[None], k, **settings) ** 2).sum()

    each = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0, 0)))
    limits = LIMITS[limit]
    expected = [jax.grad(loss)(K, x, n) for x, n in zip(X, limits, strict=True)]
    np.testing.assert_allclose(each(K, X, limits), expected, rtol=1e-4, atol=1e-4)
    if implementation == "native":
        assert "kernel_gradient" in calls(each, K, X, limits)


@pytest.mark.skipif(DEVICES != 4, reason="for a mesh of four devices")
@with_native
@every_limit
def test_several_devices_share_the_batch(limit):
    def loss(x, k, n):
        h = ops.depthwise_conv1d(x, k, padding="same", **{limit: n})
        return (h**2).sum(), h

    step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    mesh = jax.make_mesh((4,), ("b",), axis_types=(AxisType.Auto,))
    own = jax.NamedSharding(mesh, P("b"))
    x, n = jax.device_put(X, own), jax.device_put(LIMITS[limit], own)
    compiled = step.lower(x, K, n).compile()
    text = compiled.as_text()
    for call in ("output", "input_gradient", "kernel_gradient"):
        assert f'custom_call_target="flax_sepconv_{call}"' in text
    assert "all-gather" not in text
    one = step(X, K, LIMITS[limit])
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3), compiled(x, K, n), one
    )


@with_native
def test_symbolic_lengths_under_the_native_lowering():
    """What is not known of the padding is masked and padded around the call."""
    f = functools.partial(ops.depthwise_conv1d, padding="same", strides=3, implementation="native")
    rows, steps = jax.export.symbolic_shape("b, t", constraints=["t >= 8"])
    types = (
        jax.ShapeDtypeStruct((rows, steps, 6), jnp.float32),
        jax.ShapeDtypeStruct(K.shape, jnp.float32),
        jax.ShapeDtypeStruct((rows,), jnp.int32),
    )
    target = jax.export.DisabledSafetyCheck.custom_call("flax_sepconv_output")
    program = jax.export.export(
        jax.jit(lambda x, k, n: f(x, k, lengths=n)), platforms=["cpu"], disabled_checks=[target]
    )(*types)
    np.testing.assert_allclose(program.call(X, K, N), f(X, K, lengths=N), rtol=1e-5, atol=1e-5)


def test_ids_may_differ_in_their_upper_half_alone():
    with jax.enable_x64(True):
        ids = np.repeat([[1, 1 + 2**32, 1]], 4, axis=1).astype(np.int64)
        h = ops.depthwise_conv1d(X[:1, :12], K, padding="same", segment_ids=ids)
    for first in (0, 4, 8):
        alone = oracle.depthwise(X[:1, first : first + 4], K, padding="same")
        np.testing.assert_allclose(h[:, first : first + 4], alone, rtol=1e-4, atol=1e-5)


def test_nothing_is_made_for_a_state_that_nobody_asks_for():
    jaxpr = jax.make_jaxpr(functools.partial(ops.depthwise_conv1d, padding="causal"))(X, K)
    names = {equation.primitive.name for equation in jaxpr.eqns}
    assert names <= {"depthwise_conv1d", "reshape", "convert_element_type"}
