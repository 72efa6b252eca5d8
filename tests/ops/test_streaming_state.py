"""A state as a value: donated, saved, begun anew, taken for another's."""

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_sepconv as fsc
from flax_sepconv import ops
from tests.streams import assert_close, operands

X, *WEIGHTS = operands(4, 2)


@pytest.mark.parametrize("S", [1, 3])
def test_a_fresh_state_can_be_donated(S):
    def run(state, chunks):
        def body(state, chunk):
            y, state = ops.separable_conv1d_step(chunk, state, *WEIGHTS, strides=S)
            return state, y

        return jax.lax.scan(body, state, chunks)

    state = ops.initial_state(X.shape, WEIGHTS[0].shape, strides=S)
    chunks = jnp.moveaxis(X[:, :18].reshape(3, 3, 6, 4), 1, 0)
    after, y = jax.jit(run, donate_argnums=0)(state, chunks)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    whole, final = ops.separable_conv1d_step(X[:, :18], None, *WEIGHTS, strides=S)
    assert_close(np.moveaxis(y, 0, 1).reshape(whole.shape), whole, 2e-6)
    np.testing.assert_array_equal(after.history, final.history)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("S", [1, 3])
def test_a_state_is_saved_and_restored(S, dtype):
    x, weights = jnp.asarray(X, dtype), [jnp.asarray(w, dtype) for w in WEIGHTS]
    _, state = ops.separable_conv1d_step(x[:, :10], None, *weights, strides=S)
    saved = flax.serialization.to_bytes(state)
    fresh = ops.initial_state(X.shape, WEIGHTS[0].shape, strides=S, dtype=dtype)
    restored = flax.serialization.from_bytes(fresh, saved)
    assert isinstance(restored, ops.StreamState)
    assert restored.strides == S
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    results = [
        ops.separable_conv1d_step(x[:, 10:], each, *weights, strides=S)
        for each in (restored, state)
    ]
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_a_state_is_frozen():
    state = ops.initial_state(X.shape, WEIGHTS[0].shape)
    with pytest.raises(AttributeError):
        state.history = None
    np.testing.assert_array_equal(state.replace(history=state.history + 1).history, 1)


@pytest.mark.parametrize(
    ("reset", "error", "message"),
    [
        (3.0, TypeError, "reset must be bool, got dtype float32"),
        ([0, 1, 0], TypeError, "reset must be bool, got dtype int32"),
        (True, ValueError, r"reset must have the shape of the batch, \(3,\), got \(\)"),
        ([True] * 2, ValueError, r"reset must have the shape of the batch, \(3,\), got \(2,\)"),
    ],
)
def test_reset_is_checked_where_streams_begin(reset, error, message):
    linen = fsc.SeparableConv1D(5, 4, padding="causal", decode=True)
    params = {"params": linen.init(jax.random.key(0), X)["params"]}
    twin = fsc.nnx.SeparableConv1D(4, 5, 4, padding="causal", decode=True, rngs=nnx.Rngs(0))
    twin.init_cache(X.shape)
    with pytest.raises(error, match=message):
        ops.separable_conv1d_step(X, None, *WEIGHTS, reset=reset)
    with pytest.raises(error, match=message):
        linen.apply(params, X, reset=reset, mutable=["cache"])
    with pytest.raises(error, match=message):
        twin(X, reset=reset)


def test_gradients_of_a_whole_state():
    """Its integers have none."""
    state = ops.initial_state(X.shape, WEIGHTS[0].shape, strides=2)

    def loss(state):
        y, _ = ops.separable_conv1d_step(X, state, *WEIGHTS, strides=2)
        return jnp.sum(y**2)

    whole = jax.grad(loss, allow_int=True)(state)
    own = jax.grad(lambda history: loss(state.replace(history=history)))(state.history)
    np.testing.assert_array_equal(whole.history, own)
    assert whole.phase.dtype == jax.dtypes.float0


@pytest.mark.parametrize(
    ("from_strides", "to_strides", "message"),
    [
        (1, 2, "strides S is 1, not 2"),
        (2, 1, "strides S is larger than 1, not 1"),
        (3, 2, r"strides S is larger than 2: phase is \[2 2 2\]"),
    ],
)
def test_a_cache_of_other_strides_is_refused(from_strides, to_strides, message):
    x = X[:, :4]
    layer = fsc.SeparableConv1D(5, 4, padding="causal", strides=from_strides, decode=True)
    variables = layer.init(jax.random.key(0), x)
    cache = layer.apply(variables, x, mutable=["cache"])[1]
    with pytest.raises(ValueError, match=f"another configuration: {message}"):
        layer.clone(strides=to_strides).apply(variables | cache, x, mutable=["cache"])
    layers = [
        fsc.nnx.SeparableConv1D(4, 5, 4, padding="causal", strides=S, decode=True, rngs=nnx.Rngs(0))
        for S in (from_strides, to_strides)
    ]
    layers[0].init_cache(x.shape)
    layers[0](x)
    for name in ("history", "phase", "steps"):
        setattr(layers[1], name, getattr(layers[0], name))
    with pytest.raises(ValueError, match=f"another configuration: {message}"):
        layers[1](x)


@pytest.mark.parametrize(("dtype", "param_dtype"), [(None, "bfloat16"), ("float16", "float32")])
def test_a_view_has_a_cache_for_inputs_like_the_weights(dtype, param_dtype):
    layer = fsc.nnx.SeparableConv1D(
        4, 5, 4, padding="causal", dtype=dtype, param_dtype=param_dtype, rngs=nnx.Rngs(0)
    )
    x = jnp.asarray(X, dtype or param_dtype)
    decoding = nnx.view(layer, decode=True, batch_size=3)
    both = np.concatenate([decoding(x[:, :9]), decoding(x[:, 9:])], 1)
    assert decoding.history.dtype == x.dtype
    assert_close(both, np.asarray(layer(x), np.float64), 1e-2)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("shape", [(2, 3, 3), (4,), ()])
def test_a_cache_for_other_inputs_is_refused(shape, data_format):
    layer = fsc.nnx.SeparableConv1D(
        4, 5, 4, padding="causal", data_format=data_format, decode=True, rngs=nnx.Rngs(0)
    )
    with pytest.raises(ValueError, match=r"in_features=4 channels, got \("):
        layer.init_cache(shape)
