import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sepconv import constraints
from flax_sepconv.constraints import MaxNorm, MinMaxNorm, NonNeg, Stacked, UnitNorm
from tests import peers

# depthwise (K, C, M), pointwise (1, C*M, F), bias (F,)
SHAPES = [(7, 3, 2), (1, 6, 5), (5,)]
EXAMPLES = [
    MaxNorm(),
    MaxNorm(max_value=0.7, axis=(0, 1)),
    NonNeg(),
    UnitNorm(axis=-1),
    MinMaxNorm(min_value=0.5, max_value=0.9, rate=0.3, axis=[0, 1]),
]


def axes_of(rank):
    return {1: [0, (-1,)], 3: [0, 1, -1, (0, 1), [2, 0], (0, 1, -1)]}[rank]


CASES = [
    (name, arguments, shape, axis)
    for name, arguments in [
        ("MaxNorm", {"max_value": 0.8}),
        ("MaxNorm", {"max_value": 50}),
        ("MaxNorm", {"max_value": 0}),
        ("UnitNorm", {}),
        ("MinMaxNorm", {"min_value": 1.0, "max_value": 1.5}),
        ("MinMaxNorm", {"min_value": 2.5, "max_value": 3, "rate": 0.4}),
        ("MinMaxNorm", {"rate": 0}),
    ]
    for shape in SHAPES
    for axis in axes_of(len(shape))
]


def draw(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def norms64(w, axis):
    wide = np.asarray(w).astype(np.float64)
    return np.sqrt(np.sum(wide * wide, axis=axis, keepdims=True))


@pytest.mark.parametrize(("name", "arguments", "shape", "axis"), CASES)
@pytest.mark.parametrize("peer", ["keras", "tf_keras"])
def test_projection_equals_keras(peer, name, arguments, shape, axis):
    w = draw(shape)
    theirs = getattr(getattr(peers, peer)().constraints, name)(axis=axis, **arguments)
    ours = getattr(constraints, name)(axis=axis, **arguments)(w)
    assert ours.shape == shape
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, np.asarray(theirs(w)), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("peer", ["keras", "tf_keras"])
def test_nonneg_equals_keras(peer, shape):
    w = draw(shape)
    theirs = getattr(peers, peer)().constraints.NonNeg()(w)
    np.testing.assert_array_equal(NonNeg()(w), np.asarray(theirs))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_nonneg_is_exact_and_keeps_nan(dtype):
    w = jnp.array([-jnp.inf, -1.0, -1e-7, -0.0, 0.0, 1e-7, 2.0, jnp.inf, jnp.nan], dtype)
    projected = jax.jit(NonNeg())(w)
    assert projected.dtype == w.dtype
    assert np.isnan(projected[-1])
    assert (projected[:-1] >= 0).all()
    np.testing.assert_array_equal(projected[4:8], w[4:8])
    np.testing.assert_array_equal(projected[:4], np.zeros(4))


@pytest.mark.parametrize("constraint", [MaxNorm(), UnitNorm(), MinMaxNorm(0.5, 1.0)])
def test_zero_and_tiny_weights_follow_keras(constraint):
    w = np.stack([np.zeros(4), np.full(4, 1e-8), np.full(4, 1e-30)], axis=1).astype(np.float32)
    theirs = peers.keras().constraints.deserialize(constraints.serialize(constraint))(w)
    np.testing.assert_allclose(constraint(w), theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((16384, 3), 0),
        ((3, 16384), -1),
        ((1, 16384, 2), (0, 1)),
        ((1000, 5, 2), 0),
        ((87, 8, 2), 0),
    ],
)
@pytest.mark.parametrize("kind", ["normal", "constant", "decaying", "near"])
@pytest.mark.parametrize(
    ("dtype", "max_value"), [("float32", 0.1), ("float32", 2), ("bfloat16", 0.1), ("float16", 2)]
)
def test_max_norm_keeps_its_bound(shape, axis, kind, max_value, dtype):
    w = draw(shape)
    if kind == "constant":
        w = np.full(shape, 0.777, np.float32)
    elif kind == "decaying":
        w = (w * np.exp(-np.arange(w.size) / w.size * 9).reshape(shape)).astype(np.float32)
    elif kind == "near":  # the bound itself, which a few ulps of error would break
        w = (w * (max_value / norms64(w, axis))).astype(np.float32)
    project = jax.jit(MaxNorm(max_value, axis))
    w = jnp.asarray(w, dtype)
    for _ in range(3):
        w = project(w)
        assert norms64(w, axis).max() <= max_value * (1 + 1e-6)
    # The bound is reached, not undercut: rounding costs at most an ulp.
    assert norms64(w, axis).max() >= max_value * (1 - 2 * float(jnp.finfo(dtype).eps)) * (
        0.98 if kind == "decaying" else 0.99999
    )


def test_max_norm_holds_under_float64():
    with jax.enable_x64(True):
        w = jnp.asarray(draw((1001, 3), dtype=np.float64))
        projected = MaxNorm(1.5)(w)
        assert projected.dtype == jnp.float64
        norms = norms64(w, 0)
        np.testing.assert_allclose(projected, w * (1.5 / (1e-7 + norms)), rtol=1e-13)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_low_precision_is_rounded_once_to_nearest(dtype, shape):
    w = jnp.asarray(draw(shape), dtype)
    for constraint in [MinMaxNorm(1.0, 1.5), UnitNorm(), MaxNorm(1e3)]:
        exact = constraint(w.astype(jnp.float32))
        projected = constraint(w)
        assert projected.dtype == w.dtype
        np.testing.assert_array_equal(projected, exact.astype(dtype))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_max_norm_takes_the_neighbour_toward_zero(dtype):
    w = jnp.asarray(draw((9, 400)) * 3, dtype)
    exact = MaxNorm()(w.astype(jnp.float32))
    nearest = exact.astype(dtype)
    projected = MaxNorm()(w)
    toward_zero = jnp.where(
        jnp.abs(nearest.astype(jnp.float32)) > jnp.abs(exact),
        jnp.nextafter(nearest, jnp.zeros_like(nearest)),
        nearest,
    )
    broken = norms64(nearest, 0)[0] > 2 * (1 + 1e-6)
    assert 20 < broken.sum() < 380  # both kinds occur
    np.testing.assert_array_equal(projected[:, broken], toward_zero[:, broken])
    fits = norms64(nearest, 0)[0] <= 2
    np.testing.assert_array_equal(projected[:, fits], nearest[:, fits])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_max_norm_does_not_drift(dtype):
    project = jax.jit(MaxNorm(axis=(0, 1)))
    inside = jnp.asarray(draw((4, 5, 300)) * 0.3, dtype)
    keep = norms64(inside, (0, 1))[0, 0] <= 2
    assert keep.sum() > 100
    np.testing.assert_array_equal(project(inside)[..., keep], inside[..., keep])
    once = project(inside * 4)
    again = once
    for _ in range(5):
        again = project(again)
    np.testing.assert_array_equal(once, again)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("constraint", "slope"),
    [
        (MaxNorm(), 0),  # w |w| / 1e-7, next to zero
        (UnitNorm(), 1e7),  # w / 1e-7
        (MinMaxNorm(min_value=0.5, max_value=2, rate=0.25), 0.125e7),
        (MinMaxNorm(), 0),
        (NonNeg(), 1),
    ],
)
def test_derivatives_at_zero_weights(constraint, slope, dtype):
    """One group of weights is zero, one is not: its derivatives are those of quotients."""
    w = jnp.asarray([[0.0, 3.0], [0.0, 4.0]], dtype)
    gradient = jax.grad(lambda w: constraint(w).sum())(w)
    gradient = np.asarray(gradient, np.float64)
    np.testing.assert_allclose(gradient[:, 0], slope, rtol=1e-2)

    with jax.enable_x64(True):
        exact = np.asarray(w[:, 1], np.float64)
        h = 1e-6 * np.eye(2)
        rising, falling = (
            np.array([np.asarray(constraint(jnp.asarray(exact + s * row))).sum() for row in h])
            for s in (1, -1)
        )
    np.testing.assert_allclose(gradient[:, 1], (rising - falling) / 2e-6, rtol=2e-2, atol=2e-2)


def test_max_norm_leaves_a_weight_on_the_bound():
    w = jnp.array([[2.0, 1.2], [0.0, 1.6]], jnp.bfloat16)
    w = w.at[:, 1].set(jnp.array([0.0, -2.0], jnp.bfloat16))
    np.testing.assert_array_equal(MaxNorm()(w), w)


@pytest.mark.parametrize("constraint", EXAMPLES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_jit_and_vmap_change_nothing(constraint, dtype):
    w = jnp.asarray(draw((4, 7, 3, 2)), dtype)
    one_by_one = jnp.stack([constraint(slice_) for slice_ in w])
    batched = jax.jit(jax.vmap(constraint))(w)
    np.testing.assert_allclose(
        batched.astype(np.float32),
        one_by_one.astype(np.float32),
        rtol=5e-7 if dtype == "float32" else 0,
    )


@pytest.mark.parametrize("axis", [0, 1, 3, -1])
def test_stacked_projects_every_slice(axis):
    slices = draw((4, 7, 3, 2))
    inner = MaxNorm(1.0, axis=(0, 1))
    expected = np.stack([inner(w) for w in slices], axis=axis)
    stacked = np.stack(list(slices), axis=axis)
    np.testing.assert_allclose(jax.jit(Stacked(inner, axis))(stacked), expected, rtol=5e-7)


def test_stacked_nests_and_takes_names():
    w = draw((4, 5, 3, 2))
    expected = [[UnitNorm()(w[i, j]) for j in range(5)] for i in range(4)]
    nested = Stacked(Stacked("unit_norm", 0), 0)
    np.testing.assert_allclose(nested(w), expected, rtol=5e-7)
    assert nested == constraints.get(json.loads(json.dumps(constraints.serialize(nested))))


@pytest.mark.parametrize("constraint", [*EXAMPLES, Stacked(MaxNorm(axis=[0, 1]), -1)])
def test_values_are_hashable_and_comparable(constraint):
    assert constraints.get(constraint) is constraint
    copy = constraints.get(json.loads(json.dumps(constraints.serialize(constraint))))
    assert copy == constraint
    assert hash(copy) == hash(constraint)
    assert constraint != MaxNorm(max_value=123)


@pytest.mark.parametrize("peer", ["keras", "tf_keras"])
@pytest.mark.parametrize("constraint", EXAMPLES)
def test_keras_reads_ours_and_we_read_theirs(peer, constraint):
    module = getattr(peers, peer)().constraints
    theirs = module.get(constraints.serialize(constraint))
    assert type(theirs).__name__ == type(constraint).__name__
    assert constraints.get(module.serialize(theirs)) == constraint
    w = draw((7, 3, 2))
    np.testing.assert_allclose(constraint(w), np.asarray(theirs(w)), rtol=1e-6, atol=1e-7)


def test_legacy_dicts_of_keras_2():
    module = peers.tf_keras().constraints
    for constraint in EXAMPLES:
        theirs = module.get(constraints.serialize(constraint))
        assert constraints.get(module.serialize(theirs, use_legacy_format=True)) == constraint


@pytest.mark.parametrize("peer", ["keras", "tf_keras"])
def test_names_are_keras_names(peer):
    module = getattr(peers, peer)().constraints
    names = ["MaxNorm", "max_norm", "NonNeg", "non_neg", "UnitNorm", "unit_norm", "MinMaxNorm"]
    names += ["min_max_norm"] + (["maxnorm", "nonneg", "unitnorm"] if peer == "tf_keras" else [])
    for name in names:
        ours, theirs = constraints.get(name), module.get(name)
        assert constraints.serialize(ours)["class_name"] == type(theirs).__name__
        theirs_config = dict(theirs.get_config())
        assert constraints.serialize(ours)["config"] == theirs_config


def test_get_passes_callables_and_makes_instances_of_classes():
    clip = functools.partial(jnp.clip, max=1.0)
    assert constraints.get(clip) is clip
    assert constraints.get(None) is None
    assert constraints.serialize(None) is None
    assert constraints.get(UnitNorm) == UnitNorm()
    assert constraints.get({"class_name": "max_norm", "config": {}}) == MaxNorm()
    assert constraints.get({"class_name": "NonNeg"}) == NonNeg()
    with pytest.raises(TypeError, match=r"partial.*cannot be serialized: only MaxNorm"):
        constraints.serialize(clip)
    with pytest.raises(TypeError, match=r"partial.*inside Stacked cannot be serialized"):
        constraints.serialize(Stacked(clip))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MaxNorm(-1), ValueError, r"max_value must be a number >= 0, got -1"),
        (lambda: MaxNorm(float("nan")), ValueError, r"max_value must be .* got nan"),
        (lambda: MaxNorm(True), TypeError, r"max_value must be a number >= 0, got True"),
        (lambda: MaxNorm("2"), TypeError, r"max_value must be a number >= 0, got '2'"),
        (lambda: MaxNorm(axis=1.0), TypeError, r"axis must be an int or .*got 1\.0"),
        (lambda: MaxNorm(axis=True), TypeError, r"axis must be an int or .*got True"),
        (lambda: MaxNorm(axis=None), TypeError, r"axis must be an int or .*got None"),
        (lambda: UnitNorm(axis=[]), ValueError, r"axis must be .* non-empty .*got \[\]"),
        (lambda: UnitNorm(axis=(0, 0)), ValueError, r"axis must be .* different .*got \(0, 0\)"),
        (lambda: UnitNorm(axis=(0, True)), TypeError, r"axis must be .*got \(0, True\)"),
        (lambda: MinMaxNorm(2, 1), ValueError, r"min_value must be <= max_value, got 2 and 1"),
        (lambda: MinMaxNorm(min_value=-1), ValueError, r"min_value must be .*>= 0, got -1"),
        (lambda: MinMaxNorm(rate=1.5), ValueError, r"rate must be .*>= 0 and <= 1, got 1\.5"),
        (lambda: MinMaxNorm(rate=-0.5), ValueError, r"rate must be .*>= 0 and <= 1, got -0\.5"),
        (lambda: Stacked(None), TypeError, r"constraint of Stacked must be .*got None"),
        (lambda: Stacked(MaxNorm(), (0, 1)), TypeError, r"axis of Stacked must be an int"),
        (lambda: MaxNorm(axis=1)(np.ones(3)), ValueError, r"axis must .* rank 1, got 1"),
        (lambda: UnitNorm(axis=(0, -4))(np.ones((1, 2, 3))), ValueError, r"rank 3, got \(0, -4\)"),
        (lambda: MinMaxNorm(axis=(0, -3))(np.ones((1, 2, 3))), ValueError, r"different axes"),
        (lambda: Stacked(NonNeg(), 1)(np.ones(3)), ValueError, r"axis must .* rank 1, got 1"),
        (lambda: MaxNorm()(np.ones(3, int)), TypeError, r"floating-point weight, got dtype int32"),
        (lambda: NonNeg()(np.ones(3, bool)), TypeError, r"floating-point weight, got dtype bool"),
        (lambda: constraints.get("max_nrm"), ValueError, r"'max_nrm'; did you mean 'max_norm'\?"),
        (lambda: constraints.get("MAXNORM"), ValueError, r"unknown constraint 'MAXNORM'.*MinMaxNo"),
        (lambda: constraints.get("zz"), ValueError, r"unknown constraint 'zz'\. Known: MaxNorm"),
        (lambda: constraints.get(3), TypeError, r"constraint must be None, a name, .*got 3"),
        (lambda: constraints.get({}), ValueError, r"must have a 'class_name'"),
        (lambda: constraints.get({"class_name": "MaxNorm", "conf": {}}), ValueError, r"'config'"),
        (
            lambda: constraints.get({"class_name": "MaxNorm", "config": {"max": 1}}),
            ValueError,
            r"MaxNorm has no argument 'max'; its arguments are: max_value, axis",
        ),
        (
            lambda: constraints.get({"class_name": "MaxNorm", "config": [1]}),
            TypeError,
            r"config of constraint MaxNorm must be a dict, got \[1\]",
        ),
        (
            lambda: constraints.get({"class_name": "MaxNorm", "config": {}, "module": "mine"}),
            ValueError,
            r"'MaxNorm' of module 'mine' is a custom object",
        ),
        (
            lambda: constraints.get({"class_name": "MaxNorm", "registered_name": "mine>MaxNorm"}),
            ValueError,
            r"custom object",
        ),
        (lambda: constraints.serialize(MaxNorm), TypeError, r"MaxNorm.*cannot be serialized"),
    ],
)
def test_wrong_calls(make, error, message):
    with pytest.raises(error, match=message):
        make()
