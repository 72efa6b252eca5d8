"""Gradients lower for every platform wherever JAX lets arrays live: all kinds of meshes.

No device of a platform is needed to lower for it, and on CPU the default leaves most of the forms
that accelerators take.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flax_sepconv import ops
from tests.conftest import DEVICES

pytestmark = pytest.mark.skipif(DEVICES != 4, reason="for a mesh of four devices")

PLATFORMS = ("cpu", "cuda", "tpu")
B, L, C, F = 8, 24, 8, 4
KINDS = {
    "explicit": (AxisType.Explicit, AxisType.Explicit),
    "half explicit": (AxisType.Explicit, AxisType.Auto),
    "auto": (AxisType.Auto, AxisType.Auto),
}
BATCH, CHANNELS, BOTH, STEPS = P("d"), P(None, None, "d"), P("d", None, "m"), P(None, "d")
# K, M, S, dtype and the sharding of x: each value of one meets those of the others that select a
# form.
LAYERS = [
    (1, 1, 2, "float32", BATCH),
    (5, 1, 1, "float32", BATCH),
    (5, 2, 1, "bfloat16", CHANNELS),
    (9, 1, 1, "bfloat16", BATCH),
    (9, 2, 2, "float32", CHANNELS),
    (5, 1, 1, "float32", BOTH),
]


def whole(x, n, ids, weights, settings):
    return ops.separable_conv1d(x, *weights, padding="same", **settings)


def ragged(x, n, ids, weights, settings):
    return ops.separable_conv1d(x, *weights, padding="same", lengths=n, **settings)


def segmented(x, n, ids, weights, settings):
    settings = settings | {"strides": 1}
    return ops.separable_conv1d(x, *weights, padding="causal", segment_ids=ids, **settings)


def depthwise_alone(x, n, ids, weights, settings):
    return ops.depthwise_conv1d(x, weights[0], padding="valid", **settings)


def streamed(x, n, ids, weights, settings):
    """Two chunks, of which the second gives each stream its own number of steps."""
    step = functools.partial(ops.separable_conv1d_step, **settings)
    first, state = step(x[:, :16], None, *weights)
    second, state = step(x[:, 16:], state, *weights, lengths=jnp.minimum(n, 8))
    return first, second, state.history


CALLS = {call.__name__: call for call in (whole, ragged, segmented, depthwise_alone, streamed)}


def operands(K, M, dtype, mesh, spec):
    """Return x, lengths and segment ids, divided, and weights that every device has.

    But the depthwise kernel is divided over channels where they alone are.
    """
    rng = np.random.default_rng(0)
    x, *weights = (
        rng.standard_normal(shape) for shape in ((B, L, C), (K, C, M), (1, C * M, F), (F,))
    )
    ids = np.sort(rng.integers(0, 4, (B, L))).astype(np.int32)
    kernel = P(None, "d") if spec == CHANNELS else P()
    arrays = [x, rng.integers(0, L + 1, B).astype(np.int32), ids, *weights]
    specs = [spec, P(spec[0]), P(spec[0]), kernel, P(), P()]
    x, n, ids, *weights = (
        jax.device_put(
            array if array.dtype == np.int32 else jnp.asarray(array, dtype),
            NamedSharding(mesh, each),
        )
        for array, each in zip(arrays, specs, strict=True)
    )
    return x, n, ids, weights


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("is_set", [True, False], ids=["set mesh", "mesh of arrays"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_lower_for_every_platform(kind, is_set, call):
    mesh = jax.make_mesh((2, 2), ("d", "m"), axis_types=KINDS[kind])
    # The others are made of the same contractions; types tell nothing of axes that are automatic.
    layers = LAYERS if (kind, call) == ("explicit", "whole") else LAYERS[-2:]
    for K, M, S, dtype, spec in layers:
        with jax.set_mesh(mesh) if is_set else contextlib.nullcontext():
            arrays = operands(K, M, dtype, mesh, spec)

            def loss(x, weights, n, ids, S=S):
                out = CALLS[call](x, n, ids, weights, {"strides": S})
                return sum((y.astype("float32") ** 2).sum() for y in jax.tree.leaves(out))

            x, n, ids, weights = arrays
            traced = jax.jit(jax.grad(loss, (0, 1), allow_int=True)).trace(x, weights, n, ids)
            for platform in PLATFORMS:
                assert traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    ("name", "kind", "spec"),
    [
        ("grouped_conv", "explicit", BATCH),
        ("grouped_conv", "explicit", BOTH),
        ("grouped_conv", "half explicit", BATCH),
        ("grouped_conv", "auto", BATCH),
        ("grouped_conv", "auto", STEPS),
        ("shifted_sum", "explicit", BATCH),
        ("shifted_sum", "auto", STEPS),
        ("fft", "explicit", BATCH),
        ("fft", "auto", STEPS),
        (None, "explicit", BOTH),
    ],
)
@pytest.mark.parametrize(("M", "S", "is_set"), [(1, 1, True), (2, 3, False)])
def test_all_forms_give_what_one_device_gives(M, S, is_set, name, kind, spec):
    """On CPU, where the forms of accelerators are taken by name.

    With BATCH and STEPS the second axis of the mesh divides nothing, and two devices hold the same:
    XLA sums what a convolution contracts over both.
    """
    mesh = jax.make_mesh((2, 2), ("d", "m"), axis_types=KINDS[kind])

    def loss(x, weights, n):
        y = ops.separable_conv1d(
            x, *weights, padding="same", strides=S, lengths=n, implementation=name
        )
        return (y**2).sum()

    gradients = jax.jit(jax.grad(loss, (0, 1)))
    with jax.set_mesh(mesh) if is_set else contextlib.nullcontext():
        x, n, _, weights = operands(4, M, "float32", mesh, spec)
        got = gradients(x, weights, n)
    assert jax.typeof(got[0]).sharding.spec == jax.typeof(x).sharding.spec
    expected = gradients(*jax.tree.map(np.asarray, (x, weights, n)))
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["grouped_conv", "shifted_sum", "fft", None])
@pytest.mark.parametrize("spec", [BATCH, STEPS])
def test_a_mesh_that_nobody_but_jit_knows(name, spec):
    """While JAX traces, nothing tells of it; two devices hold the same."""
    mesh = jax.make_mesh((2, 2), ("d", "m"), axis_types=KINDS["auto"])
    rng = np.random.default_rng(0)
    x, kernel = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 16, 8), (3, 8, 1)))

    def loss(x, kernel):
        return jnp.sin(ops.depthwise_conv1d(x, kernel, padding="same", implementation=name)).sum()

    gradients = jax.grad(loss, (0, 1))
    places = NamedSharding(mesh, spec), NamedSharding(mesh, P())
    got, expected = jax.jit(gradients, in_shardings=places)(x, kernel), gradients(x, kernel)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), got, expected)


@pytest.mark.parametrize("name", ["grouped_conv", "shifted_sum", "fft", None])
def test_gradients_in_steps_over_parts_of_a_divided_batch(name):
    """The parts are divided over a part of the mesh's only axis; the other part repeats them."""
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(0)
    x, kernel = (rng.standard_normal(shape).astype(np.float32) for shape in ((8, 12, 3), (5, 3, 1)))

    def loss(kernel, x):
        h = ops.depthwise_conv1d(x, kernel, padding="same", implementation=name)
        return (h**2).sum()

    @jax.jit
    def accumulated(kernel, x):
        def add(total, part):
            return total + jax.grad(loss)(kernel, part), None

        return jax.lax.scan(add, jnp.zeros_like(kernel), x.reshape(4, 2, 12, 3))[0]

    operands = jax.device_put((kernel, x), (NamedSharding(mesh, P()), NamedSharding(mesh, P("d"))))
    np.testing.assert_allclose(
        accumulated(*operands), jax.grad(loss)(kernel, x), rtol=1e-4, atol=1e-4
    )
