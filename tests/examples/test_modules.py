"""Every module of examples/: shapes, padded batches, a training step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.examples.cases import CASES, inputs, run, variables_of

LENGTHS = np.array([24, 9, 14])
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def spoiled(x, lengths):
    """Put NaN behind the ends."""
    is_real = (jnp.arange(x.shape[1]) < lengths[:, None]).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
    return jnp.where(is_real, x, jnp.nan)


def real(case, y, lengths):
    """Return the real steps of each output, or the outputs of the sequences."""
    if case.strides is None:
        return list(y)
    if case.channels == 0:
        y = y.swapaxes(1, 2)  # voices behind samples
    return [row[: -(-n // case.strides)] for row, n in zip(y, lengths, strict=True)]


@ALL
def test_a_sequence_gives_what_it_gives_alone(case):
    x = inputs(case)
    variables, apply = variables_of(case.module, x), run(case, train=False)
    together = apply(variables, spoiled(x, LENGTHS), lengths=jnp.asarray(LENGTHS))
    assert together.shape == case.output
    n = LENGTHS[1:2]
    (alone,) = real(case, apply(variables, x[1:2, : n[0]]), n)
    np.testing.assert_allclose(
        real(case, together, LENGTHS)[1], alone, rtol=0, atol=2e-5 * np.abs(alone).max()
    )


@pytest.mark.parametrize("name", ["quartznet.Block", "conformer.ConvolutionModule"])
def test_statistics_are_those_of_real_steps(name):
    case = CASES[name]
    x, lengths = inputs(case)[:1], np.array([17])
    variables = variables_of(case.module, x)
    apply = run(case, train=True, mutable=["batch_stats"])
    padded = apply(variables, spoiled(x, lengths), lengths=jnp.asarray(lengths))
    alone = apply(variables, x[:, :17])
    (mine,) = real(case, padded[0], lengths)
    np.testing.assert_allclose(mine, alone[0][0], rtol=0, atol=1e-4 * np.abs(alone[0]).max())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), padded[1], alone[1])


@ALL
def test_a_training_step_lowers_the_loss(case):
    x = spoiled(inputs(case), LENGTHS)
    variables = variables_of(case.module, x)
    apply = run(case, train=True, **({"mutable": ["batch_stats"]} if case.trains else {}))
    target = jnp.asarray(np.random.default_rng(2).standard_normal(case.output, np.float32))

    def loss(params):
        y = apply(variables | {"params": params}, x, lengths=jnp.asarray(LENGTHS))
        y, goal = y[0] if case.trains else y, target
        if case.strides is not None:
            y, goal = (jnp.concatenate(real(case, each, LENGTHS)) for each in (y, goal))
        return jnp.mean((y - goal) ** 2)

    loss_and_gradients = jax.jit(jax.value_and_grad(loss))
    before, gradients = loss_and_gradients(variables["params"])
    for path, gradient in jax.tree.leaves_with_path(gradients):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.isfinite(gradient).all(), name
        if not any(part in name for part in case.idle):
            assert np.abs(gradient).max() > 1e-6, name
    # Far enough to be seen over rounding, near enough to go down.
    step = 1e-2 * before / optax.tree.norm(gradients, squared=True)
    params = jax.tree.map(lambda w, g: w - step * g, variables["params"], gradients)
    after, _ = loss_and_gradients(params)
    assert after < before
