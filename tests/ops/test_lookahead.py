"""Streams of convolutions that see steps to come: in chunks they give what the whole gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from flax_sepconv import ops
from tests import oracle
from tests.cases import LOWERINGS
from tests.conftest import DEVICES
from tests.streams import assert_close, operands, swapped

# K, D, S, M, padding
SHAPES = [
    (4, 1, 1, 2, (1, 2)),
    (4, 1, 1, 1, "valid"),
    (5, 2, 1, 1, "same"),
    (4, 3, 1, 1, (0, 9)),
    (3, 1, 1, 1, (2, 0)),  # causal
    (5, 1, 2, 1, (2, 2)),
    (4, 1, 2, 1, "valid"),
    (3, 1, 5, 1, (1, 1)),
    (4, 2, 3, 2, (3, 1)),
]


@functools.cache
def compiled(D, S, padding, data_format="channels_last"):
    settings = {"strides": S, "dilation_rate": D, "padding": padding, "data_format": data_format}
    return jax.jit(functools.partial(ops.separable_conv1d_step, **settings))


def given(y, state, row=0):
    """Return how many steps count, behind which there must be zeros."""
    count = y.shape[1] if state.steps is None else int(state.steps[row])
    assert not np.asarray(y[row, count:]).any()
    return count


@pytest.mark.parametrize(
    ("K", "D", "S", "M", "padding", "data_format"),
    [(*shape, "channels_last") for shape in SHAPES]
    + [(*shape, "channels_first") for shape in SHAPES[::5]],
    ids=str,
)
def test_chunks_and_a_flush_give_the_whole(K, D, S, M, padding, data_format):
    x, *weights = operands(K, M)
    step, state, outputs = compiled(D, S, padding, data_format), None, []
    for first, last in ((0, 1), (1, 12), (12, 23)):
        flush = jnp.full(3, True) if last == 23 else None
        y, state = step(swapped(x[:, first:last], data_format), state, *weights, flush=flush)
        y = swapped(np.asarray(y), data_format)
        outputs.append(y[:, : given(y, state)])
    assert_close(np.concatenate(outputs, 1), oracle.separable(x, *weights, S, D, padding), 2e-6)


@pytest.mark.parametrize(("K", "D", "S", "M", "padding"), SHAPES[::3], ids=str)
def test_chunks_of_the_depthwise_stage(K, D, S, M, padding):
    x, kernel, *_ = operands(K, M)
    bias = np.random.default_rng(0).standard_normal(x.shape[2] * M).astype(np.float32)
    settings = {"strides": S, "dilation_rate": D, "padding": padding}
    step, state, outputs = functools.partial(ops.depthwise_conv1d_step, **settings), None, []
    for first, last in ((0, 12), (12, 23)):
        flush = True if last == 23 else None
        y, state = step(x[:, first:last], state, kernel, bias, flush=flush)
        outputs.append(y[:, : given(y, state)])
    expected = oracle.depthwise(x, kernel, S, D, padding) + bias
    assert_close(np.concatenate(outputs, 1), expected, 2e-6)


@pytest.mark.parametrize(("K", "D", "S", "M", "padding"), SHAPES[1:8:2], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_streams_begin_and_end_when_they_like(K, D, S, M, padding, seed):
    """Lengths, resets and ends of each stream as they come, garbage behind the lengths."""
    _, *weights = operands(K, M)
    rng, B, T = np.random.default_rng(seed), 3, 5
    settings = {"strides": S, "dilation_rate": D, "padding": padding}
    state = ops.initial_state((B, 1, 4), weights[0].shape, **settings)
    # Of each stream: what came and what was given since its latest beginning.
    heard, said = [np.zeros((0, 4))] * B, [np.zeros((0, 5))] * B
    ended = 0
    for call in range(12):
        x = rng.standard_normal((B, T, 4)).astype(np.float32)
        counts = rng.integers(0, T + 1, B)
        reset = rng.random(B) < 0.15
        flush = (rng.random(B) < 0.3) | (call == 11)
        for b in range(B):
            if reset[b]:
                heard[b], said[b] = np.zeros((0, 4)), np.zeros((0, 5))
            heard[b] = np.concatenate([heard[b], x[b, : counts[b]]])
            x[b, counts[b] :] = np.nan
        y, state = compiled(D, S, padding)(
            x, state, *weights, lengths=jnp.array(counts), reset=reset, flush=flush
        )
        y, state = jax.tree.map(np.asarray, (y, state))
        for b in range(B):
            said[b] = np.concatenate([said[b], y[b, : given(y, state, b)]])
            if flush[b]:
                ended += 1
                steps = max(0, oracle.window(len(heard[b]), K, S, D, padding)[1])
                if heard[b].size and steps:
                    whole = oracle.separable(heard[b][None], *weights, S, D, padding)[0]
                    assert_close(said[b], whole, 2e-6)
                else:
                    assert not len(said[b])
                heard[b], said[b] = np.zeros((0, 4)), np.zeros((0, 5))
    assert ended > B


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_every_lowering_looks_ahead(lowering):
    x, *weights = operands(4, 2)
    state, outputs = None, []
    for first, last in ((0, 9), (9, 23)):
        y, state = ops.separable_conv1d_step(
            x[:, first:last],
            state,
            *weights,
            padding=(1, 2),
            implementation=lowering,
            flush=True if last == 23 else None,
        )
        outputs.append(y[:, : given(y, state)])
    assert_close(np.concatenate(outputs, 1), oracle.separable(x, *weights, padding=(1, 2)), 2e-6)


@pytest.mark.parametrize(("S", "padding"), [(1, (1, 2)), (2, "valid")])
def test_gradients_flow_through_the_states(S, padding):
    x, *weights = operands(4, 1)
    targets = np.random.default_rng(1).standard_normal(
        oracle.separable(x, *weights, S, padding=padding).shape
    )

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(x, weights):
        state, total, begin = None, 0.0, 0
        for first, last, count in chunks:
            y, state = ops.separable_conv1d_step(
                x[:, first:last],
                state,
                *weights,
                strides=S,
                padding=padding,
                flush=True if last == 23 else None,
            )
            total += jnp.sum(y[:, :count] * targets[:, begin : begin + count])
            begin += count
        return total

    low, _ = oracle.window(23, 4, S, 1, padding)
    ends = [max(0, -(-(n - 3 + low) // S)) for n in (6, 10)] + [targets.shape[1]]
    chunks = list(zip((0, 6, 10), (6, 10, 23), np.diff([0, *ends]).tolist(), strict=True))
    dx, dw = gradients(x, weights)
    expected = oracle.separable_vjp(x, *weights[:2], targets, S, padding=padding)
    for found, wanted in zip((dx, *dw), expected, strict=True):
        assert_close(found, wanted, 5e-6)


def test_one_step_at_a_time_in_a_scan():
    x, *weights = operands(5, 1)

    def step(state, chunk):
        y, state = ops.separable_conv1d_step(chunk, state, *weights, padding="same")
        return state, (y, state.steps)

    fresh = ops.initial_state(x.shape, weights[0].shape, padding="same")
    state, (y, steps) = jax.lax.scan(step, fresh, jnp.moveaxis(x, 1, 0)[:, :, None])
    np.testing.assert_array_equal(steps[:, 0], [0, 0] + [1] * 21)
    rest, state = ops.separable_conv1d_step(x[:, :0], state, *weights, padding="same", flush=True)
    outputs = np.concatenate([np.moveaxis(y[2:, :, 0], 0, 1), rest], 1)
    assert_close(outputs, oracle.separable(x, *weights, padding="same"), 2e-6)
    np.testing.assert_array_equal(state.phase, fresh.phase)
    np.testing.assert_array_equal(state.history, fresh.history)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"padding": "same", "strides": 2}, r"'same' where there is a state.*strides=2"),
        ({"padding": "circular"}, r"padding must be 'causal', 'valid'.*got 'circular'"),
        ({"padding": (2, 2)}, r"padding must be at most D\*\(K-1\) = 3 zeros in all.*\(2, 2\)"),
    ],
)
def test_paddings_that_cannot_be_streamed(settings, message):
    x, *weights = operands(4, 2)
    with pytest.raises(ValueError, match=message):
        ops.separable_conv1d(x, *weights, return_state=True, **settings)
    with pytest.raises(ValueError, match=message):
        ops.separable_conv1d_step(x, None, *weights, **settings)
    with pytest.raises(ValueError, match=message):
        ops.initial_state(x.shape, weights[0].shape, **settings)


def test_wrong_arguments_are_named():
    x, *weights = operands(4, 2)
    step = functools.partial(ops.separable_conv1d_step, padding=(1, 2))
    with pytest.raises(TypeError, match="flush must be bool, got dtype int32"):
        step(x, None, *weights, flush=jnp.array([1, 0, 1]))
    with pytest.raises(ValueError, match=r"flush must have the shape of the batch, \(3,\)"):
        step(x, None, *weights, flush=jnp.array([True]))
    _, state = step(x, None, *weights)
    with pytest.raises(ValueError, match="delay is 2, not 1"):
        step(x, state, *weights, padding=(2, 1))
    with pytest.raises(ValueError, match="delay is 0, not 2"):
        step(x, ops.separable_conv1d_step(x, None, *weights)[1], *weights)


@pytest.mark.skipif(DEVICES != 4, reason="for a mesh of four devices")
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_on_meshes(kind):
    """The batch is divided among devices, and streams end at different times."""
    x, *weights = operands(4, 2, B=4, L=16)
    lengths, flush = jnp.array([7, 0, 3, 7]), jnp.array([True, True, False, False])

    def in_chunks(x):
        step = functools.partial(ops.separable_conv1d_step, padding=(1, 2))
        first, state = step(x[:, :9], None, *weights)
        second, state = step(x[:, 9:], state, *weights, lengths=lengths, flush=flush)
        return first, second, state.history, state.phase, state.steps

    expected = jax.jit(in_chunks)(x)
    np.testing.assert_array_equal(expected[4], [9, 2, 3, 7])
    mesh = jax.make_mesh((4,), ("a",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        divided = jax.device_put(x, jax.NamedSharding(mesh, jax.P("a")))
        found = [jax.jit(in_chunks)(divided), in_chunks(divided)]
    for arrays in found:
        for own, wanted in zip(arrays, expected, strict=True):
            np.testing.assert_allclose(own, wanted, atol=1e-5)
