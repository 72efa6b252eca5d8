"""The causal examples in chunks give what they give of the whole sequence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples import conformer, conv_tasnet, mamba
from tests.examples.cases import variables_of

CHUNKS = (1, 7, 1, 7, 1)  # two sizes: two programs
SEPARATOR = conv_tasnet.Separator(bottleneck=6, hidden=8, skip=5, blocks=2, repeats=2, causal=True)
CAUSAL = {
    "mamba": mamba.ShortConvolution(),
    "conformer": conformer.ConvolutionModule(6, causal=True),
    "conv_tasnet": SEPARATOR,
}


@pytest.mark.parametrize("module", CAUSAL.values(), ids=CAUSAL)
def test_chunks_give_the_whole(module):
    x = jnp.asarray(np.random.default_rng(3).standard_normal((2, sum(CHUNKS), 6), np.float32))
    variables = variables_of(module, x)
    whole = jax.jit(module.apply)(variables, x)
    step = jax.jit(functools.partial(module.clone(decode=True).apply, mutable=["cache"]))
    outputs = []
    for chunk in jnp.split(x, np.cumsum(CHUNKS)[:-1], axis=1):
        y, updated = step(variables, chunk)
        variables = variables | updated
        outputs.append(y)
    together = jnp.concatenate(outputs, axis=1)
    np.testing.assert_allclose(together, whole, rtol=0, atol=1e-5 * np.abs(whole).max())


@pytest.mark.parametrize("module", CAUSAL.values(), ids=CAUSAL)
def test_later_steps_change_nothing(module):
    x = jnp.asarray(np.random.default_rng(4).standard_normal((1, 12, 6), np.float32))
    variables, apply = variables_of(module, x), jax.jit(module.apply)
    before, after = apply(variables, x), apply(variables, x.at[:, 8, 0].add(1.0))
    np.testing.assert_array_equal(before[:, :8], after[:, :8])
    assert np.abs(before[:, 8:] - after[:, 8:]).max(axis=(0, *range(2, before.ndim))).min() > 0


def test_initialising_leaves_the_state_at_the_beginning():
    module = SEPARATOR.clone(decode=True)
    cache = module.init(jax.random.key(0), jnp.ones((2, 5, 6)))["cache"]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(cache))


def test_a_separator_that_looks_ahead_takes_no_chunks():
    with pytest.raises(ValueError, match="decode: the separator must be causal"):
        conv_tasnet.Separator(decode=True).init(jax.random.key(0), jnp.ones((1, 4, 6)))
