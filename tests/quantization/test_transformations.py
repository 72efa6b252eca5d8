"""Quantized layers inside of transformations, on several devices and in exports."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import flax_sepconv as fsc
from flax_sepconv.quantization import Int8
from tests.quantization.networks import assert_equal, batch, compiled, layer_of, observed


@pytest.mark.parametrize("axes", [("i",), (None, "i"), (None, None, "i")])
def test_divided_arrays(axes):
    """Batch, steps or channels on several devices, which the types of arrays tell."""
    mesh = jax.make_mesh((4,), ("i",), axis_types=(jax.sharding.AxisType.Explicit,))
    x = batch(B=4, L=24, C=4)
    layer = layer_of("SeparableConv1D", Int8(), padding="same")
    variables, y = observed(layer, x)
    converted = fsc.quantization.convert(layer, variables, x)
    with jax.set_mesh(mesh):
        divided = jax.device_put(x, jax.NamedSharding(mesh, jax.P(*axes)))
        whole = jax.device_put((variables, converted), jax.NamedSharding(mesh, jax.P()))

        @jax.jit
        def everything(variables, converted, x):
            rounded, updates = layer.apply(variables, x, mutable=["quantization"])
            return rounded, layer.apply(converted, x), updates["quantization"]

        *outputs, kept = everything(*whole, divided)
    for found in outputs:
        assert_equal(found, y)
    assert_equal(kept["x_high"], variables["quantization"]["x_high"])


def test_exports_of_any_length():
    x = batch(L=11)
    layer = layer_of("SeparableConv1D", Int8(learned=True))
    call, variables = compiled(layer, x)
    converted = fsc.quantization.convert(layer, variables, x)
    lengths = jax.export.symbolic_shape("b, l", constraints=["l >= 4"])
    for given in (variables, converted):
        exported = jax.export.export(jax.jit(functools.partial(layer.apply, given)))(
            jax.ShapeDtypeStruct((*lengths, 3), jnp.float32)
        )
        assert_equal(jax.export.deserialize(exported.serialize()).call(x), call(x))


@pytest.mark.parametrize("lift", ["scan", "vmap", "remat"])
def test_lifted_layers(lift):
    """Stacked layers have a range each, if the transformation is told of the collection."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _=None):
            y = fsc.SeparableConv1D(3, 4, padding="same", quantization=Int8(), name="conv")(x)
            return (y, None) if lift == "scan" else y

    axes, rngs = {"params": 0, "quantization": 0}, {"params": True}
    if lift == "scan":
        model = nn.scan(Block, variable_axes=axes, split_rngs=rngs, length=2)()
    elif lift == "vmap":
        model = nn.vmap(Block, variable_axes=axes, split_rngs=rngs, in_axes=None, axis_size=2)()
    else:
        model = nn.remat(Block)()
    x = batch()
    variables, y = observed(model, x)
    y = y[0] if lift == "scan" else y
    stacked = () if lift == "remat" else (2,)
    assert variables["quantization"]["conv"]["x_low"].shape == stacked
    converted = fsc.quantization.convert(model, variables, x)
    integers = jax.jit(model.apply)(converted, x)
    assert_equal(integers[0] if lift == "scan" else integers, y)
    assert converted["quantization"]["conv"]["depthwise_scale"].shape == (*stacked, 3, 1)
    assert converted["params"]["conv"]["bias"].dtype == jnp.int32
    if lift != "remat":
        unseen = {"params": variables["params"]}
        with pytest.raises(ValueError, match="conv has not observed"):
            model.apply(unseen, x)


def test_weights_that_a_scan_shares():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return fsc.SeparableConv1D(3, 4, padding="same", quantization=Int8())(x), None

    model = nn.scan(
        Block,
        variable_broadcast="params",
        variable_axes={"quantization": 0},
        split_rngs={"params": False},
        length=2,
    )()
    x = batch()

    @jax.jit
    def call(x):
        variables = model.init(jax.random.key(0), x, None)
        y, updates = model.apply(variables, x, None, mutable=["quantization"])
        return variables | updates, y

    variables, (y, _) = call(x)
    assert variables["quantization"]["SeparableConv1D_0"]["x_low"].shape == (2,)
    assert_equal(jax.jit(model.apply)(variables, x, None)[0], y)
    with pytest.raises(ValueError, match="must not be shared by the steps of an"):
        fsc.quantization.convert(model, variables, x, None)
