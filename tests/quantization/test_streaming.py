"""Quantized layers that are given their sequences in chunks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_sepconv as fsc
from flax_sepconv.quantization import Int8
from tests.quantization.networks import assert_equal, batch, compiled, layer_of
from tests.streams import cuts, swapped

# With two options for both layers, as they are rounded and as they are converted.
NARROW = {"padding": "causal", "dilation_rate": 2, "dtype": jnp.bfloat16}
STRIDED = {"padding": "causal", "strides": 3, "activation": "sigmoid"}
FIRST = {"padding": (1, 1), "data_format": "channels_first", "depth_multiplier": 2}
CASES = [
    ("SeparableConv1D", NARROW, False),
    ("SeparableConv1D", STRIDED, True),
    ("SeparableConv1D", FIRST, True),
    ("DepthwiseConv1D", STRIDED, False),
    ("DepthwiseConv1D", NARROW, True),
]


def in_chunks(decoding, variables, x, sizes, data_format="channels_last", **options):
    """Return the outputs of chunks, one behind the other."""
    call = jax.jit(functools.partial(decoding.apply, mutable=["cache"], **options))
    outputs = []
    for first, last in cuts(x.shape[1], sizes):
        y, updates = call(variables, swapped(x[:, first:last], data_format))
        variables = variables | updates
        steps = updates["cache"].get("steps")
        y = swapped(y, data_format)
        outputs.append(y if steps is None else y[:, : int(steps[0])])
    return np.concatenate(outputs, 1)


@pytest.mark.parametrize(("name", "options", "is_converted"), CASES)
def test_chunks_are_the_whole(name, options, is_converted):
    x, data_format = batch(L=18), options.get("data_format", "channels_last")
    whole = swapped(x, data_format)
    layer = layer_of(name, Int8(), **options)
    call, variables = compiled(layer, whole, is_converted)
    expected = swapped(call(whole), data_format)
    y = in_chunks(layer.clone(decode=True), variables, x, (5, 1), data_format)
    assert_equal(y, expected[:, : y.shape[1]])
    assert y.shape[1] >= expected.shape[1] - 2
    assert y.dtype == options.get("dtype", jnp.float32)


@pytest.mark.parametrize("is_converted", [False, True])
def test_streams_that_end(is_converted):
    x = batch(B=2, L=16)
    layer = layer_of("SeparableConv1D", Int8(), padding=(1, 2))
    call, variables = compiled(layer, x, is_converted)
    decoding = layer.clone(decode=True)
    apply = jax.jit(functools.partial(decoding.apply, mutable=["cache"]))
    first, updates = apply(variables, x[:, :9])
    state = variables | updates
    last, updates = apply(state, x[:, 9:], flush=jnp.ones(2, bool))
    expected = np.asarray(call(x))
    given = int(state["cache"]["steps"][0])
    rest = int(updates["cache"]["steps"][0])
    assert given + rest == expected.shape[1]
    assert_equal(np.concatenate([first[:, :given], last[:, :rest]], 1), expected)
    assert_equal(updates["cache"]["history"], 0)  # They begin anew.


@pytest.mark.parametrize("is_converted", [False, True])
def test_states_that_are_handed_on(is_converted):
    x = batch(L=12)
    layer = layer_of("SeparableConv1D", Int8(), padding="causal", dtype=jnp.bfloat16)
    call, _ = compiled(layer, x, is_converted)
    first, state = call(x[:, :7], return_state=True)
    assert_equal(state.history, x[:, 4:7].astype(jnp.bfloat16))
    second, _ = call(x[:, 7:], initial_state=state, return_state=True)
    assert_equal(np.concatenate([first, second], 1), call(x))


def test_nnx_streams():
    x = batch(B=2, L=9)
    layer = fsc.nnx.SeparableConv1D(
        3, 5, 4, padding="causal", quantization=Int8(), rngs=nnx.Rngs(0)
    )
    layer(x)
    layer.eval()
    small = fsc.quantization.nnx.convert(layer)
    for each in (layer, small):
        expected = each(x)
        each.set_view(decode=True, batch_size=2)
        chunks = [each(x[:, first:last]) for first, last in ((0, 4), (4, 5), (5, 9))]
        assert_equal(np.concatenate(chunks, 1), expected)
        assert_equal(each.history[...], x[:, -3:])
