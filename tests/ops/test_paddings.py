"""Every padding of Flax' own `nn.Conv`, judged by it; and that nothing is copied for it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.test_util import check_grads

import flax_sepconv as fsc
from flax_sepconv import ops
from flax_sepconv.ops import edges
from flax_sepconv.ops.tuning import command
from flax_sepconv.ops.tuning.models import problems_of
from tests import oracle
from tests.conftest import DEVICES

# L, K, S, D, padding as Flax takes it
CASES = [
    (23, 4, 1, 1, 2),
    (24, 5, 2, 1, [1]),
    (23, 4, 3, 1, [(1, 4)]),
    (12, 3, 2, 2, [(9, 0)]),  # the first steps see zeros alone
    (11, 4, 1, 3, [(0, 14)]),
    (5, 9, 1, 1, [(4, 4)]),
    (25, 4, 1, 2, "CAUSAL"),
    (24, 4, 2, 1, "CIRCULAR"),
    (25, 4, 1, 2, "CIRCULAR"),
    (41, 5, 3, 1, "CIRCULAR"),
    (24, 4, 2, 1, "REFLECT"),
    (25, 4, 1, 3, "REFLECT"),
    (41, 4, 3, 1, "REFLECT"),
    (3, 5, 2, 2, "CIRCULAR"),  # goes round more than once
    (3, 5, 1, 2, "REFLECT"),
    (1, 3, 1, 1, "REFLECT"),
]


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape)) for shape in shapes]


def of_flax(x, k, S, D, padding):
    K, C, M = k.shape
    conv = nn.Conv(
        C * M,
        (K,),
        strides=S,
        kernel_dilation=D,
        padding=padding,
        feature_group_count=C,
        use_bias=False,
    )
    return conv.apply({"params": {"kernel": k.reshape(K, 1, C * M)}}, x)


@pytest.mark.parametrize(
    ("L", "K", "S", "D", "padding", "few"),
    [(*case, 0) for case in CASES] + [(*case, 2**60) for case in CASES[7:13:2]],
    ids=str,
)
def test_flax_pads_alike(x64, monkeypatch, L, K, S, D, padding, few):
    """Also where what is beyond the ends is added from strips (few), which small rows do not."""
    monkeypatch.setattr(edges, "FEWEST_VALUES", few)

    def of_ours(x, k):
        return ops.depthwise_conv1d(x, k, strides=S, dilation_rate=D, padding=padding)

    @jax.jit
    def both(x, k, cotangent):
        found = []
        for function in (of_ours, lambda x, k: of_flax(x, k, S, D, padding)):
            y, back = jax.vjp(function, x, k)
            found.append((y, *back(cotangent)))
        return found

    steps = ops.output_length(L, K, S, padding, D)
    found, expected = both(*draw((2, L, 3), (K, 3, 2), (2, steps, 6)))
    assert found[0].shape == expected[0].shape
    for own, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, wanted, atol=1e-12)


@pytest.mark.parametrize("padding", ["circular", "reflect"])
def test_derivatives_of_what_is_added_from_strips(x64, monkeypatch, padding):
    monkeypatch.setattr(edges, "FEWEST_VALUES", 0)
    x, k, w, b = draw((2, 20, 2), (4, 2, 1), (1, 2, 3), (3,))

    @jax.jit
    def layer(x, k, w, b):
        return ops.separable_conv1d(x, k, w, b, strides=2, padding=padding)

    np.testing.assert_allclose(
        layer(x, k, w, b), oracle.separable(x, k, w, b, S=2, padding=padding), atol=1e-12
    )
    check_grads(layer, (x, k, w, b), order=2, modes=("rev",))
    mapped = jax.vmap(layer, in_axes=(0, None, None, None))(jnp.stack([x, 2 * x]), k, w, b)
    np.testing.assert_allclose(mapped[1], layer(2 * x, k, w, b), atol=1e-12)


@pytest.mark.parametrize("padding", ["circular", "reflect"])
def test_nothing_is_copied(padding):
    """A program needs no room for a second x, forward, and no more than zeros do, backward."""
    x = jax.ShapeDtypeStruct((4, 4096, 64), jnp.float32)
    weights = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((31, 64, 1), (1, 64, 64), (64,))]

    def room(padding, gradient):
        def layer(x, *weights):
            return ops.separable_conv1d(x, *weights, padding=padding)

        def loss(*operands):
            return (layer(*operands) ** 2).sum()

        asked = jax.grad(loss, argnums=(0, 1, 2, 3)) if gradient else layer
        compiled = jax.jit(asked).lower(x, *weights).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few = 2**18
    size = 4 * 4096 * 64 * 4
    assert room(padding, False) <= room("same", False) + few < size
    assert room(padding, True) <= room("same", True) + few


@pytest.mark.parametrize("padding", [(1, 4), "circular", "reflect"])
def test_layers_of_both_worlds(padding):
    (x,) = draw((2, 12, 3))
    x = x.astype(jnp.float32)
    settings = {"strides": 2, "padding": padding, "activation": "sigmoid"}
    layer = fsc.SeparableConv1D(5, 4, **settings)
    params = layer.init(jax.random.key(0), x)["params"]
    weights = [params["depthwise_kernel"], params["pointwise_kernel"], params["bias"]]
    n = np.array([12, 5])
    y = layer.apply({"params": params}, x.at[1, 5:].set(jnp.nan), lengths=n)
    for row, length in enumerate(n):
        alone = oracle.separable(x[row : row + 1, :length], *weights, S=2, padding=padding)[0]
        np.testing.assert_allclose(y[row, : len(alone)], 1 / (1 + np.exp(-alone)), atol=1e-6)
        assert not y[row, len(alone) :].any()
    other = fsc.nnx.SeparableConv1D(3, 5, 4, **settings, rngs=nnx.Rngs(0))
    nnx.update(other, {name: nnx.Param(value) for name, value in params.items()})
    np.testing.assert_array_equal(other(x), layer.apply({"params": params}, x))
    first = fsc.SeparableConv1D(5, 4, **settings, data_format="channels_first")
    swapped = first.apply({"params": params}, x.swapaxes(1, 2))
    np.testing.assert_allclose(swapped.swapaxes(1, 2), layer.apply({"params": params}, x), 1e-6)
    with pytest.raises(ValueError, match="padding must be one of 'valid', 'same', 'causal' for K"):
        layer.to_keras_config(2)


def test_segments_between_numbers_of_zeros(x64):
    x, k = draw((2, 14, 3), (4, 3, 2))
    ids = jnp.array([[0] * 9 + [1] * 5, [0] + [1] * 2 + [0] * 11])
    y = ops.depthwise_conv1d(x, k, padding=(1, 2), segment_ids=ids)
    for row, begin, end in ((0, 0, 9), (0, 9, 14), (1, 0, 1), (1, 1, 3), (1, 3, 14)):
        alone = oracle.depthwise(x[row : row + 1, begin:end], k, padding=(1, 2))
        np.testing.assert_allclose(y[row, begin:end], alone[0], atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"padding": (1, 1)}, r"segment_ids need padding .*D\*\(K-1\).*padding=\(1, 1\)"),
        ({"padding": "valid"}, r"segment_ids need padding .*padding='valid'"),
        ({"padding": "circular"}, "segment_ids and padding 'circular' do not go together"),
    ],
)
def test_segments_that_do_not_fit(settings, message):
    x, k = draw((2, 14, 3), (4, 3, 2))
    with pytest.raises(ValueError, match=message):
        ops.depthwise_conv1d(x, k, segment_ids=jnp.zeros((2, 14), int), **settings)


@pytest.mark.skipif(DEVICES != 4, reason="for a mesh of four devices")
@pytest.mark.parametrize(
    ("padding", "kind", "few"),
    [
        ((9, 6), AxisType.Auto, 0),
        ((9, 6), AxisType.Explicit, 0),
        ("circular", AxisType.Auto, 2**60),
        ("circular", AxisType.Explicit, 2**60),
        ("reflect", AxisType.Auto, 0),
        ("reflect", AxisType.Explicit, 0),
    ],
)
def test_on_meshes(monkeypatch, padding, kind, few):
    """The batch is divided, and the steps: what comes from the other end crosses devices."""
    monkeypatch.setattr(edges, "FEWEST_VALUES", few)
    x, k, w = (a.astype(jnp.float32) for a in draw((2, 16, 4), (4, 4, 1), (1, 4, 6)))

    def loss(x, k, w):
        return (ops.separable_conv1d(x, k, w, padding=padding) ** 2).sum()

    asked = jax.value_and_grad(loss, argnums=(0, 1, 2))
    expected = asked(x, k, w)
    for shape, spec in (((2,), jax.P("a")), ((4,), jax.P(None, "a"))):
        mesh = jax.make_mesh(shape, ("a",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            divided = jax.device_put(x, jax.NamedSharding(mesh, spec))
            if isinstance(padding, str) and kind == AxisType.Explicit and len(spec) > 1:
                with pytest.raises(ValueError, match="needs whole sequences on each device"):
                    jax.jit(asked)(divided, k, w)
                continue
            found = jax.jit(asked)(divided, k, w)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.skipif(DEVICES != 4, reason="for a mesh of four devices")
@pytest.mark.parametrize("padding", [(1, 2), (4, 3), "circular", "reflect"])
def test_sequences_that_end_on_meshes(padding):
    """With numbers of zeros the steps are divided, else the batch."""
    x, k, w, b = (a.astype(jnp.float32) for a in draw((4, 16, 4), (4, 4, 1), (1, 4, 6), (6,)))
    n = jnp.array([16, 0, 9, 3])

    def layer(x, k, w, b):
        return ops.separable_conv1d(x, k, w, b, strides=2, padding=padding, lengths=n)

    def asked(*operands):
        y, back = jax.vjp(layer, *operands)
        return y, back(y)

    expected = jax.jit(asked)(x, k, w, b)
    for row, length in enumerate(n):
        if length:
            alone = oracle.separable(x[row : row + 1, :length], k, w, b, 2, padding=padding)[0]
            np.testing.assert_allclose(expected[0][row, : len(alone)], alone, atol=2e-5)
    spec = jax.P("a") if isinstance(padding, str) else jax.P(None, "a")
    devices = 2 if padding == (4, 3) else 4  # of 10 and 8 output steps
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((devices,), ("a",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            found = jax.jit(asked)(jax.device_put(x, jax.NamedSharding(mesh, spec)), k, w, b)
        for own, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(own, wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("padding", [(1, 4), (9, 0), (0, 0), "circular"])
def test_tuning_knows_numbers_of_zeros(padding):
    x, k, w, b = draw((4, 16, 4), (4, 4, 1), (1, 4, 6), (6,))

    def layer(x, k, w, b, lengths=None):
        return ops.separable_conv1d(x, k, w, b, padding=padding, lengths=lengths)

    wanted = "valid" if isinstance(padding, str) or padding == (0, 0) else padding
    for operands in ((x, k, w, b), (x, k, w, b, jnp.array([16, 9, 3, 1]))):
        ((problem, _),), left_out = problems_of(layer, *operands)
        assert not left_out
        assert problem.padding == wanted
        assert command.shape(str(problem).removesuffix(" lengths")).padding == wanted


@pytest.mark.parametrize("padding", ["circular", "reflect"])
def test_lengths_that_are_symbols(padding):
    (length,) = jax.export.symbolic_shape("t", constraints=["t >= 8"])
    x, k = (a.astype(jnp.float32) for a in draw((2, 13, 3), (4, 3, 2)))

    @jax.jit
    def layer(x):
        return ops.depthwise_conv1d(x, k, padding=padding)

    exported = jax.export.export(layer)(jax.ShapeDtypeStruct((2, length, 3), jnp.float32))
    np.testing.assert_allclose(exported.call(x), layer(x), atol=1e-5)
    (length,) = jax.export.symbolic_shape("t")
    with pytest.raises(ValueError, match=r"L=t .*such as 't >= 3'"):
        jax.export.export(layer)(jax.ShapeDtypeStruct((2, length, 3), jnp.float32))
