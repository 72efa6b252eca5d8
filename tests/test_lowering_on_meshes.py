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
BATCH, CHANNELS, BOTH = P("d"), P(None, None, "d"), P("d", None, "m")
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
    """Return x, lengths and segment ids, divided, and weights that every device has."""
    rng = np.random.default_rng(0)
    x, *weights = (
        rng.standard_normal(shape) for shape in ((B, L, C), (K, C, M), (1, C * M, F), (F,))
    )
    put = functools.partial(jax.device_put)
    rows = NamedSharding(mesh, P(spec[0]))
    ids = np.sort(rng.integers(0, 4, (B, L))).astype(np.int32)
    return (
        put(jnp.asarray(x, dtype), NamedSharding(mesh, spec)),
        put(rng.integers(0, L + 1, B).astype(np.int32), rows),
        put(ids, rows),
        [put(jnp.asarray(w, dtype), NamedSharding(mesh, P())) for w in weights],
    )


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("is_set", [True, False], ids=["set mesh", "mesh of arrays"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_lower_for_every_platform(kind, is_set, call):
    mesh = jax.make_mesh((2, 2), ("d", "m"), axis_types=KINDS[kind])
    # Types tell nothing of axes that are not explicit.
    for K, M, S, dtype, spec in LAYERS if kind == "explicit" else LAYERS[-2:]:
        with jax.set_mesh(mesh) if is_set else contextlib.nullcontext():
            arrays = operands(K, M, dtype, mesh, spec)

            def loss(x, weights, n, ids, S=S):
                out = CALLS[call](x, n, ids, weights, {"strides": S})
                return sum((y.astype("float32") ** 2).sum() for y in jax.tree.leaves(out))

            x, n, ids, weights = arrays
            traced = jax.jit(jax.grad(loss, (0, 1), allow_int=True)).trace(x, weights, n, ids)
            for platform in PLATFORMS:
                assert traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("spec", [BATCH, BOTH], ids=str)
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("grouped_conv", "explicit"),
        ("grouped_conv", "auto"),
        ("shifted_sum", "explicit"),
        (None, "explicit"),
    ],
)
@pytest.mark.parametrize(("M", "S", "is_set"), [(1, 1, True), (2, 3, False)])
def test_all_forms_give_what_one_device_gives(M, S, is_set, name, kind, spec):
    """On CPU, where the forms of accelerators are taken by name.

    With BATCH the second axis of the mesh divides nothing, and two devices hold the same examples:
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
