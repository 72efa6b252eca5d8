"""A sequence in chunks gives what it gives whole: outputs, gradients, for each stream by itself."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from flax_sepconv import ops
from tests import oracle
from tests.cases import LOWERINGS
from tests.settings import examples
from tests.streams import assert_close, cuts, operands, oracle_of, swapped

# K, D, S, M: one tap, several, dilated, strided by less and more than the taps reach, and both.
SHAPES = [
    (1, 1, 1, 1),
    (4, 1, 1, 2),
    (3, 3, 1, 1),
    (5, 1, 2, 1),
    (2, 1, 5, 2),
    (1, 2, 3, 1),
    (4, 2, 3, 2),
]
FORMATS = ("channels_last", "channels_first")


@functools.cache
def compiled(S, D, data_format="channels_last"):
    return jax.jit(
        functools.partial(
            ops.separable_conv1d_step, strides=S, dilation_rate=D, data_format=data_format
        )
    )


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize(("K", "D", "S", "M"), SHAPES)
def test_chunks_give_what_the_whole_gives(K, D, S, M, data_format):
    x, *weights = operands(K, M)
    step, state, outputs = compiled(S, D, data_format), None, []
    for first, last in cuts(23, (1, 4, 2, 7)):
        y, state = step(swapped(x[:, first:last], data_format), state, *weights)
        y = swapped(np.asarray(y), data_format)
        assert y.shape[1] == -(-(last - first) // S)
        outputs.append(y if S == 1 else y[:, : int(state.steps[0])])
        assert swapped(np.asarray(state.history), data_format).shape == (3, D * (K - 1), 4)
    assert_close(np.concatenate(outputs, 1), oracle.separable(x, *weights, S, D, "causal"))


@st.composite
def feeds(draw):
    """Return a configuration, and for each call how many steps each stream gets, and its resets."""
    K, D, S, M = draw(st.sampled_from(SHAPES))
    B = draw(st.sampled_from((1, 3)))
    calls = []
    for _ in range(draw(st.integers(1, 6))):
        T = draw(st.sampled_from((1, 2, 5, 8)))
        ragged, resets = draw(st.booleans()), draw(st.booleans())
        lengths = draw(st.lists(st.integers(0, T), min_size=B, max_size=B)) if ragged else None
        reset = draw(st.lists(st.booleans(), min_size=B, max_size=B)) if resets else None
        calls.append((T, lengths, reset))
    return K, D, S, M, B, calls


@examples(40)
@hypothesis.given(feeds(), st.integers(0, 2**32 - 1))
def test_every_stream_is_itself(feed, seed):
    """Chunks, lengths and resets of each stream as they come, garbage behind the lengths."""
    K, D, S, M, B, calls = feed
    _, *weights = operands(K, M, seed=seed)
    rng = np.random.default_rng(seed)
    state = ops.initial_state((B, 1, 4), weights[0].shape, strides=S, dilation_rate=D)
    # Of each stream: what came, and what was given, since each of its beginnings.
    heard, said = ([[np.zeros((0, n))]] * B for n in (4, 5))
    heard, said = [list(h) for h in heard], [list(s) for s in said]
    for T, lengths, reset in calls:
        x = rng.standard_normal((B, T, 4)).astype(np.float32)
        counts = [T] * B if lengths is None else lengths
        for b in range(B):
            if reset is not None and reset[b]:
                heard[b].append(np.zeros((0, 4)))
                said[b].append(np.zeros((0, 5)))
            heard[b][-1] = np.concatenate([heard[b][-1], x[b, : counts[b]]])
            x[b, counts[b] :] = np.nan
        y, state = compiled(S, D)(
            x,
            state,
            *weights,
            lengths=None if lengths is None else jnp.array(lengths),
            reset=None if reset is None else jnp.array(reset),
        )
        y, steps = np.asarray(y), np.asarray(state.steps)
        for b in range(B):
            n = counts[b] if S == 1 else steps[b]
            said[b][-1] = np.concatenate([said[b][-1], y[b, :n]])
            np.testing.assert_array_equal(y[b, n:], 0)
    for b in range(B):
        for came, gave in zip(heard[b], said[b], strict=True):
            assert_close(gave, oracle_of(came, *weights, S, D), 2e-6)


@pytest.mark.parametrize("S", [1, 3])
def test_garbage_behind_the_lengths_reaches_no_gradient(S):
    x, *weights = operands(4, 2)
    spoiled, lengths = x.copy(), np.array([5, 0, 14])
    for row, length in zip(spoiled, lengths, strict=True):
        row[9 + length :] = np.nan

    def loss(x, weights):
        _, state = ops.separable_conv1d_step(x[:, :9], None, *weights, strides=S)
        y, state = ops.separable_conv1d_step(
            x[:, 9:], state, *weights, strides=S, lengths=jnp.array(lengths)
        )
        return jnp.sum(y**2) + jnp.sum(state.history**2)

    gradients = jax.jit(jax.grad(loss, (0, 1)))
    clean, dirty = (gradients(each, weights) for each in (x, spoiled))
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_every_lowering_streams(lowering):
    x, *weights = operands(4, 2)
    state, outputs = None, []
    for first, last in cuts(23, (1, 2, 7)):
        y, state = ops.separable_conv1d_step(
            x[:, first:last], state, *weights, implementation=lowering
        )
        outputs.append(y)
    assert_close(np.concatenate(outputs, 1), oracle.separable(x, *weights, padding="causal"))


@pytest.mark.parametrize("lengths", [None, [0, 5, 14]])
@pytest.mark.parametrize(("K", "D", "S", "M"), SHAPES)
def test_the_full_call_takes_and_returns_states(K, D, S, M, lengths):
    """`initial_state` and `return_state`, the latter without the former too."""
    x, *weights = operands(K, M)
    call = functools.partial(
        ops.separable_conv1d, padding="causal", strides=S, dilation_rate=D, return_state=True
    )
    early = [9, 9, 9] if lengths is None else [0, 5, 9]
    late = [14, 14, 14] if lengths is None else [0, 0, 14]
    first, state = call(x[:, :9], *weights, lengths=None if lengths is None else jnp.array(early))
    second, final = call(
        x[:, 9:],
        *weights,
        initial_state=state,
        lengths=None if lengths is None else jnp.array(late),
    )
    first, second = np.asarray(first), np.asarray(second)
    for b in range(3):
        n = -(-early[b] // S)
        m = late[b] if S == 1 else int(final.steps[b])
        heard = np.concatenate([x[b, : early[b]], x[b, 9 : 9 + late[b]]])
        gave = np.concatenate([first[b, :n], second[b, :m]])
        assert_close(gave, oracle_of(heard, *weights, S, D))
        reach = D * (K - 1)
        before = np.concatenate([np.zeros((reach, 4), np.float32), heard])
        np.testing.assert_array_equal(final.history[b], before[len(before) - reach :])
        if S > 1:
            assert final.phase[b] == -len(heard) % S


@pytest.mark.parametrize(("K", "D", "S", "M"), [(4, 1, 1, 2), (3, 2, 1, 1), (3, 1, 2, 1)])
def test_gradients_through_states_are_those_of_the_whole(K, D, S, M):
    """Backpropagation through time, and its truncation."""
    x, *weights = operands(K, M, L=12)
    targets = np.random.default_rng(1).standard_normal((3, 12 // S, 5)).astype(np.float32)

    def loss(x, weights, edges, cut=lambda state: state):
        state, total = None, 0.0
        for first, last in edges:
            y, state = ops.separable_conv1d_step(
                x[:, first:last], cut(state), *weights, strides=S, dilation_rate=D
            )
            total += jnp.sum(y * targets[:, first // S : last // S])
        return total

    whole = oracle.separable_vjp(x, *weights[:2], targets, S, D, "causal")
    edges = cuts(12, (2, 4, 2))

    @jax.jit
    def gradients(x, weights):
        plain, cut = (
            functools.partial(loss, edges=edges, **options)
            for options in ({}, {"cut": jax.lax.stop_gradient})
        )
        return jax.grad(plain, (0, 1))(x, weights), jax.grad(cut, (0, 1))(x, weights)

    through, truncated = gradients(x, weights)
    for gradient, reference in zip(jax.tree.leaves(through), whole, strict=True):
        assert_close(gradient, reference, 3e-6)
    alone = np.concatenate(
        [
            oracle.separable_vjp(
                x[:, : last - first],
                *weights[:2],
                targets[:, first // S : last // S],
                S,
                D,
                "causal",
            )[0]
            for first, last in edges
        ],
        1,
    )
    # A chunk's own outputs alone reach its inputs; the weights still see all of the past.
    assert_close(truncated[0], alone, 3e-6)
    for gradient, reference in zip(truncated[1], whole[1:], strict=True):
        assert_close(gradient, reference, 3e-6)


@pytest.mark.parametrize("S", [1, 3])
def test_vmap_and_leading_batch_dimensions(S):
    x, *weights = operands(4, 2, B=6)
    x = x.reshape(2, 3, 23, 4)
    lengths = jnp.array([[3, 0, 8], [8, 1, 7]])
    step = functools.partial(ops.separable_conv1d_step, strides=S)
    _, state = step(x[:, :, :8], None, *weights, lengths=lengths)
    y, after = step(x[:, :, 8:], state, *weights, reset=lengths == 8)
    mapped = jax.vmap(lambda x, n: step(x, None, *weights, lengths=n))(x[:, :, :8], lengths)
    jax.tree.map(np.testing.assert_array_equal, mapped[1], state)
    mapped = jax.vmap(lambda x, state, r: step(x, state, *weights, reset=r))(
        x[:, :, 8:], state, lengths == 8
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), mapped, (y, after)
    )
    for i, j in np.ndindex(2, 3):
        heard = np.concatenate([x[i, j, : lengths[i, j] % 8], x[i, j, 8:]])
        n = 15 if S == 1 else int(after.steps[i, j])
        assert_close(y[i, j, :n], oracle_of(heard, *weights, S, 1)[-n:], 2e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_state_has_the_dtype_of_the_inputs(dtype):
    x, *weights = operands(4, 2)
    narrow = jnp.asarray(x, dtype)
    y, state = ops.separable_conv1d_step(narrow, None, *weights)
    assert (y.dtype, state.history.dtype) == (jnp.float32, narrow.dtype)
    np.testing.assert_array_equal(state.history, narrow[:, -3:])
    first, state = ops.separable_conv1d_step(
        narrow[:, :9], None, *(jnp.asarray(w, dtype) for w in weights)
    )
    second, _ = ops.separable_conv1d_step(
        narrow[:, 9:], state, *(jnp.asarray(w, dtype) for w in weights)
    )
    exact = [np.asarray(jnp.asarray(a, dtype), np.float64) for a in (x, *weights)]
    reference = oracle.separable(*exact, padding="causal")
    both = np.concatenate([first, second], 1)
    assert_close(both, reference, {"bfloat16": 1e-2, "float16": 2e-3}[dtype])


BAD_STATES = {
    "batch is (2,), not (3,)": {"x_shape": (2, 1, 4)},
    "number of channels C is 5, not 4": {"x_shape": (3, 1, 5), "depthwise_kernel_shape": (4, 5, 2)},
    r"D*(K-1) is 6, not 3": {"dilation_rate": 2},
    "strides S is 2, not 1": {"strides": 2},
    "dtype is bfloat16, not float32": {"dtype": "bfloat16"},
    "history's rank is 4, not 3": {"x_shape": (3, 1, 1, 4)},
}


@pytest.mark.parametrize("message", BAD_STATES)
def test_a_state_of_another_configuration_is_refused(message):
    x, *weights = operands(4, 2)
    arguments = {"x_shape": x.shape, "depthwise_kernel_shape": (4, 4, 2)} | BAD_STATES[message]
    state = ops.initial_state(**arguments)
    with pytest.raises(ValueError, match="another configuration") as caught:
        ops.separable_conv1d_step(x, state, *weights)
    assert message in str(caught.value)


def test_wrong_arguments_are_named():
    x, *weights = operands(4, 2)
    step = ops.separable_conv1d_step
    _, state = step(x, None, *weights)
    with pytest.raises(TypeError, match="state must be a StreamState, got tuple"):
        step(x, (state,), *weights)
    with pytest.raises(ValueError, match="lengths"):
        step(x, state, *weights, lengths=jnp.array([1, 2]))
    with pytest.raises(ValueError, match="at least one step"):
        step(x[:, :0], state, *weights)
    with pytest.raises(ValueError, match="strides"):
        ops.initial_state(x.shape, (4, 4, 2), strides=0)
    with pytest.raises(ValueError, match="x_shape"):
        ops.initial_state((4,), (4, 4, 2))
