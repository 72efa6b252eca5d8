"""A jitted training step of every module in examples/, on padded batches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.examples.cases import CASES, LENGTHS, inputs, real, run, spoiled, variables_of

# These are trained inside of the networks that are made of them.
PARTS = ("quartznet.Block", "conformer.ConvolutionModule", "convnext.Block")
WHOLE = {name: case for name, case in CASES.items() if name not in PARTS}


@pytest.mark.parametrize("case", WHOLE.values(), ids=WHOLE)
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
