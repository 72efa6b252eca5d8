"""Padding changes nothing of a real step, in every module of examples/."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.examples.cases import (
    CASES,
    EVERY_CASE,
    LENGTHS,
    inputs,
    real,
    run,
    spoiled,
    variables_of,
)


@EVERY_CASE
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
