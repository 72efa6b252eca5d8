"""Lengths that are symbols of `jax.export`: the same numbers, for every length there may be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sepconv import ops
from flax_sepconv.ops import geometry
from tests import oracle

PLATFORMS = ("cpu", "cuda", "tpu")
C, F = 3, 5
# K, S, D, M. Some steps are never read where S > D * (K - 1) + 1.
WINDOWS = [(7, 2, 1, 2), (4, 3, 1, 1), (9, 1, 2, 1), (3, 5, 1, 2), (3, 2, 3, 2)]


def operands(B, L, K, M):
    rng = np.random.default_rng(L)
    shapes = (B, L, C), (K, C, M), (1, C * M, F), (F,)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def exported(function, K, M, constraints=("t >= 17",), platforms=PLATFORMS):
    B, L = jax.export.symbolic_shape("b, t", constraints=constraints)
    shapes = (B, L, C), (K, C, M), (1, C * M, F), (F,)
    types = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    program = jax.export.export(jax.jit(function), platforms=platforms)(*types)
    return jax.export.deserialize(program.serialize())


@pytest.mark.parametrize("implementation", [None, "grouped_conv"])
@pytest.mark.parametrize("padding", geometry.PADDINGS)
@pytest.mark.parametrize(("K", "S", "D", "M"), WINDOWS)
def test_output_and_gradients(K, S, D, M, padding, implementation):
    settings = {"strides": S, "dilation_rate": D, "padding": padding}
    f = functools.partial(ops.separable_conv1d, implementation=implementation, **settings)

    def step(*arrays):
        y, vjp = jax.vjp(f, *arrays)
        return (y, *vjp(jnp.ones_like(y)))

    program = exported(step, K, M, platforms=("cpu",) if implementation else PLATFORMS)
    window = {"S": S, "D": D, "padding": padding}
    # One length for each remainder that the strides leave.
    for B, L in zip((2, 1, 3, 1, 2), range(19, 19 + S), strict=False):
        arrays = operands(B, L, K, M)
        y = oracle.separable(*arrays, **window)
        by_hand = (y, *oracle.separable_vjp(*arrays[:3], np.ones_like(y), **window))
        for actual, expected in zip(program.call(*arrays), by_hand, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_transforms_cut_unknown_lengths_into_frames():
    f = functools.partial(ops.depthwise_conv1d, padding="same", implementation="fft")
    B, L = jax.export.symbolic_shape("b, t")
    types = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((B, L, C), (7, C, 2))]
    program = jax.export.export(jax.jit(f), platforms=("cpu",))(*types)
    for L in (5, 3000):
        x, k = operands(2, L, 7, 2)[:2]
        expected = oracle.depthwise(x, k, padding="same")
        np.testing.assert_allclose(program.call(x, k), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", geometry.PADDINGS)
@pytest.mark.parametrize(("K", "S", "D", "M"), WINDOWS)
def test_known_lengths_are_padded_by_the_lowering(K, S, D, M, padding):
    f = functools.partial(ops.depthwise_conv1d, strides=S, dilation_rate=D, padding=padding)
    x, k = operands(2, 19, K, M)[:2]
    primitives = [eqn.primitive.name for eqn in jax.make_jaxpr(f)(x, k).eqns]
    assert "depthwise_conv1d" in primitives
    assert "pad" not in primitives


@pytest.mark.parametrize(("constraint", "D"), [("t >= 7", 2), ("t >= 4", 1)])
def test_shortest_length_must_be_known(constraint, D):
    f = functools.partial(ops.separable_conv1d, dilation_rate=D)
    message = rf"an output step remains must be known: .*L=t .*K=4, .*D={D}; .*'{constraint}'"
    with pytest.raises(ValueError, match=message):
        exported(f, 4, 1, constraints=())
    program = exported(f, 4, 1, constraints=(constraint,), platforms=("cpu",))
    least = int(constraint.split()[-1])
    arrays = operands(2, least, 4, 1)
    expected = oracle.separable(*arrays, D=D)
    assert expected.shape == (2, 1, F)
    np.testing.assert_allclose(program.call(*arrays), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="refining shapes") as error:
        program.call(*operands(2, least - 1, 4, 1))
    assert constraint in str(error.value.__cause__)


def test_the_constraint_that_the_error_names_suffices():
    """Also for the length of an inner layer, which is no symbol but an expression."""

    def two(x, k, w, b):
        y = ops.separable_conv1d(x, k, w, b, strides=2)[..., :C]
        return ops.separable_conv1d(y, k, w, b)

    with pytest.raises(ValueError, match="such as") as error:
        exported(two, 4, 1, constraints=("t >= 4",))
    named = str(error.value).split("such as ")[1].strip("'")
    assert named == "floordiv(t - 4, 2) + 1 >= 4"
    program = exported(two, 4, 1, constraints=("t >= 4", named), platforms=("cpu",))
    assert program.call(*operands(1, 10, 4, 1)).shape == (1, 1, F)


@pytest.mark.parametrize(
    ("constraints", "name"), [((), "grouped_conv"), (("mod(t, 8) == 0",), "shifted_sum")]
)
def test_selection_for_whole_tiles(constraints, name):
    """A length that is not known to be a multiple of 8 is taken for none."""
    B, L = jax.export.symbolic_shape("b, t", constraints=constraints)
    shapes = (B, L, C), (4, C, 1)
    assert ops.select_implementation(*shapes, platform="tpu").name == name
    program = exported(
        functools.partial(ops.separable_conv1d, padding="same"), 4, 1, constraints, ("tpu",)
    )
    assert ("stablehlo.convolution" in program.mlir_module()) == (name == "grouped_conv")
