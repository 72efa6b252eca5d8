"""Packed rows with states: every segment is a stream of its own."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

import flax_sepconv as fsc
from flax_sepconv import ops
from tests import oracle
from tests.streams import assert_close

# Rows of one, five and three segments: shorter and longer than the reach, and of one step.
SIZES = ((17,), (2, 8, 1, 1, 5), (9, 1, 7))
# An id that comes again is another segment.
IDS = np.array([np.repeat(np.arange(len(sizes)) % 3, sizes) for sizes in SIZES])
B, L, C, M, F = 3, 17, 4, 2, 5
SPANS = [
    (row, number, slice(begin, end))
    for row, sizes in enumerate(SIZES)
    for number, (begin, end) in enumerate(
        itertools.pairwise(itertools.accumulate(sizes, initial=0))
    )
]


def operands(K, D, N, dtype="float64"):
    """Return x, the histories of N segments a row, and the weights."""
    rng = np.random.default_rng(0)
    shapes = (B, L, C), (B, N, D * (K - 1), C), (K, C, M), (1, C * M, F), (F,)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def packed(x, history, *weights, D, **settings):
    """Return the outputs of packed rows, and the histories behind the segments."""
    call = ops.separable_conv1d if len(weights) > 2 else ops.depthwise_conv1d
    settings = {"padding": "causal", "segment_ids": IDS, "return_state": True} | settings
    state = ops.StreamState(history)
    y, state = call(x, *weights, dilation_rate=D, initial_state=state, **settings)
    return y, state.history


def joined(x, history, row, number, steps):
    """Return a segment behind what came before it, in float64."""
    beyond = number >= history.shape[1]
    before = np.zeros(history.shape[2:]) if beyond else history[row, number]
    return np.concatenate([before, x[row, steps]]).astype(np.float64)[None]


def alone(x, history, k, *rest, D):
    """Return what `packed` must, by the oracle, segment by segment."""
    y, behind = [], np.array(history, np.float64)
    for row, number, steps in SPANS:
        own = joined(x, history, row, number, steps)
        out = oracle.separable(own, k, *rest, D=D) if rest else oracle.depthwise(own, k, D=D)
        y.append(out[0])
        if number < history.shape[1]:
            behind[row, number] = own[0, own.shape[1] - history.shape[2] :]
    return np.concatenate(y).reshape(B, L, -1), behind


def gradients_alone(x, history, k, p, b, dy, after, D):
    """Carry cotangents of the outputs and of the states back, segment by segment."""
    dx, dh, reach = np.zeros(x.shape), np.array(after), history.shape[2]
    dk, dp = np.zeros(k.shape), np.zeros(p.shape)
    for row, number, steps in SPANS:
        own = joined(x, history, row, number, steps)
        d, *weights = oracle.separable_vjp(own, k, p, dy[row : row + 1, steps], D=D)
        dk, dp = dk + weights[0], dp + weights[1]
        if number < history.shape[1]:
            d[0, own.shape[1] - reach :] += after[row, number]
            dh[row, number] = d[0, :reach]
        dx[row, steps] = d[0, reach:]
    return dx, dh, dk, dp, dy.sum((0, 1))


# Slots: too few, as many as the row with most segments has, and more.
@pytest.mark.parametrize(("K", "D", "N"), [(4, 1, 2), (3, 4, 7), (1, 1, 2), (23, 1, 5)])
def test_a_segment_is_as_alone(K, D, N):
    @jax.jit
    def evaluate(given, dy, after):
        results, pullback = jax.vjp(functools.partial(packed, D=D), *given)
        return packed(*given[:3], D=D), results, pullback((dy, after))

    with jax.enable_x64(True):
        given = operands(K, D, N)
        rng = np.random.default_rng(1)
        dy, after = rng.standard_normal((B, L, F)), rng.standard_normal(given[1].shape)
        first, both, gradients = evaluate(given, dy, after)
        given = list(map(np.asarray, given))
        for found, weights in ((first, given[2:3]), (both, given[2:])):
            y, behind = alone(*given[:2], *weights, D=D)
            assert_close(found[0], y, 1e-13)
            np.testing.assert_array_equal(found[1], behind)
        expected = gradients_alone(*given, dy, after, D)
        for ours, theirs in zip(gradients, expected, strict=True):
            assert_close(ours, theirs, 1e-12)


@pytest.mark.parametrize(
    ("dtype", "implementation", "tolerance"),
    [
        ("float32", None, 1e-6),
        ("float32", "shifted_sum", 1e-6),
        ("bfloat16", None, 1e-2),
        ("float16", "native", 2e-3),
    ],
)
def test_dtypes_and_implementations(dtype, implementation, tolerance):
    given = operands(4, 2, 3, dtype)
    settings = {"D": 2, "implementation": implementation}
    y, behind = jax.jit(functools.partial(packed, **settings))(*given)
    expected, after = alone(*map(np.asarray, given), D=2)
    assert y.dtype == behind.dtype == dtype
    assert_close(y, expected, tolerance)
    np.testing.assert_array_equal(behind, after.astype(behind.dtype))


def test_a_stream_of_each_segment():
    """The same results come from the step of a stream."""
    x, history, *weights = operands(4, 1, 3, "float32")
    y, behind = packed(x, history, *weights, D=1)
    for row, number, steps in SPANS[3:]:
        has_slot = number < 3
        state = ops.StreamState(history[row, number]) if has_slot else None
        out, state = ops.separable_conv1d_step(x[row, steps], state, *weights)
        assert_close(y[row, steps], out)
        if has_slot:
            np.testing.assert_array_equal(behind[row, number], state.history)


def test_two_calls_continue_the_segments():
    """Each row goes on in a second call, which begins within a segment."""
    x, history, *weights = operands(4, 1, 5, "float32")
    whole, after = packed(x, history, *weights, D=1)
    cut, done = 5, np.array([0, 1, 0])  # How many segments have ended before that step.
    first, state = packed(x[:, :cut], history, *weights, D=1, segment_ids=IDS[:, :cut])
    numbers = (np.arange(5) + done[:, None]) % 5
    moved = jnp.take_along_axis(state, numbers[..., None, None], 1)
    second, state = packed(x[:, cut:], moved, *weights, D=1, segment_ids=IDS[:, cut:])
    assert_close(jnp.concatenate([first, second], 1), whole)
    for row, sizes in enumerate(SIZES):
        left = len(sizes) - done[row]
        np.testing.assert_array_equal(state[row, :left], after[row, done[row] : len(sizes)])


def test_batch_dimensions_vmap_and_channels_first():
    x, history, *weights = operands(4, 1, 3, "float32")
    expected = packed(x, history, *weights, D=1)
    mapped = jax.vmap(
        lambda x, h, ids: packed(x, h, *weights, D=1, segment_ids=ids), in_axes=(0, 0, 0)
    )(x, history, IDS)
    more = packed(x[:, None], history[:, None], *weights, D=1, segment_ids=IDS[:, None])
    first = packed(
        x.swapaxes(-1, -2), history.swapaxes(-1, -2), *weights, D=1, data_format="channels_first"
    )
    for i in range(2):
        assert_close(mapped[i], expected[i])
        assert_close(more[i][:, 0], expected[i])
        assert_close(first[i].swapaxes(-1, -2), expected[i])


def test_rows_with_tails():
    """What stands behind a row's end is no part of any segment; NaN in free slots is not read."""
    x, history, *weights = operands(4, 1, 5, "float32")
    ends = np.array([17, 11, 9])  # The second one within a segment, the third where one ends.
    expected, after = alone(*operands(4, 1, 5, "float32"), D=1)
    x = np.array(x)
    for row, end in enumerate(ends):
        x[row, end:] = np.nan
        expected[row, end:] = 0
    has_steps = np.arange(5) < [[1], [3], [1]]
    history = jnp.where(has_steps[..., None, None], history, jnp.nan)

    def loss(x, history, *weights):
        y, behind = packed(x, history, *weights, D=1, lengths=ends)
        return (y**2).sum(), (y, behind)

    gradients, (y, behind) = jax.grad(loss, argnums=range(5), has_aux=True)(x, history, *weights)
    assert_close(y, expected)
    np.testing.assert_array_equal(behind[has_steps], after[has_steps].astype(np.float32))
    assert np.isnan(behind[~has_steps]).all()
    for gradient in gradients:
        assert np.isfinite(gradient).all()
    assert not np.asarray(gradients[1])[~has_steps].any()


def test_reset_begins_single_segments():
    x, history, *weights = operands(4, 1, 5, "float32")
    flags = np.zeros((B, 5), bool)
    flags[1, [0, 3]] = True
    cleared = ops.StreamState(history).reset(flags).history
    np.testing.assert_array_equal(cleared, np.where(flags[..., None, None], 0, history))
    fresh = ops.initial_state(x.shape, weights[0].shape, segments=5)
    y, _ = packed(x, fresh.history, *weights, D=1)
    assert_close(y, ops.separable_conv1d(x, *weights, padding="causal", segment_ids=IDS))


def test_layers():
    x, history, *_ = operands(4, 1, 5, "float32")
    state = ops.StreamState(history)
    named = {"segment_ids": IDS, "initial_state": state, "return_state": True}
    for name, arguments in (("SeparableConv1D", {"filters": F}), ("DepthwiseConv1D", {})):
        arguments |= {"kernel_size": 4, "padding": "causal", "activation": "sigmoid"}
        linen = getattr(fsc, name)(**arguments)
        variables = linen.init(jax.random.key(0), x)
        y, behind = linen.apply(variables, x, **named)
        _, number, steps = SPANS[-1]
        own = ops.StreamState(history[-1:, number])
        out, after = linen.apply(variables, x[-1:, steps], initial_state=own, return_state=True)
        assert_close(y[-1:, steps], out)
        np.testing.assert_array_equal(behind.history[-1:, number], after.history)
        twin = getattr(fsc.nnx, name)(C, **arguments, rngs=nnx.Rngs(0))
        for weight, value in variables["params"].items():
            getattr(twin, weight)[...] = value
        jax.tree.map(assert_close, twin(x, **named), (y, behind))
        with pytest.raises(ValueError, match="segment_ids are for decode=False: the cache has one"):
            linen.clone(decode=True).apply(variables, x, segment_ids=IDS, mutable=["cache"])


def test_rows_and_channels_divided_among_devices():
    """By a `shard_map`, by XLA, or by the types of an explicit mesh; divided steps are refused."""
    x, history, *weights = operands(4, 1, 3, "float32")
    x, history, ids = x[:2], history[:2], jnp.asarray(IDS[:2])
    rng = np.random.default_rng(1)
    dy = rng.standard_normal((2, L, F)), rng.standard_normal(history.shape)

    def call(x, history, ids, **settings):
        return packed(x, history, *weights, D=1, segment_ids=ids, **settings)

    @jax.jit
    def loss(given, ids):
        y = packed(*given, D=1, segment_ids=ids)
        return sum((each * d).sum() for each, d in zip(y, dy, strict=True)), y

    given = x, history, *weights
    gradient = jax.grad(loss, has_aux=True)
    expected = gradient(given, ids)
    for kind in (AxisType.Auto, AxisType.Explicit):
        with jax.set_mesh(jax.make_mesh((2, 2), ("b", "c"), axis_types=(kind,) * 2)):
            rows, lanes = PartitionSpec("b"), PartitionSpec("b", None, "c")
            specs = lanes, PartitionSpec("b", None, None, "c"), *(PartitionSpec() for _ in weights)
            divided = jax.tree.map(jax.device_put, given, specs)
            jax.tree.map(assert_close, gradient(divided, jax.device_put(ids, rows)), expected)
            along = jax.jit(jax.shard_map(call, in_specs=rows, out_specs=rows))
            if kind == AxisType.Explicit:
                steps = jax.device_put(jnp.ones((2, 16, C)), PartitionSpec(None, "b"))
                with pytest.raises(ValueError, match="packed rows must not be divided where there"):
                    call(steps, history, ids[:, :16])
                continue
            jax.tree.map(assert_close, along(x, history, ids), expected[1])
            own = functools.partial(call, axis_name="b")
            with pytest.raises(ValueError, match="axis_name and the state of a stream do not go"):
                jax.shard_map(own, in_specs=rows, out_specs=rows)(x, history, ids)


STATE = ops.initial_state((B, L, C), (4, C, M), segments=5)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"initial_state": None}, ValueError, r"return_state need initial_state.*segments=N"),
        ({"initial_state": STATE.history}, TypeError, "the state must be a StreamState, got"),
        (
            {"initial_state": ops.initial_state((B, L, C), (4, C, M))},
            ValueError,
            r"history must have shape \(\.\.\., N, D\*\(K-1\), C\), rank 4.*got \(3, 3, 4\)",
        ),
        (
            {"initial_state": ops.StreamState(STATE.history[1:])},
            ValueError,
            r"another configuration: batch is \(2, 5\), not \(3, 5\)",
        ),
        (
            {"initial_state": ops.StreamState(STATE.history[:, :, 1:])},
            ValueError,
            r"another configuration: D\*\(K-1\) is 2, not 3",
        ),
        ({"padding": "same"}, ValueError, r"initial_state need padding 'causal'.*got 1 with"),
        ({"padding": "valid"}, ValueError, r"segment_ids need padding 'same'"),
        ({"strides": 2}, ValueError, r"segment_ids need .* strides 1, got"),
        ({"implementation": "grouped_conv"}, NotImplementedError, "knows no segments"),
    ],
)
def test_refusals(changed, error, message):
    x, _, *weights = operands(4, 1, 5, "float32")
    settings = {"padding": "causal", "segment_ids": IDS, "initial_state": STATE} | changed
    for call, own in ((ops.separable_conv1d, weights), (ops.depthwise_conv1d, weights[:1])):
        with pytest.raises(error, match=message):
            call(x, *own, return_state=True, **settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"segments": 0}, "segments must be a positive int .*got 0"),
        ({"segments": 2, "strides": 2}, "segments need padding 'causal' and strides 1, got"),
        ({"segments": 2, "padding": "same"}, "segments need padding 'causal' .*got 'same'"),
    ],
)
def test_initial_states_that_there_are_not(arguments, message):
    with pytest.raises(ValueError, match=message):
        ops.initial_state((B, L, C), (4, C, M), **arguments)
