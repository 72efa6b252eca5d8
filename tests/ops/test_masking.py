"""The primitive that clears tails: in place, on several devices, in exported programs."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from flax_sepconv import ops
from flax_sepconv.ops import native
from flax_sepconv.ops.masking import zero_tails
from tests.conftest import DEVICES

N = np.array([3, 0, 7, 5], np.int32)
X = np.random.default_rng(0).standard_normal((4, 8, 6)).astype(np.float32)
EXPECTED = np.where(np.arange(8)[:, None] < N[:, None, None], X, 0)
with_native = pytest.mark.skipif(native.ABSENCE is not None, reason=str(native.ABSENCE))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_dtype_and_no_shape_at_all(dtype):
    with jax.enable_x64(True):
        x = jnp.asarray(X, dtype)
        expected = np.asarray(x) * (EXPECTED != 0)
        for function in (zero_tails, jax.jit(zero_tails)):
            np.testing.assert_array_equal(function(x, jnp.asarray(N)), expected)
        for shape in ((0, 8, 6), (4, 0, 6), (4, 8, 0)):
            n = jnp.zeros(shape[0], jnp.int32)
            assert zero_tails(jnp.ones(shape, dtype), n).shape == shape


def test_large_tails_are_shared_among_threads():
    x = np.random.default_rng(0).standard_normal((7, 500, 600)).astype(np.float32)
    n = np.array([500, 0, 499, 1, 250, -3, 777], np.int32)
    expected = np.where(np.arange(500)[:, None] < n[:, None, None], x, 0)
    np.testing.assert_array_equal(jax.jit(zero_tails)(x, n), expected)


def operations(function, *operands, **options):
    """Compile, and return the text of what is run one after the other; fusions are one."""
    text = jax.jit(function, **options).lower(*operands).compile().as_text()
    return text[text.index("ENTRY") :]


@with_native
def test_nothing_is_copied_where_the_operand_is_let_go():
    """In a network both calls of a layer are in place; an argument of the program is kept."""

    def network(x, n):
        k = jnp.ones((4, 6, 1), jnp.float32)
        for _ in range(3):
            x = ops.depthwise_conv1d(
                jnp.tanh(x), k, padding="same", lengths=n, implementation="shifted_sum"
            )
        return x

    text = operations(network, X, N)
    assert len(re.findall(r'custom_call_target="flax_sepconv_zero_tails"', text)) == 6
    assert " copy(" not in text
    assert " copy(" in operations(zero_tails, X, N)
    assert " copy(" not in operations(zero_tails, X, N, donate_argnums=0)


def test_elsewhere_it_is_a_select():
    for platform in ("cuda", "tpu"):
        traced = jax.jit(zero_tails).trace(X, N)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.select" in text
        assert "custom_call" not in text


def test_exported_programs_need_nothing_of_ours():
    """With open batch and length, too; what lengths are possible is then checked by nobody."""
    B, L = jax.export.symbolic_shape("B, L", constraints=["L >= 8"])
    k = np.random.default_rng(1).standard_normal((4, 6, 2)).astype(np.float32)
    shapes = jax.ShapeDtypeStruct((B, L, 6), jnp.float32), jax.ShapeDtypeStruct((B,), jnp.int32)
    for strides, padding in ((1, "same"), (3, "same"), (2, "valid"), (2, "causal")):
        layer = functools.partial(
            ops.depthwise_conv1d, depthwise_kernel=k, strides=strides, padding=padding
        )
        exported = jax.export.export(jax.jit(lambda x, n, layer=layer: layer(x, lengths=n)))(
            *shapes
        )
        assert "flax_sepconv" not in re.sub(r"loc\(.*", "", exported.mlir_module())
        x = np.concatenate([X, np.full((4, 4, 6), np.nan, np.float32)], 1)
        np.testing.assert_allclose(exported.call(x, N), layer(x, lengths=N), rtol=1e-5, atol=1e-5)


DIVISIONS = {
    "batch": (P("r"), P("r")),
    "batch by all": (P(("r", "c")), P(("r", "c"))),
    "both": (P("r", None, "c"), P("r")),
    "steps": (P(None, "r"), P()),
    "lengths everywhere": (P("r"), P()),
}


@pytest.mark.skipif(DEVICES != 4, reason="for a mesh of two by two devices")
@pytest.mark.parametrize("division", DIVISIONS)
def test_several_devices(division):
    mesh = jax.make_mesh((2, 2), ("r", "c"), axis_types=(AxisType.Auto,) * 2)
    x, n = (
        jax.device_put(array, jax.NamedSharding(mesh, spec))
        for array, spec in zip((X, N), DIVISIONS[division], strict=True)
    )
    compiled = jax.jit(zero_tails).lower(x, n).compile()
    np.testing.assert_array_equal(compiled(x, n), EXPECTED)
    if division != "steps":
        assert "all-gather" not in compiled.as_text()
        assert compiled(x, n).sharding.is_equivalent_to(x.sharding, 3)


@pytest.mark.skipif(DEVICES != 4, reason="for a mesh of two by two devices")
@pytest.mark.parametrize("spec", [P("r"), P("r", None, "c"), P()])
def test_explicit_meshes_and_manual_axes(spec):
    mesh = jax.make_mesh((2, 2), ("r", "c"), axis_types=(AxisType.Explicit,) * 2)
    own = P(*spec[:1])
    with jax.set_mesh(mesh):
        x, n = jax.device_put(X, spec), jax.device_put(N, own)
        y, pullback = jax.vjp(jax.jit(lambda x: zero_tails(x, n)), x)
        np.testing.assert_array_equal(y, EXPECTED)
        np.testing.assert_array_equal(pullback(y)[0], EXPECTED)
    mesh = jax.make_mesh((2, 2), ("r", "c"), axis_types=(AxisType.Auto,) * 2)
    manual = jax.jit(jax.shard_map(zero_tails, mesh=mesh, in_specs=(spec, own), out_specs=spec))
    np.testing.assert_array_equal(manual(X, N), EXPECTED)


@pytest.mark.skipif(DEVICES != 4, reason="for four devices")
@pytest.mark.parametrize("implementation", [None, "grouped_conv"])
def test_all_gradients_inside_and_outside_of_shard_map(implementation):
    """As in data parallelism: weights are whole, the batch is divided."""
    mesh = jax.make_mesh((4,), ("b",), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(2)
    shapes = ((4, 6, 2), (1, 12, 5), (5,))
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]

    def layer(x, weights, n):
        settings = {"padding": "same", "lengths": n, "implementation": implementation}
        return ops.separable_conv1d(x, *weights, **settings)

    def loss(x, weights, n):
        return (layer(x, weights, n) ** 2).sum()

    divided = functools.partial(jax.shard_map, mesh=mesh, in_specs=(P("b"), P(), P("b")))
    outside = divided(layer, out_specs=P("b"))
    inside = divided(jax.grad(loss, (0, 1)), out_specs=(P("b"), P()))
    one = jax.grad(loss, (0, 1))(X, weights, N)
    for all_of_them in (
        jax.grad(lambda x, weights: (outside(x, weights, N) ** 2).sum(), (0, 1))(X, weights),
        jax.jit(inside)(X, weights, N),
    ):
        for ours, theirs in zip(jax.tree.leaves(all_of_them), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)
