"""Lengths that make no sense: the error, and who checks values under a transformation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import checkify

import flax_sepconv as fsc
from flax_sepconv import ops

X, K = jnp.ones((2, 11, 3)), jnp.ones((4, 3, 2))

WRONG = [
    ([3.0, 4.0], TypeError, r"lengths must be integers, got dtype float32"),
    ([True, False], TypeError, r"lengths must be integers, got dtype bool"),
    (5, ValueError, r"lengths must have shape \(2,\), the batch dimensions of x, got \(\)"),
    ([5], ValueError, r"lengths must have shape \(2,\).*got \(1,\)"),
    (np.ones((2, 1), int), ValueError, r"lengths must have shape \(2,\).*got \(2, 1\)"),
    ([5, 12], ValueError, r"lengths must be from 0 to the input length L=11, got \[ 5 12\]"),
    (jnp.array([-1, 3]), ValueError, r"lengths must be from 0 .* L=11, got \[-1  3\]"),
    (np.array([3, 2**32 + 3]), ValueError, r"lengths must be from 0 .*4294967299"),
]
every_wrong = pytest.mark.parametrize(("lengths", "error", "message"), WRONG)


@every_wrong
def test_operations_refuse(lengths, error, message):
    with pytest.raises(error, match=message):
        ops.depthwise_conv1d(X, K, lengths=lengths)
    with pytest.raises(error, match=message):
        ops.separable_conv1d(X, K, jnp.ones((1, 6, 5)), lengths=lengths)


@every_wrong
def test_layers_refuse(lengths, error, message):
    layer = fsc.SeparableConv1D(5, 4)
    variables = layer.init(jax.random.key(0), X)
    with pytest.raises(error, match=message):
        layer.apply(variables, X, lengths)
    with pytest.raises(error, match=message):
        fsc.nnx.SeparableConv1D(3, 5, 4, rngs=nnx.Rngs(0))(X, lengths=lengths)


@pytest.mark.parametrize(
    ("length", "error", "message"),
    [
        (3.0, TypeError, r"length must be an int or an array of integers, got 3\.0"),
        (True, TypeError, r"length must be .*got True"),
        ([3.0], TypeError, r"length must be .*got dtype float32"),
        ([True], TypeError, r"length must be .*got dtype bool"),
        (jnp.ones(2), TypeError, r"length must be .*got dtype float32"),
        (-1, ValueError, r"length must not be negative, got -1"),
        (np.array([3, -2]), ValueError, r"length must not be negative, got \[ 3 -2\]"),
        ([3, -2], ValueError, r"length must not be negative, got \[ 3 -2\]"),
    ],
)
def test_output_length_refuses(length, error, message):
    with pytest.raises(error, match=message):
        ops.output_length(length, 3)


def test_lists_are_lengths():
    ends = ops.output_length([3, 4, 11], 4)
    assert ends.dtype == jnp.int32
    np.testing.assert_array_equal(ends, [0, 1, 8])
    assert ops.output_length([], 4).dtype == jnp.int32
    empty = ops.separable_conv1d(X[:0], K, jnp.ones((1, 6, 5)), lengths=[])
    assert empty.shape == (0, 8, 5)
    with pytest.raises(TypeError, match="lengths must be integers, got dtype float32"):
        ops.depthwise_conv1d(X[:0], K, lengths=jnp.ones(0))


def test_output_length_checks_the_settings():
    with pytest.raises(ValueError, match="kernel_size must be a positive int"):
        ops.output_length(3, 0)
    with pytest.raises(ValueError, match="strides must be a positive int"):
        ops.output_length(3, 2, strides=0)
    with pytest.raises(ValueError, match="padding must be one of"):
        ops.output_length(3, 2, padding="full")
    with pytest.raises(ValueError, match="dilation_rate must be a positive int"):
        ops.output_length(3, 2, dilation_rate=1.5)


@pytest.mark.parametrize("softmax", ["softmax", "log_softmax", "sparsemax", jax.nn.softmax])
def test_an_activation_over_steps_is_refused(softmax):
    layer = fsc.SeparableConv1D(5, 4, data_format="channels_first", activation=softmax)
    x = jnp.ones((2, 3, 11))
    variables = layer.init(jax.random.key(0), x)
    layer.apply(variables, x)
    with pytest.raises(ValueError, match=r"activation of each step alone, got \w+ over axis\s+-1"):
        layer.apply(variables, x, [3, 4])
    over_channels = {"class_name": "softmax", "config": {"axis": -2}}
    layer = fsc.SeparableConv1D(5, 4, data_format="channels_first", activation=over_channels)
    layer.apply(variables, x, [3, 4])


def layer(n):
    return ops.depthwise_conv1d(X, K, padding="same", lengths=n)


def test_under_jit_impossible_lengths_count_as_the_nearest_possible():
    close = np.testing.assert_array_equal
    close(jax.jit(layer)(jnp.array([-3, 99])), layer([0, 11]))
    close(jax.jit(layer)(jnp.array([7, 255], "uint8")), layer([7, 11]))


PROGRAMS = {
    "jit": jax.jit(layer),
    "scan": lambda n: jax.lax.scan(lambda c, m: (c, layer(m)), 0, n[None])[1],
    "vmap": lambda n: jax.vmap(layer)(n[None]),
    "grad": jax.jit(lambda n: jax.grad(lambda x: ops.depthwise_conv1d(x, K, lengths=n).sum())(X)),
    "remat": jax.jit(
        lambda n: jax.grad(
            jax.checkpoint(lambda x: (ops.depthwise_conv1d(x, K, lengths=n) ** 2).sum())
        )(X)
    ),
    "cond": jax.jit(
        lambda n: jax.lax.cond(n[0] > 100, lambda: jnp.zeros_like(X), lambda: X * layer(n)[..., :3])
    ),
    "linen": jax.jit(
        lambda n: fsc.SeparableConv1D(5, 4).init_with_output(jax.random.key(0), X, n)[0]
    ),
}
every_program = pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)


@every_program
def test_checkify_and_chex_check_what_a_program_gets(program):
    message = r"lengths must be from 0 to the input length L=11, got \[ *\[* *5 12\]"
    fine = program(jnp.array([5, 11]))
    error, out = checkify.checkify(program)(jnp.array([5, 11]))
    assert error.get() is None
    np.testing.assert_allclose(out, fine, rtol=1e-6)
    error, _ = checkify.checkify(program)(jnp.array([5, 12]))
    with pytest.raises(ValueError, match=message):
        error.throw()
    checked = chex.chexify(program, async_check=False)
    np.testing.assert_allclose(checked(jnp.array([5, 11])), fine, rtol=1e-6)
    with pytest.raises(ValueError, match=message):
        checked(jnp.array([5, 12]))


@every_program
def test_the_check_costs_nothing_elsewhere(program):
    """A program without `checkify` holds no callback, nor an effect, which JAX calls slowly."""
    traced = jax.jit(program).trace(jnp.array([5, 11]))
    assert not traced.jaxpr.effects
    assert "callback" not in traced.lower().compile().as_text()
