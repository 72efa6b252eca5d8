"""What the tests of streams share: sequences, chunks of them, and how results are compared."""

import itertools

import numpy as np

from tests import oracle


def operands(K, M, B=3, L=23, C=4, F=5, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((B, L, C), (K, C, M), (1, C * M, F), (F,))
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def oracle_of(x, k, p, b, S, D):
    """Return the oracle's outputs of one stream, none where nothing came."""
    if not len(x):
        return np.zeros((0, p.shape[2]))
    return oracle.separable(x[None], k, p, b, S, D, "causal")[0]


def assert_close(actual, reference, tolerance=1e-6):
    """Compare relative to the largest value."""
    assert np.shape(actual) == np.shape(reference)
    scale = max(np.abs(reference).max(initial=0), 1e-30)
    assert np.abs(np.asarray(actual, np.float64) - reference).max(initial=0) <= tolerance * scale


def swapped(x, data_format):
    return x if data_format == "channels_last" else x.swapaxes(-1, -2)


def cuts(L, sizes):
    """Cut a length into chunks of these sizes, over and over."""
    edges = [0]
    while edges[-1] < L:
        edges.append(min(L, edges[-1] + sizes[len(edges) % len(sizes)]))
    return list(itertools.pairwise(edges))
