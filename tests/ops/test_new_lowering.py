"""A lowering is added by one file and one table entry: here is the file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sepconv import SeparableConv1D, ops
from flax_sepconv.ops.lowerings import LOWERINGS, Lowering
from tests import oracle
from tests.cases import CASES


class ByGather(Lowering):
    """All windows of x, gathered, contracted with the kernel at once."""

    def output(self, contraction, x, kernel, *limits):
        h = jnp.einsum("blkc,kcm->blcm", self.windows(x, contraction), kernel)
        return h.reshape(*h.shape[:2], -1).astype(contraction.dtype)

    def input_gradient(self, contraction, y, kernel, *limits):
        B, C, L = y.shape[0], kernel.shape[1], contraction.geometry.length
        like = jax.ShapeDtypeStruct((B, L, C), y.dtype)
        gathered = jax.linear_transpose(lambda x: self.windows(x, contraction), like)
        lanes = y.reshape(*y.shape[:2], C, -1)
        return gathered(jnp.einsum("blcm,kcm->blkc", lanes, kernel))[0].astype(contraction.dtype)

    def kernel_gradient(self, contraction, x, y, *limits):
        lanes = y.reshape(*y.shape[:2], x.shape[2], -1)
        gradient = jnp.einsum("blkc,blcm->kcm", self.windows(x, contraction), lanes)
        return gradient.astype(contraction.dtype)

    @staticmethod
    def windows(x, contraction):
        g = contraction.geometry
        taps = jnp.arange(g.kernel_size) * g.dilation
        steps = jnp.arange(g.output_length)[:, None] * g.stride + taps - g.pad_low
        inside = (steps >= 0) & (steps < g.length)
        return jnp.where(inside[..., None], x[:, jnp.clip(steps, 0, g.length - 1)], 0)


@pytest.fixture(autouse=True)
def table_entry(monkeypatch):
    monkeypatch.setitem(LOWERINGS, "by_gather", ByGather())
    yield
    jax.clear_caches()


@pytest.mark.parametrize("case", CASES[:10], ids=lambda case: case.id)
def test_it_computes_the_layer_and_its_gradients(case):
    x, k = case.arrays()
    w = np.random.default_rng(1).standard_normal((1, case.C * case.M, 7))

    def layer(x, k, w):
        return ops.separable_conv1d(x, k, w, implementation="by_gather", **case.settings)

    with jax.enable_x64(True):
        y, pullback = jax.vjp(jax.jit(layer), x, k, w)
        gradients = pullback(jnp.ones_like(y))
    np.testing.assert_allclose(y, oracle.separable(x, k, w, **case.oracle), atol=1e-9)
    expected = oracle.separable_vjp(x, k, w, np.ones_like(y), **case.oracle)
    for ours, theirs in zip(gradients, expected, strict=False):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_lengths_are_masked_around_it_and_segments_left_to_others():
    x, k = CASES[2].arrays()
    spoiled = np.where(np.arange(12)[:, None] < np.array([7, 12])[:, None, None], x, np.nan)
    settings = CASES[2].settings | {"implementation": "by_gather"}
    with jax.enable_x64(True):
        h = ops.depthwise_conv1d(spoiled, k, lengths=[7, 12], **settings)
    alone = oracle.depthwise(x[:1, :7], k, **CASES[2].oracle)
    np.testing.assert_allclose(h[:1, : alone.shape[1]], alone, atol=1e-9)
    with pytest.raises(NotImplementedError, match="'by_gather' knows no segments"):
        ops.depthwise_conv1d(
            x, k, padding="same", segment_ids=np.zeros((2, 12), int), implementation="by_gather"
        )


def test_the_layer_knows_its_name_and_errors_list_it():
    layer = SeparableConv1D(5, 3, implementation="by_gather")
    y, _ = layer.init_with_output(jax.random.key(0), jnp.ones((2, 9, 3)))
    assert y.shape == (2, 7, 5)
    with pytest.raises(ValueError, match=r"implementation must be .*'by_gather', got 'unknown'"):
        SeparableConv1D(5, 3, implementation="unknown")
