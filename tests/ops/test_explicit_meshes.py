"""Sequences divided among devices by their types: lengths, segments and streams."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from flax_sepconv import ops
from tests.conftest import DEVICES
from tests.streams import operands

pytestmark = pytest.mark.skipif(DEVICES != 4, reason="for a mesh of four devices")

X, *WEIGHTS = operands(3, 2, B=4, L=16)
N = np.array([3, 0, 16, 9], np.int32)
IDS = np.sort(np.random.default_rng(0).integers(0, 4, (4, 16))).astype(np.int32)


WITH_BIAS = [WEIGHTS[0], np.arange(8, dtype=np.float32)]


def with_lengths(x, n, ids, operation, weights, **settings):
    return operation(x, *weights, lengths=n, **settings)


def with_segments(x, n, ids, padding):
    return ops.separable_conv1d(x, *WEIGHTS, padding=padding, segment_ids=ids)


def in_chunks(x, n, ids, strides, known=False, ragged=False, **settings):
    """Take two chunks; the streams begin with None or with a state of zeros that is not divided."""
    settings |= {"strides": strides}
    step = functools.partial(ops.separable_conv1d_step, **settings)
    state = ops.initial_state(x.shape, WEIGHTS[0].shape, **settings) if known else None
    rest = {"lengths": jnp.minimum(n, 7), "reset": n == 3} if ragged else {}
    first, state = step(x[..., :9, :], state, *WEIGHTS)
    second, state = step(x[..., 9:, :], state, *WEIGHTS, **rest)
    return first, second, state


def channels_first(x, n, ids):
    x = x.swapaxes(1, 2)
    settings = {"strides": 2, "data_format": "channels_first"}
    return ops.separable_conv1d_step(x, None, *WEIGHTS, lengths=n, **settings)


CALLS = {
    "both stages": (with_lengths, {"operation": ops.separable_conv1d, "weights": WEIGHTS}),
    "one stage": (with_lengths, {"operation": ops.depthwise_conv1d, "weights": WEIGHTS[:1]}),
}
CALLS = {
    f"{name}, {padding}, strides {S}": functools.partial(f, padding=padding, strides=S, **settings)
    for name, (f, settings) in CALLS.items()
    for padding in ("valid", "same", "causal")
    for S in (1, 2)
} | {
    "one stage with a bias": functools.partial(
        with_lengths, operation=ops.depthwise_conv1d, weights=WITH_BIAS, padding="same", strides=2
    ),
    "segments, same": functools.partial(with_segments, padding="same"),
    "segments, causal": functools.partial(with_segments, padding="causal"),
    "chunks": functools.partial(in_chunks, strides=1),
    "chunks, strides 3": functools.partial(in_chunks, strides=3),
    "chunks, known state": functools.partial(in_chunks, strides=1, known=True),
    "chunks, known state, strides 3": functools.partial(in_chunks, strides=3, known=True),
    "chunks, ragged": functools.partial(in_chunks, strides=1, ragged=True),
    "chunks, ragged, strides 3": functools.partial(in_chunks, strides=3, ragged=True),
    "channels first": channels_first,
}


EAGERLY = ("both stages, same, strides 2", "segments, same", "chunks, ragged, strides 3")


@pytest.mark.parametrize(
    ("name", "transform"), [(n, jax.jit) for n in CALLS] + [(n, lambda call: call) for n in EAGERLY]
)
def test_a_divided_batch_gives_what_one_device_gives(name, transform):
    expected = jax.jit(CALLS[name])(X, N, IDS)
    mesh = jax.make_mesh((4,), ("d",))
    with jax.set_mesh(mesh):
        divided = transform(CALLS[name])(*(jax.device_put(each, P("d")) for each in (X, N, IDS)))
    for ours, theirs in zip(jax.tree.leaves(divided), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
        batch = jax.NamedSharding(mesh, P("d"))
        assert ours.sharding.is_equivalent_to(batch, ours.ndim)


@pytest.mark.parametrize("spec", [P("d"), P(None, None, "d")])
@pytest.mark.parametrize("S", [1, 3])
def test_lengths_and_states_need_not_be_divided(S, spec):
    call = functools.partial(in_chunks, strides=S, known=True, ragged=True)
    expected = jax.jit(call)(X, N, IDS)
    with jax.set_mesh(jax.make_mesh((4,), ("d",))):
        divided = jax.jit(call)(jax.device_put(X, spec), N, IDS)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), divided, expected
    )


def test_gradients_go_through_a_divided_state():
    def loss(x):
        first, second, state = in_chunks(x, N, IDS, strides=1)
        return (first**2).sum() + (second**2).sum() + (state.history**2).sum()

    expected = jax.grad(loss)(X)
    with jax.set_mesh(jax.make_mesh((4,), ("d",))):
        gradient = jax.jit(jax.grad(loss))(jax.device_put(X, P("d")))
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("on_mesh", [False, True], ids=["weights anywhere", "weights on the mesh"])
@pytest.mark.parametrize("strides", [1, 2, 5])
@pytest.mark.parametrize("lengths", [None, N], ids=["whole", "ragged"])
@pytest.mark.parametrize(
    ("operation", "operands"),
    [(ops.separable_conv1d, WEIGHTS), (ops.depthwise_conv1d, WITH_BIAS)],
    ids=["both stages", "one stage"],
)
def test_all_gradients(on_mesh, strides, lengths, operation, operands):
    def loss(x, weights, n):
        y = operation(x, *weights, strides=strides, padding="same", lengths=n)
        return (y**2).sum()

    gradients = jax.grad(loss, (0, 1))
    expected = jax.jit(gradients)(X, operands, lengths)
    with jax.set_mesh(jax.make_mesh((4,), ("d",))):
        x, n = jax.device_put((X, lengths), P("d"))
        weights = jax.device_put(operands, P()) if on_mesh else operands
        got = gradients(x, weights, n) if strides == 2 else jax.jit(gradients)(x, weights, n)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
