"""Everything that a layer does beside its sums, where it is quantized: linen and nnx."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import flax_sepconv as fsc
from flax_sepconv.quantization import Int8
from tests.quantization.networks import (
    LINEN,
    assert_equal,
    batch,
    compiled,
    drawn,
    layer_of,
    observed,
)
from tests.streams import assert_close, swapped

BOTH = pytest.mark.parametrize("name", LINEN)
FORMS = pytest.mark.parametrize("is_converted", [False, True], ids=["rounded", "converted"])


@pytest.mark.parametrize(
    ("name", "is_converted"), [("SeparableConv1D", True), ("DepthwiseConv1D", False)]
)
def test_lengths_and_segments(name, is_converted):
    x, lengths = batch(B=2), jnp.array([8, 19])
    for options in ({"padding": "same", "strides": 2}, {"padding": "causal", "activation": "gelu"}):
        call, _ = compiled(layer_of(name, Int8(), **options), x, is_converted)
        y = call(x, lengths)
        for row, length in enumerate(lengths):
            alone = call(x[row : row + 1, :length])
            # Of other shapes the activation may have another last bit.
            assert_close(y[row : row + 1, : alone.shape[1]], alone, 1e-6)
            assert_equal(y[row, alone.shape[1] :], 0)
    ids = jnp.array([[0] * 8 + [1] * 11] * 2)
    y = call(x, segment_ids=ids)
    assert_close(y, np.concatenate([call(x[:, :8]), call(x[:, 8:])], 1), 1e-6)


@FORMS
@pytest.mark.parametrize("kind", ["static", "dynamic", "dynamic_per_example"])
def test_batch_dimensions_and_the_axis_order(kind, is_converted):
    x = batch(B=4)
    layer = layer_of("SeparableConv1D", Int8(activations=kind), padding="same")
    call, variables = compiled(layer, x, is_converted)

    @jax.jit
    def others(variables, x):
        first = layer.clone(data_format="channels_first")
        each = jax.vmap(lambda x: layer.apply(variables, x[None])[0])(x)
        more = layer.apply(variables, x.reshape(2, 2, 19, 3))
        return first.apply(variables, x.swapaxes(1, 2)).swapaxes(1, 2), more, each

    y = call(x)
    first, more, each = others(variables, x)
    assert_close(first, y, 1e-6)
    assert_close(more, y.reshape(2, 2, 19, 5), 1e-6)
    # Under vmap a call is one example.
    is_same = np.abs(each - y).max() <= 1e-6 * np.abs(y).max()
    assert is_same == (kind != "dynamic")


@pytest.mark.parametrize(
    ("name", "dtype"), [("SeparableConv1D", jnp.bfloat16), ("DepthwiseConv1D", jnp.float16)]
)
def test_narrow_types_are_computed_in_float32(name, dtype):
    """The input is rounded to the type, and the result; weights and what is between are not."""
    x, layer = batch(), layer_of(name, Int8(), padding="same")
    narrow = layer.clone(dtype=dtype)
    near = np.asarray(x.astype(dtype), np.float32)
    variables, y = observed(layer, near)
    apply = jax.jit(narrow.apply)
    found = apply(variables, x)
    assert found.dtype == dtype
    assert_equal(found, y.astype(dtype))
    converted = fsc.quantization.convert(narrow, variables, x)
    assert_equal(apply(converted, x), found)
    # 16-bit inputs without a dtype are promoted to that of the parameters, converted ones too.
    for kept in (variables, converted):
        assert jax.eval_shape(layer.apply, kept, x.astype(dtype)).dtype == jnp.float32


def test_what_does_not_go_together():
    x, static = batch(), layer_of("SeparableConv1D", Int8(), padding="causal")
    variables, _ = observed(static, x)
    dynamic = static.clone(quantization=Int8(activations="dynamic"))
    params = {"params": variables["params"]}
    with pytest.raises(ValueError, match="streams and quantization with activations='dynamic' do"):
        dynamic.apply(params, x, return_state=True)
    with pytest.raises(ValueError, match="out_sharding does not go together with quantization"):
        static.apply(variables, x, out_sharding=jax.P())
    ids = jnp.zeros((3, 19), jnp.int32)
    state = fsc.ops.initial_state(x.shape, (4, 3, 1), segments=2)
    with pytest.raises(ValueError, match="segment_ids with states do not go together"):
        static.apply(variables, x, segment_ids=ids, initial_state=state, return_state=True)
    converted = fsc.quantization.convert(static, variables, x)
    with pytest.raises(ValueError, match="has weights of int8 and quantization=None"):
        static.clone(quantization=None).apply(converted, x)
    with pytest.raises(ValueError, match="has weights of int8, and not depthwise_scale, pointwise"):
        static.apply({"params": converted["params"]}, x)
    for kind in ("dynamic", None):
        with pytest.raises(
            ValueError, match=f"other activations than {kind!r}: its bias is of int"
        ):
            static.clone(quantization=Int8(activations=kind)).apply(converted, x)
    with pytest.raises(ValueError, match="and not output_scale, output_zero_point: give it all"):
        static.clone(quantization=Int8(output=True)).apply(converted, x)
    without = fsc.quantization.convert(dynamic, params, x)
    with pytest.raises(ValueError, match="and not x_scale, x_zero_point, hidden_scale"):
        static.apply(without, x)
    with pytest.raises(ValueError, match="lengths must be from 0 to"):
        static.apply(variables, x, [20, 1, 1])
    # The weights alone go together with everything.
    alone = static.clone(quantization=Int8(activations=None))
    y, _ = alone.apply(params, x, segment_ids=ids, initial_state=state, return_state=True)
    assert y.shape == (3, 19, 5)


def test_losses_and_weights_that_do_not_train():
    x = batch()
    layer = layer_of(
        "SeparableConv1D",
        Int8(learned=True),
        trainable=False,
        depthwise_regularizer="l2",
        activity_regularizer="l1",
    )
    variables = drawn(layer, x)
    assert "params" not in variables
    assert "hidden_scale" in variables["non_trainable"]
    _, updates = layer.apply(variables, x, mutable=["quantization", "losses"])
    assert set(updates["losses"]) == {"depthwise_kernel_loss", "activity"}
    converted = fsc.quantization.convert(layer, variables | updates, x)
    converted.pop("losses")
    assert "hidden_scale" not in converted["non_trainable"]
    assert converted["non_trainable"]["depthwise_kernel"].dtype == jnp.int8
    _, updates = layer.apply(converted, x, mutable=["losses"])
    assert set(updates["losses"]) == {"activity"}


def test_constraints_act_before_weights_are_rounded():
    x, config = batch(), Int8(learned=True)
    layer = layer_of("SeparableConv1D", config, depthwise_constraint="non_neg")
    variables, _ = observed(layer, x)
    constraints = fsc.constraints_of(layer, jax.random.key(0), x)
    assert constraints["x_scale"] is None
    assert constraints["depthwise_kernel"] is not None
    tx = optax.chain(optax.sgd(0.5), fsc.keep_params_constrained(constraints))
    opt_state = tx.init(variables["params"])

    @jax.jit
    def step(variables, opt_state):
        def loss(params):
            y, updates = layer.apply(variables | {"params": params}, x, mutable=["quantization"])
            return jnp.mean((y - 1) ** 2), updates

        gradients, updates = jax.grad(loss, has_aux=True)(variables["params"])
        changes, opt_state = tx.update(gradients, opt_state, variables["params"])
        params = optax.apply_updates(variables["params"], changes)
        return variables | updates | {"params": params}, opt_state

    assert variables["params"]["depthwise_kernel"].min() < 0
    variables, opt_state = step(variables, opt_state)
    assert variables["params"]["depthwise_kernel"].min() == 0
    converted = fsc.quantization.convert(layer, variables, x)
    assert converted["params"]["depthwise_kernel"].min() == 0
    assert_equal(layer.apply(converted, x), layer.apply(variables, x))


def test_without_quantization_the_programs_are_as_they_were():
    x = batch()
    layer = fsc.SeparableConv1D(5, 4, padding="same", activation="gelu")
    variables = drawn(layer, x)

    def plain(variables, x):
        p = variables["params"]
        kernels = p["depthwise_kernel"], p["pointwise_kernel"], p["bias"]
        return jax.nn.gelu(fsc.ops.separable_conv1d(x, *kernels, padding="same"), approximate=False)

    assert str(jax.make_jaxpr(layer.apply)(variables, x)) == str(
        jax.make_jaxpr(plain)(variables, x)
    )


@pytest.mark.parametrize(
    ("name", "config", "options"),
    [
        ("SeparableConv1D", Int8(), {"padding": "same", "strides": 2}),
        (
            "SeparableConv1D",
            Int8(learned=True, output=True, symmetric=True),
            {"data_format": "channels_first"},
        ),
        (
            "DepthwiseConv1D",
            Int8(activations="dynamic"),
            {"dtype": jnp.bfloat16, "trainable": False},
        ),
        ("DepthwiseConv1D", Int8(activations=None, warmup=1), {"use_bias": False}),
    ],
)
def test_nnx_is_linen(name, config, options):
    x = swapped(batch(), options.get("data_format", "channels_last"))
    linen = getattr(fsc, name)(*LINEN[name], quantization=config, **options)
    layer = getattr(fsc.nnx, name)(
        3, *LINEN[name], quantization=config, **options, rngs=nnx.Rngs(1)
    )
    kind = nnx.Param if options.get("trainable", True) else fsc.nnx.NonTrainable
    collection = "params" if options.get("trainable", True) else "non_trainable"
    variables = {collection: nnx.to_pure_dict(nnx.state(layer, kind))}
    kept = nnx.to_pure_dict(nnx.state(layer, fsc.nnx.QuantizationState))
    if kept:
        variables["quantization"] = kept
    shapes = jax.tree.map(jnp.shape, drawn(linen, x))
    assert shapes == jax.tree.map(jnp.shape, variables)
    layer.train()
    call = nnx.jit(lambda layer, x: layer(x))
    observe = jax.jit(functools.partial(linen.apply, mutable=["quantization"]))
    apply = jax.jit(linen.apply)
    for _ in range(2):
        y = call(layer, x)
        expected, updates = observe(variables, x)
        variables = variables | updates
        assert_equal(y, expected)
    layer.eval()
    before = nnx.to_pure_dict(nnx.state(layer, fsc.nnx.QuantizationState))
    assert_equal(call(layer, 2 * x), apply(variables, 2 * x))
    after = nnx.to_pure_dict(nnx.state(layer, fsc.nnx.QuantizationState))
    assert jax.tree.map(float, after) == jax.tree.map(float, before)
    small = fsc.quantization.nnx.convert(layer)
    converted = fsc.quantization.convert(linen, variables, x)
    integers = {**nnx.to_pure_dict(nnx.state(small, kind))}
    assert integers.keys() == converted[collection].keys()
    for weight, array in converted[collection].items():
        assert_equal(integers[weight], array)
        assert integers[weight].dtype == array.dtype
    assert_equal(call(small, x), apply(converted, x))
