"""The layers, given their sequences in chunks."""

import functools

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_sepconv as fsc
from tests.streams import assert_close, cuts, operands, swapped

LAYERS = {
    "plain": {},
    "strided": {"strides": 3, "activation": "sigmoid"},
    "dilated, channels first": {"dilation_rate": 2, "data_format": "channels_first"},
    "multiplied": {"depth_multiplier": 2, "activation": "relu", "use_bias": False},
}


# The layers, with F and K.
BOTH = pytest.mark.parametrize(
    ("class_name", "sizes"), [("SeparableConv1D", (5, 4)), ("DepthwiseConv1D", (4,))]
)


def in_chunks(layer, x, sizes, **settings):
    """Yield a layer's outputs of chunks; `layer` takes a chunk and tells how many steps it gave."""
    S, data_format = settings.get("strides", 1), settings.get("data_format", "channels_last")
    for first, last in cuts(x.shape[1], sizes):
        y, steps = layer(swapped(x[:, first:last], data_format))
        y = swapped(np.asarray(y), data_format)
        yield y if S == 1 else y[:, : steps[0]]


@pytest.mark.parametrize("settings", LAYERS.values(), ids=LAYERS)
@BOTH
def test_linen_decodes(class_name, sizes, settings):
    x, *_ = operands(4, 1)
    layer = getattr(fsc, class_name)(*sizes, padding="causal", **settings)
    decoding = layer.clone(decode=True)
    data_format = settings.get("data_format", "channels_last")
    whole = swapped(x, data_format)
    variables = decoding.init(jax.random.key(0), swapped(x[:, :1], data_format))
    np.testing.assert_array_equal(variables["cache"]["history"], 0)
    reference = np.asarray(layer.apply({"params": variables["params"]}, whole))
    reference = swapped(reference, data_format)

    def chunk(x):
        nonlocal variables
        y, updates = decoding.apply(variables, x, mutable=["cache"])
        variables = variables | updates
        return y, updates["cache"].get("steps")

    outputs = list(in_chunks(chunk, x, (1, 4, 2, 7), **settings))
    assert_close(np.concatenate(outputs, 1), reference, 2e-6)
    # A call without a cache begins.
    y, updates = decoding.apply({"params": variables["params"]}, whole, mutable=["cache"])
    assert_close(swapped(np.asarray(y), data_format), reference)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(
        jnp.shape, {"cache": variables["cache"]}
    )


@pytest.mark.parametrize("settings", LAYERS.values(), ids=LAYERS)
@BOTH
def test_nnx_decodes(class_name, sizes, settings):
    x, *_ = operands(4, 1)
    make = getattr(fsc.nnx, class_name)
    layer = make(4, *sizes, padding="causal", **settings, rngs=nnx.Rngs(0))
    data_format = settings.get("data_format", "channels_last")
    reference = swapped(layer(swapped(x, data_format)), data_format)
    decoding = nnx.view(layer, decode=True, batch_size=3)
    assert not layer.decode

    @nnx.jit
    def chunk(layer, x):
        y = layer(x)
        return y, None if layer.steps is None else layer.steps[...]

    for _ in range(2):
        outputs = list(in_chunks(functools.partial(chunk, decoding), x, (1, 4, 2, 7), **settings))
        assert_close(np.concatenate(outputs, 1), reference, 2e-6)
        decoding.init_cache(swapped(x, data_format).shape)  # Anew.
    assert set(nnx.state(layer, nnx.Cache)) == set()
    assert "history" in nnx.state(decoding, nnx.Cache)


def test_layers_reset_and_take_lengths():
    """Zeros behind the ends, though the activation makes something of zeros."""
    x, *_ = operands(4, 1)
    settings = {"padding": "causal", "strides": 2, "activation": "sigmoid"}
    layer = fsc.SeparableConv1D(5, 4, **settings)
    params = {"params": layer.init(jax.random.key(0), x)["params"]}
    decoding = layer.clone(decode=True)
    _, cache = decoding.apply(params, x[:, :7], mutable=["cache"])
    call = {"lengths": jnp.array([16, 3, 0]), "reset": jnp.array([True, False, False])}
    y, updates = decoding.apply(params | cache, x[:, 7:], **call, mutable=["cache"])
    expected = [
        layer.apply(params, x[0, 7:]),
        layer.apply(params, x[1, :10])[4:],
        np.zeros((0, 5), np.float32),
    ]
    for b in range(3):
        n = int(updates["cache"]["steps"][b])
        assert_close(y[b, :n], expected[b], 2e-6)
        np.testing.assert_array_equal(y[b, n:], 0)
    twin = fsc.nnx.SeparableConv1D(4, 5, 4, **settings, decode=True, rngs=nnx.Rngs(0))
    nnx.update(twin, params["params"])
    twin.init_cache(x.shape)
    twin(x[:, :7])
    np.testing.assert_allclose(twin(x[:, 7:], **call), y, rtol=1e-6)
    for name, array in updates["cache"].items():
        np.testing.assert_array_equal(getattr(twin, name)[...], array)


def test_layers_take_and_return_states():
    x, *_ = operands(4, 1)
    linen = fsc.SeparableConv1D(5, 4, padding="causal", activation="tanh")
    params = linen.init(jax.random.key(0), x)
    twin = fsc.nnx.SeparableConv1D(4, 5, 4, padding="causal", activation="tanh", rngs=nnx.Rngs(0))
    nnx.update(twin, params["params"])
    for call in (functools.partial(linen.apply, params), twin):
        first, state = call(x[:, :9], return_state=True)
        second = call(x[:, 9:], initial_state=state)
        assert_close(np.concatenate([first, second], 1), call(x), 2e-6)


def test_a_stack_of_layers_decodes_under_scan():
    class Stack(nn.Module):
        decode: bool = False

        @nn.compact
        def __call__(self, x):
            for dilation in (1, 2, 4):
                x = fsc.SeparableConv1D(
                    4,
                    3,
                    padding="causal",
                    dilation_rate=dilation,
                    activation="relu",
                    decode=self.decode,
                )(x)
            return x

    x, *_ = operands(4, 1, L=24)
    variables = Stack(decode=True).init(jax.random.key(0), x[:, :4])
    params, cache = variables["params"], variables["cache"]

    def step(cache, chunk):
        y, updates = Stack(decode=True).apply(
            {"params": params, "cache": cache}, chunk, mutable=["cache"]
        )
        return updates["cache"], y

    _, y = jax.lax.scan(step, cache, jnp.moveaxis(x.reshape(3, 6, 4, 4), 1, 0))
    whole = Stack().apply({"params": params}, x)
    assert_close(np.moveaxis(y, 0, 1).reshape(3, 24, 4), whole, 2e-6)


def test_layers_refuse_what_cannot_be_streamed():
    x, *_ = operands(4, 1)
    with pytest.raises(ValueError, match=r"padding must be 'causal'.*\(decode=True\), got 'same'"):
        fsc.SeparableConv1D(5, 4, strides=2, padding="same", decode=True)
    with pytest.raises(ValueError, match=r"padding must be 'causal'.*\(decode=True\), got 'refl"):
        fsc.nnx.SeparableConv1D(4, 5, 4, padding="reflect", decode=True, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="decode must be True or False, got 1"):
        fsc.SeparableConv1D(5, 4, padding="causal", decode=1)
    layer = fsc.SeparableConv1D(5, 4, padding="causal")
    params = layer.init(jax.random.key(0), x)
    decoding = layer.clone(decode=True)
    _, state = layer.apply(params, x, return_state=True)
    _, cache = decoding.apply(params, x, mutable=["cache"])
    with pytest.raises(ValueError, match="reset is for decode=True"):
        layer.apply(params, x, reset=jnp.array([True, False, True]))
    with pytest.raises(ValueError, match="initial_state and return_state are for decode=False"):
        decoding.apply(params, x, initial_state=state, mutable=["cache"])
    with pytest.raises(flax.errors.ModifyScopeVariableError):
        decoding.apply(params | cache, x)
    with pytest.raises(ValueError, match=r"batch is \(3,\), not \(2,\)"):
        decoding.apply(params | cache, x[:2], mutable=["cache"])
    softmax = layer.clone(activation={"class_name": "softmax", "config": {"axis": 1}})
    with pytest.raises(ValueError, match="streams need an activation of each step alone"):
        softmax.apply(params, x, return_state=True)
    twin = fsc.nnx.SeparableConv1D(4, 5, 4, padding="causal", decode=True, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="call init_cache first"):
        twin(x)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
@pytest.mark.parametrize("settings", [{"padding": "same"}, {"padding": (0, 3), "strides": 2}])
@BOTH
def test_layers_look_ahead(class_name, sizes, kind, settings):
    x, *_ = operands(4, 1)
    settings = settings | {"activation": "sigmoid"}
    layer = getattr(fsc, class_name)(*sizes, **settings)
    params = layer.init(jax.random.key(0), x)
    expected, outputs = layer.apply(params, x), []
    if kind == "nnx":
        twin = getattr(fsc.nnx, class_name)
        twin = twin(4, *sizes, **settings, decode=True, rngs=nnx.Rngs(0))
        nnx.update(twin, jax.tree.map(nnx.Param, params["params"]))
        twin.init_cache((3, 1, 4))
    variables = params
    for first, last in ((0, 1), (1, 12), (12, 23)):
        chunk, flush = x[:, first:last], True if last == 23 else None
        if kind == "nnx":
            y, steps = twin(chunk, flush=flush), twin.steps[...]
        else:
            y, updates = layer.clone(decode=True).apply(
                variables, chunk, flush=flush, mutable=["cache"]
            )
            variables, steps = params | updates, updates["cache"]["steps"]
        assert not np.asarray(y[:, steps[0] :]).any()
        outputs.append(y[:, : steps[0]])
    assert_close(np.concatenate(outputs, 1), expected, 2e-6)
    with pytest.raises(ValueError, match="flush is for decode=True"):
        layer.apply(params, x, flush=True)


class Jasper(nn.Module):
    """A network like QuartzNet: strides first, then layers that see ahead, each its own delay."""

    decode: bool = False

    LAYERS = (
        {"filters": 6, "kernel_size": 5, "strides": 2, "padding": (2, 2)},
        {"filters": 6, "kernel_size": 7, "padding": "same", "activation": "relu"},
        {"filters": 5, "kernel_size": 3, "dilation_rate": 2, "padding": (3, 1)},
    )

    @nn.compact
    def __call__(self, x, lengths, flush=None):
        for settings in self.LAYERS:
            layer = fsc.SeparableConv1D(**settings, decode=self.decode)
            if self.decode:
                x = layer(x, lengths, flush=flush)
                lengths = layer.get_variable("cache", "steps")
            else:
                x = layer(x, lengths)
                sizes = layer.kernel_size, layer.strides, layer.padding, layer.dilation_rate
                lengths = fsc.ops.output_length(lengths, *sizes)
        return x, lengths


def test_a_network_looks_ahead():
    """Streams that end at different times, each as its whole sequence; and how late steps come."""
    ends = np.array([41, 18, 30])
    x = np.random.default_rng(0).standard_normal((3, 48, 4)).astype(np.float32)
    params = Jasper().init(jax.random.key(0), x, ends)
    expected, counts = Jasper().apply(params, x, jnp.array(ends))
    delay = fsc.stream_delay([fsc.SeparableConv1D(**each) for each in Jasper.LAYERS], 4)
    assert (delay.delay, delay.strides) == (2 + 2 * 3 + 2 * 1, 2)
    network, variables = Jasper(decode=True), params
    step = jax.jit(lambda v, *inputs: network.apply(v, *inputs, mutable=["cache"]))
    said = [np.zeros((0, 5))] * 3
    for first in range(0, 48, 6):
        n = np.clip(ends - first, 0, 6)
        flush = (first < ends) & (ends <= first + 6)
        (y, steps), updates = step(variables, x[:, first : first + 6], n, flush)
        variables = params | updates
        for b in range(3):
            said[b] = np.concatenate([said[b], y[b, : steps[b]]])
            heard = first + 6
            if heard < ends[b]:  # Exactly the steps that the delay allows.
                assert len(said[b]) == max(0, -(-(heard - delay.delay) // 2))
    assert sum(cache["history"][0].size for cache in variables["cache"].values()) == delay.state
    for b in range(3):
        assert_close(said[b], expected[b, : counts[b]], 3e-6)


def test_a_residual_waits_for_its_layer():
    """A Conformer's convolution module: gate, depthwise convolution, and what goes past it."""
    x = np.random.default_rng(0).standard_normal((2, 40, 6)).astype(np.float32)
    expand = np.random.default_rng(1).standard_normal((6, 12)).astype(np.float32) / 3
    layer = fsc.DepthwiseConv1D(15, padding="same", activation="silu")
    params = layer.init(jax.random.key(0), x)

    def gated(x):
        return jax.nn.glu(x @ expand)

    whole = x + layer.apply(params, gated(x))
    decoding, variables, outputs = layer.clone(decode=True), params, []
    delay = fsc.stream_delay([layer], 6).delay
    waiting = x[:, :0]  # What has come and has not gone past yet.
    for first, last in ((0, 5), (5, 20), (20, 40)):
        flush = True if last == 40 else None
        chunk = x[:, first:last]
        y, updates = decoding.apply(variables, gated(chunk), flush=flush, mutable=["cache"])
        variables, steps = params | updates, int(updates["cache"]["steps"][0])
        waiting = np.concatenate([waiting, chunk], 1)
        outputs.append(waiting[:, :steps] + y[:, :steps])
        waiting = waiting[:, steps:]
        assert waiting.shape[1] == (0 if flush else min(last, delay))
    assert_close(np.concatenate(outputs, 1), whole, 2e-6)
