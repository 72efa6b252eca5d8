import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sepconv import regularizers
from flax_sepconv.regularizers import L1, L1L2, L2, OrthogonalRegularizer
from tests import peers

# depthwise (K, C, M), pointwise (1, C*M, F), bias (F,)
SHAPES = [(7, 3, 2), (1, 6, 5), (5,)]
EXAMPLES = [L1(), L1(0.25), L2(0.5), L1L2(), L1L2(l1=0.5, l2=0.125), L1L2(l2=2)]
MATRICES = [OrthogonalRegularizer(0.25), OrthogonalRegularizer(2, mode="columns")]


def draw(shape, dtype=np.float32):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


@pytest.mark.parametrize("peer", ["keras", "tf_keras"])
@pytest.mark.parametrize("regularizer", EXAMPLES)
@pytest.mark.parametrize("shape", SHAPES)
def test_penalty_equals_keras(peer, regularizer, shape):
    w = draw(shape)
    theirs = getattr(peers, peer)().regularizers.get(regularizers.serialize(regularizer))
    ours = jax.jit(regularizer)(w)
    assert ours.shape == ()
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, np.asarray(theirs(w)), rtol=1e-6)


@pytest.mark.parametrize("regularizer", EXAMPLES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_equals_keras(regularizer, shape):
    w = jnp.asarray(draw(shape))
    theirs = peers.keras().regularizers.get(regularizers.serialize(regularizer))
    np.testing.assert_allclose(jax.grad(regularizer)(w), jax.grad(theirs)(w), rtol=1e-6)


@pytest.mark.parametrize("peer", ["keras", "tf_keras"])
@pytest.mark.parametrize("regularizer", MATRICES)
@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (2, 3)])
def test_orthogonal_equals_keras(peer, regularizer, shape):
    w = draw(shape)
    theirs = getattr(peers, peer)().regularizers.get(regularizers.serialize(regularizer))
    tensor = peers.tf().constant(w) if peer == "tf_keras" else jnp.asarray(w)
    np.testing.assert_allclose(regularizer(w), np.asarray(theirs(tensor)), rtol=2e-6)


def test_orthogonal_gradient_equals_keras_and_survives_a_zero_row():
    regularizer = OrthogonalRegularizer(0.25)
    theirs = peers.keras().regularizers.get(regularizers.serialize(regularizer))
    w = jnp.asarray(draw((4, 7)))
    np.testing.assert_allclose(jax.grad(regularizer)(w), jax.grad(theirs)(w), rtol=1e-5, atol=1e-7)
    w = w.at[2].set(0.0)
    np.testing.assert_allclose(regularizer(w), theirs(w), rtol=1e-6)
    assert np.isfinite(jax.grad(regularizer)(w)).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("regularizer", EXAMPLES)
def test_low_precision_sums_in_float32(dtype, regularizer):
    w = jnp.asarray(draw((31, 64, 5)), dtype)
    wide = np.asarray(w).astype(np.float64)
    l1, l2 = (getattr(regularizer, name, 0.0) for name in ("l1", "l2"))
    penalty = regularizer(w)
    assert penalty.dtype == jnp.float32
    exact = l1 * np.abs(wide).sum() + l2 * np.square(wide).sum()
    np.testing.assert_allclose(penalty, exact, rtol=1e-6)


def test_low_precision_does_not_overflow():
    assert float(L2(1.0)(jnp.full((2, 3), 300.0, jnp.float16))) == 540000.0


def test_float64_stays_float64():
    with jax.enable_x64(True):
        w = draw((7, 3, 2), np.float64)
        penalty = L1L2(0.5, 0.25)(w)
        assert penalty.dtype == jnp.float64
        exact = 0.5 * np.abs(w).sum() + 0.25 * np.square(w).sum()
        np.testing.assert_allclose(penalty, exact, rtol=1e-14)


@pytest.mark.parametrize("regularizer", EXAMPLES + MATRICES)
def test_values_are_hashable_and_comparable(regularizer):
    assert regularizers.get(regularizer) is regularizer
    copy = regularizers.get(json.loads(json.dumps(regularizers.serialize(regularizer))))
    assert copy == regularizer
    assert hash(copy) == hash(regularizer)
    assert regularizer != L1(123)


@pytest.mark.parametrize("regularizer", EXAMPLES + MATRICES)
def test_keras_reads_ours_and_we_read_theirs(regularizer):
    module = peers.keras().regularizers
    theirs = module.deserialize(regularizers.serialize(regularizer))
    # Keras 3 keeps some factors in float32: those chosen here, but 0.01, lose nothing.
    back = regularizers.get(module.serialize(theirs))
    expected = L1(float(np.float32(0.01))) if regularizer == L1() else regularizer
    assert back == expected


@pytest.mark.parametrize("regularizer", EXAMPLES + MATRICES)
@pytest.mark.parametrize("legacy", [False, True])
def test_keras_2_reads_ours_and_we_read_theirs(regularizer, legacy):
    module = peers.tf_keras().regularizers
    theirs = module.get(regularizers.serialize(regularizer))
    back = regularizers.get(module.serialize(theirs, use_legacy_format=legacy))
    assert type(back) is type(regularizer)
    for name, value in regularizers.serialize(regularizer)["config"].items():
        if name == "mode":
            assert back.mode == value
        else:
            assert getattr(back, name) == pytest.approx(value, rel=1e-7)


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        *(("keras", name) for name in ["l1", "L1", "l2", "L2", "l1l2", "L1L2"]),
        *(("keras", name) for name in ["OrthogonalRegularizer", "orthogonal_regularizer"]),
        *(("tf_keras", name) for name in ["l1", "L1", "l2", "L2", "l1_l2", "L1L2"]),
        *(("tf_keras", name) for name in ["OrthogonalRegularizer", "orthogonal_regularizer"]),
    ],
)
def test_names_and_their_factors_are_keras(peer, name):
    theirs = getattr(peers, peer)().regularizers.get(name)
    ours = regularizers.serialize(regularizers.get(name))
    assert ours["class_name"] == type(theirs).__name__
    theirs_config = theirs.get_config()
    assert ours["config"].pop("mode", None) == theirs_config.pop("mode", None)
    assert ours["config"] == pytest.approx(theirs_config, rel=1e-7)


def test_get_passes_callables_and_makes_instances_of_classes():
    mine = functools.partial(jnp.sum, axis=None)
    assert regularizers.get(mine) is mine
    assert regularizers.get(None) is None
    assert regularizers.serialize(None) is None
    assert regularizers.get(L2) == L2()
    assert L1(None) == L1(0.01)
    assert L1L2(None, None) == L1L2(0.0, 0.0)
    assert regularizers.get({"class_name": "l1_l2", "config": {"l1": 0.5}}) == L1L2(0.5, 0.0)
    with pytest.raises(TypeError, match=r"partial.*cannot be serialized: only L1, L1L2, L2, Orth"):
        regularizers.serialize(mine)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: L1(-0.1), ValueError, r"l1 must be a finite number >= 0, got -0\.1"),
        (lambda: L2(float("nan")), ValueError, r"l2 must be a finite number >= 0, got nan"),
        (lambda: L2(float("inf")), ValueError, r"l2 must be a finite number >= 0, got inf"),
        (lambda: L2(True), TypeError, r"l2 must be a finite number >= 0, got True"),
        (lambda: L1L2(l2="a"), TypeError, r"l2 must be a finite number >= 0, got 'a'"),
        (lambda: L1L2(l1=-1), ValueError, r"l1 must be a finite number >= 0, got -1"),
        (lambda: OrthogonalRegularizer(-1), ValueError, r"factor must be .*>= 0, got -1"),
        (lambda: OrthogonalRegularizer(None), TypeError, r"factor must be .*>= 0, got None"),
        (lambda: OrthogonalRegularizer(mode="row"), ValueError, r"mode must be .*got 'row'"),
        (
            lambda: MATRICES[0](draw((7, 3, 2))),
            ValueError,
            r"needs a weight of rank 2.*\(7, 3, 2\)",
        ),
        (lambda: MATRICES[0](draw((5,))), ValueError, r"needs a weight of rank 2.*\(5,\)"),
        (lambda: MATRICES[0](draw((1, 5))), ValueError, r"at least two rows, got shape \(1, 5\)"),
        (lambda: MATRICES[1](draw((5, 1))), ValueError, r"at least two columns, got .*\(5, 1\)"),
        (lambda: L2()(np.ones(3, int)), TypeError, r"floating-point weight, got dtype int32"),
        (lambda: regularizers.get("l3"), ValueError, r"unknown regularizer 'l3'.*Known: L1, L1L2"),
        (lambda: regularizers.get(0.01), TypeError, r"regularizer must be None, .*got 0\.01"),
        (
            lambda: regularizers.get({"class_name": "L2", "config": {"l1": 0.1}}),
            ValueError,
            r"regularizer L2 has no argument 'l1'; its arguments are: l2",
        ),
    ],
)
def test_wrong_calls(make, error, message):
    with pytest.raises(error, match=message):
        make()
