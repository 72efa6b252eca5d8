"""What the operation on integers is called with: sequences, streams, layouts, transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from flax_sepconv import ops
from tests.quantized.test_operation import problem

separable = ops.quantized_separable_conv1d
depthwise = ops.quantized_depthwise_conv1d


def arrays(seed=0, **more):
    operands, ours, _ = problem("plain", seed)
    return operands, ours | more


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize(
    "given",
    [{"padding": "valid"}, {"padding": "same", "strides": 3}, {"padding": "causal"},
     {"padding": (1, 2), "strides": 2}, {"padding": "circular"}, {"padding": "reflect"}],
)  # fmt: skip
def test_sequences_that_end_have_the_result_that_they_have_alone(given, real):
    (x, *weights), settings = arrays(**given)
    if real:
        settings |= {"output_scale": None, "output_zero_point": 0}
    lengths = np.array([7, 16])
    y = separable(x, *weights, lengths=lengths, **settings)
    zero = 0 if real else settings["output_zero_point"]
    for row, length in enumerate(lengths):
        alone = separable(x[row : row + 1, :length], *weights, **settings)
        steps = alone.shape[1]
        np.testing.assert_array_equal(y[row, :steps], alone[0])
        np.testing.assert_array_equal(y[row, steps:], zero)
        assert steps < y.shape[1]


@pytest.mark.parametrize(
    "given",
    [{"padding": "causal"}, {"padding": "causal", "strides": 2},
     {"padding": "causal", "dilation_rate": 3}, {"padding": (1, 2)}],
)  # fmt: skip
def test_chunks_have_the_result_of_the_whole(given):
    (x, *weights), settings = arrays(**given)
    whole = separable(x, *weights, **settings)
    geometry = {k: v for k, v in settings.items() if k in ("strides", "dilation_rate", "padding")}
    state = ops.initial_state(x.shape, weights[0].shape, dtype="int8", **geometry)
    got, begin = [], 0
    for size in (1, 6, 2, 10):
        chunk = x[:, begin : begin + size]
        begin += size
        y, state = separable(chunk, *weights, initial_state=state, return_state=True, **settings)
        assert state.history.dtype == jnp.int8
        steps = y.shape[1] if state.steps is None else int(state.steps[0])
        got.append(y[:, :steps])
    together = np.concatenate(got, 1)
    np.testing.assert_array_equal(together, whole[:, : together.shape[1]])
    assert together.shape[1] >= whole.shape[1] - 2


def test_layouts_and_batch_dimensions():
    (x, *weights), settings = arrays()
    y = separable(x, *weights, **settings)
    first = separable(x.swapaxes(1, 2), *weights, data_format="channels_first", **settings)
    np.testing.assert_array_equal(first.swapaxes(1, 2), y)
    np.testing.assert_array_equal(separable(x[0], *weights, **settings), y[0])
    more = separable(np.stack([x, x])[:, :, None], *weights, **settings)
    np.testing.assert_array_equal(more, np.stack([y, y])[:, :, None])


@pytest.mark.parametrize(("padding", "mode"), [("circular", "wrap"), ("reflect", "reflect")])
def test_paddings_from_the_sequence(padding, mode):
    (x, *weights), settings = arrays()
    around = np.pad(x, ((0, 0), (1, 2), (0, 0)), mode=mode)
    expected = separable(around, *weights, **settings)
    y = separable(x, *weights, **settings | {"padding": padding})
    np.testing.assert_array_equal(y, expected)


def test_real_numbers_are_rounded_to_integers_first():
    (x, *weights), settings = arrays()
    scale, zero = settings["x_scale"], settings["x_zero_point"]
    real = (x.astype(np.float32) - zero) * np.float32(scale)
    y = separable(x, *weights, **settings)
    np.testing.assert_array_equal(separable(real, *weights, **settings), y)
    beyond = np.where(x == 127, np.inf, np.where(x == -128, -np.inf, real)).astype(np.float32)
    np.testing.assert_array_equal(separable(beyond, *weights, **settings), y)
    nothing = np.where(x == zero, np.nan, real)
    np.testing.assert_array_equal(separable(nothing, *weights, **settings), y)
    float_result = settings | {"output_scale": None, "output_zero_point": 0}
    half = separable(jnp.asarray(real, jnp.bfloat16), *weights, **float_result)
    assert half.dtype == jnp.bfloat16
    wide = separable(x, *weights, preferred_element_type="float16", **float_result)
    assert wide.dtype == jnp.float16


SYMMETRIC = {"x_zero_point": 0, "hidden_zero_point": 0}


@pytest.mark.parametrize("kind", ["dynamic", "dynamic_per_example"])
@pytest.mark.parametrize("lengths", [None, (7, 16)])
def test_scales_that_are_found(kind, lengths):
    (x, kernel, *weights), settings = arrays(**SYMMETRIC)
    real = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    ends = (x.shape[1],) * 2 if lengths is None else lengths
    settings |= {"lengths": None if lengths is None else np.array(lengths), "padding": "causal"}
    each = kind == "dynamic_per_example"

    def scale(values):
        most = [abs(row[:end]).max() for row, end in zip(values, ends, strict=True)]
        most = np.array(most if each else max(most), np.float32)
        return most * np.float32(1 / 127)

    given = settings | {"x_scale": kind, "hidden_scale": kind}
    y = separable(real, kernel, *weights, **given)
    x_scale = scale(real)
    first = {k: v for k, v in settings.items() if "hidden" not in k and "pointwise" not in k}
    first |= {"x_scale": x_scale, "output_scale": None, "output_zero_point": 0}
    hidden_scale = scale(np.asarray(depthwise(real, kernel, **first)))
    known = settings | {"x_scale": x_scale, "hidden_scale": hidden_scale}
    np.testing.assert_array_equal(separable(real, kernel, *weights, **known), y)
    assert np.unique(y).size > 50
    zeros = separable(np.zeros_like(real), kernel, *weights, **given)
    assert np.isfinite(zeros).all()


def test_what_is_not_finite_leaves_the_others_their_steps():
    (x, *weights), settings = arrays(**SYMMETRIC)
    real = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    given = settings | {"x_scale": "dynamic"}
    whole = separable(real, *weights, **given)
    spoiled = real.copy()
    spoiled[0, 3, 0], spoiled[0, 5, 1] = np.nan, np.inf
    most = abs(real).max() == abs(real[1]).max()
    y = separable(spoiled, *weights, **given)
    if most:
        np.testing.assert_array_equal(y[1], whole[1])
    apart = np.abs(np.int32(y[1]) - whole[1])
    assert apart.max() <= 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_alone(dtype):
    (x, kernel, weights, _), settings = arrays()
    real = jnp.asarray(x, dtype) / 100
    bias = np.arange(7, dtype=np.float32)
    scales = {name: settings[name] for name in ("depthwise_scale", "pointwise_scale")}
    given = scales | {"x_scale": None, "hidden_scale": None, "padding": "same"}
    y = separable(real, kernel, weights, bias, activation="relu6", **given)
    whole = (kernel * np.float32(0.01)).astype(dtype), (weights * np.float32(0.03)).astype(dtype)
    expected = jnp.clip(ops.separable_conv1d(real, *whole, bias, padding="same"), 0, 6)
    np.testing.assert_array_equal(y, expected)
    expected = ops.depthwise_conv1d(real, whole[0], padding="same")
    scale = given["depthwise_scale"]
    y = depthwise(real, kernel, x_scale=None, depthwise_scale=scale, padding="same")
    np.testing.assert_array_equal(y, expected)
    gradient = jax.grad(lambda real: separable(real, kernel, weights, **given).sum())(real)
    assert jnp.isfinite(gradient).all()
    assert gradient.any()


def test_mapped_axes():
    operands, settings = arrays()
    x, kernel, weights, bias = (np.stack([each, each[::-1]]) for each in operands)
    scales = np.array([[0.02, 0.03], [0.04, 0.01]], np.float32)  # for examples, mapped
    del settings["x_scale"]

    def one(x, kernel, weights, bias, scale):
        return separable(x, kernel, weights, bias, x_scale=scale, **settings)

    for axes in ((0, None, None, None, None), (0, 0, 0, 0, None), (None, 0, None, None, 0),
                 (0, None, None, None, 0)):  # fmt: skip
        whole = (x, kernel, weights, bias, scales)
        given = [o if axis == 0 else o[0] for o, axis in zip(whole, axes, strict=True)]
        y = jax.jit(jax.vmap(one, in_axes=axes))(*given)
        for i in range(2):
            own = (o[i] if axis == 0 else o for o, axis in zip(given, axes, strict=True))
            np.testing.assert_array_equal(y[i], one(*own))


def test_devices_that_share_the_batch():
    (x, *weights), settings = arrays()
    mesh = jax.make_mesh((2,), ("b",), axis_types=(jax.sharding.AxisType.Auto,))
    divided = jax.device_put(x, NamedSharding(mesh, PartitionSpec("b")))
    y = jax.jit(lambda x: separable(x, *weights, **settings))(divided)
    np.testing.assert_array_equal(y, separable(x, *weights, **settings))
    each = jax.shard_map(
        lambda x: separable(x, *weights, **settings),
        mesh=mesh,
        in_specs=PartitionSpec("b"),
        out_specs=PartitionSpec("b"),
    )
    np.testing.assert_array_equal(jax.jit(each)(divided), y)


def test_exports_for_accelerators_contract_bytes():
    (x, *weights), settings = arrays()
    b, steps = jax.export.symbolic_shape("b, l", constraints=["l >= 8"])
    types = jax.ShapeDtypeStruct((b, steps, 5), jnp.int8)
    exported = jax.export.export(
        jax.jit(lambda x: separable(x, *weights, **settings)), platforms=["cpu", "cuda", "tpu"]
    )(types)
    program = exported.mlir_module().splitlines()
    products = [line.split("->") for line in program if "= stablehlo.dot_general" in line]
    assert len(products) == 3  # one a platform
    for operands, result in products:
        assert operands.count("xi8>") == 2
        assert "xi32>" in result
    np.testing.assert_array_equal(exported.call(x), separable(x, *weights, **settings))


def test_no_derivatives():
    (x, *weights), settings = arrays(output_scale=None, output_zero_point=0)
    real = jnp.asarray(x, jnp.float32) / 50
    with pytest.raises(TypeError, match="has no derivative: train with the layers' quantization"):
        jax.grad(lambda real: separable(real, *weights, **settings).sum())(real)
    del settings["x_scale"]
    with pytest.raises(TypeError, match="has no derivative"):
        jax.grad(lambda s: separable(x, *weights, x_scale=s, **settings).sum())(0.02)
    # What does not depend on it has.
    y = separable(x, *weights, x_scale=0.02, **settings)
    gradient = jax.grad(lambda a: (a * separable(x, *weights, x_scale=0.02, **settings)).sum())(2.0)
    np.testing.assert_allclose(gradient, y.sum(), rtol=1e-5)
