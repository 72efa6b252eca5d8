import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sepconv import initializers
from flax_sepconv.initializers import (
    STFT,
    Constant,
    GlorotUniform,
    HeNormal,
    LecunUniform,
    Ones,
    Orthogonal,
    RandomNormal,
    RandomUniform,
    TruncatedNormal,
    VarianceScaling,
    Zeros,
)
from tests import peers

# depthwise (K, C, M), pointwise (1, C*M, F), bias (F,)
SHAPES = [(7, 3, 2), (1, 6, 5), (5,)]
SCALED = ["Glorot", "He", "Lecun"]
RANDOM = [
    ("RandomNormal", {}),
    ("RandomNormal", {"mean": 0.5, "stddev": 2}),
    ("TruncatedNormal", {}),
    ("TruncatedNormal", {"mean": -1, "stddev": 0.25}),
    ("RandomUniform", {}),
    ("RandomUniform", {"minval": 0.5, "maxval": 2}),
    *((f"{name}{kind}", {}) for name in SCALED for kind in ("Uniform", "Normal")),
    ("VarianceScaling", {}),
    ("VarianceScaling", {"scale": 3, "mode": "fan_out", "distribution": "uniform"}),
    ("VarianceScaling", {"mode": "fan_avg", "distribution": "untruncated_normal"}),
    ("VarianceScaling", {"distribution": "Normal"}),
    ("Orthogonal", {}),
    ("Orthogonal", {"gain": 0.5}),
]
FIXED = [
    ("Zeros", {}),
    ("Ones", {}),
    ("Constant", {}),
    ("Constant", {"value": -0.3}),
    *(
        ("STFT", {"side": side, "window": window, "scaling": scaling, "periodic": periodic})
        for side, window, scaling, periodic in [
            ("real", "hann", "density", False),
            ("imag", "hamming", "spectrum", True),
            ("imag", None, "density", False),
            ("real", [0.1, 0.5, 1.0, 0.5, 0.1, 0.05, 0.2], None, True),
        ]
    ),
]
EXAMPLES = [initializers.get({"class_name": n, "config": c}) for n, c in RANDOM + FIXED]


def keras_object(name, config, **more):
    return peers.keras().initializers.get({"class_name": name, "config": config | more})


@pytest.mark.parametrize(
    ("name", "config", "shape"),
    [
        (name, config, shape)
        for name, config in RANDOM
        for shape in ([(7, 3, 2), (2, 3, 17)] if name == "Orthogonal" else SHAPES)
    ],
)
def test_a_seed_draws_the_numbers_of_keras(name, config, shape):
    ours = initializers.get({"class_name": name, "config": config | {"seed": 1234}})
    drawn = ours(jax.random.key(5), shape)
    assert drawn.shape == shape
    assert drawn.dtype == jnp.float32
    theirs = keras_object(name, config, seed=1234)(shape)
    np.testing.assert_allclose(drawn, theirs, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("initializer", [GlorotUniform(seed=1), Orthogonal(seed=1)])
def test_a_seed_alone_decides(initializer):
    drawn = initializer(None, (7, 3, 2))
    np.testing.assert_array_equal(drawn, initializer(jax.random.key(6), (7, 3, 2)))
    jitted = jax.jit(initializer, static_argnums=1)(jax.random.key(7), (7, 3, 2))
    np.testing.assert_allclose(drawn, jitted, rtol=1e-6)
    assert not np.array_equal(drawn, dataclasses.replace(initializer, seed=2)(None, (7, 3, 2)))


@pytest.mark.parametrize(
    ("name", "config", "shape"),
    [
        (name, config, shape)
        for name, config in FIXED
        for shape in ([(7, 1, 5)] if name == "STFT" else SHAPES)
    ],
)
def test_fixed_values_equal_keras(name, config, shape):
    ours = initializers.get({"class_name": name, "config": config})(None, shape)
    if name == "Constant":
        config = {"value": 0.0} | config  # without a value Keras 3.15 raises KeyError
    np.testing.assert_allclose(ours, keras_object(name, config)(shape), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(31, 30, 29), (1, 150, 180), (9000,)])
@pytest.mark.parametrize(("name", "config"), [case for case in RANDOM if case[0] != "Orthogonal"])
def test_a_key_draws_from_the_distribution_of_keras(name, config, shape):
    theirs = np.asarray(keras_object(name, config, seed=7)(shape), np.float64)
    initializer = initializers.get({"class_name": name, "config": config})
    ours = np.asarray(initializer(jax.random.key(0), shape), np.float64)
    spread = theirs.std()
    error = spread / math.sqrt(theirs.size)  # of a mean; five of them never happen
    assert abs(ours.mean() - theirs.mean()) < 5 * math.sqrt(2) * error
    assert abs(ours.std() - spread) < 5 * 1.5 * error
    tails = 0.6 if name == "RandomNormal" or "untruncated_normal" in config.values() else 0.01
    for end in (np.min, np.max):
        assert abs(end(ours) - end(theirs)) < tails * 2 * spread
    assert not np.array_equal(ours, initializer(jax.random.key(1), shape))


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("shape", [(31, 12, 5), (1, 60, 48), (700,), (20, 30)])
def test_uniform_limits_come_from_the_fans_of_keras(name, shape):
    from keras.src.initializers.random_initializers import compute_fans

    fan_in, fan_out = compute_fans(shape)
    assert initializers.fans(shape) == (fan_in, fan_out)
    limit = {
        "Glorot": math.sqrt(6 / (fan_in + fan_out)),
        "He": math.sqrt(6 / fan_in),
        "Lecun": math.sqrt(3 / fan_in),
    }[name]
    w = np.abs(initializers.get(f"{name}Uniform")(jax.random.key(0), shape))
    assert 0.98 * limit < w.max() <= limit * (1 + 1e-6)


def test_fans_of_the_three_weights():
    assert initializers.fans((7, 3, 2)) == (7 * 3, 7 * 2)
    assert initializers.fans((1, 6, 5)) == (6, 5)
    assert initializers.fans((5,)) == (5, 5)
    assert initializers.fans(()) == (1, 1)


@pytest.mark.parametrize("name", ["GlorotUniform", "HeNormal", "VarianceScaling"])
def test_axes_of_fans_equal_keras(name):
    config = {"input_axes": [0, -1], "output_axes": [1], "seed": 3}
    ours = initializers.get({"class_name": name, "config": config})
    if "input_axes" not in keras_object(name, {}).get_config():
        pytest.skip("this Keras has no axes for fans: this comparison did NOT run")
    theirs = keras_object(name, config)
    np.testing.assert_allclose(ours(None, (7, 3, 2)), theirs((7, 3, 2)), rtol=1e-6)
    assert initializers.get(peers.keras().initializers.serialize(theirs)) == ours
    assert hash(ours) == hash(initializers.get(initializers.serialize(ours)))


@pytest.mark.parametrize("initializer", EXAMPLES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_is_float32_rounded(initializer, dtype):
    shape = (7, 1, 5)
    exact = initializer(jax.random.key(0), shape)
    rounded = initializer(jax.random.key(0), shape, dtype)
    assert rounded.dtype == dtype
    np.testing.assert_array_equal(rounded, exact.astype(dtype))


def test_float64_has_all_its_digits():
    with jax.enable_x64(True):
        for name in ["GlorotUniform", "HeNormal", "Orthogonal", "RandomNormal", "STFT"]:
            w = initializers.get(name)(jax.random.key(0), (7, 1, 5), jnp.float64)
            assert w.dtype == jnp.float64
            assert not np.array_equal(w, w.astype(jnp.float32))
        theirs = keras_object("GlorotUniform", {"seed": 3})((7, 3, 2), dtype="float64")
        np.testing.assert_array_equal(
            GlorotUniform(seed=3)(None, (7, 3, 2), jnp.float64), np.asarray(theirs)
        )


@pytest.mark.parametrize("shape", [(7, 3, 2), (1, 6, 5), (1, 3, 20)])
def test_orthogonal_is_orthogonal(shape):
    w = Orthogonal(gain=2.0)(jax.random.key(0), shape).reshape(-1, shape[-1])
    gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
    np.testing.assert_allclose(gram, 4 * np.eye(min(w.shape)), atol=1e-5)


@pytest.mark.parametrize("initializer", EXAMPLES)
def test_values_are_hashable_and_comparable(initializer):
    assert initializers.get(initializer) is initializer
    copy = initializers.get(json.loads(json.dumps(initializers.serialize(initializer))))
    assert copy == initializer
    assert hash(copy) == hash(initializer)
    assert initializer != Constant(123)


@pytest.mark.parametrize(
    ("peer", "initializer"),
    [("keras", initializer) for initializer in EXAMPLES]
    + [("tf_keras", example) for example in EXAMPLES if not isinstance(example, STFT)],
)
def test_keras_reads_ours_and_we_read_theirs(peer, initializer):
    module = getattr(peers, peer)().initializers
    described = initializers.serialize(initializer)
    theirs = module.get(described)
    assert type(theirs).__name__ == described["class_name"]
    assert initializers.get(module.serialize(theirs)) == initializer
    if peer == "tf_keras":
        legacy = module.serialize(theirs, use_legacy_format=True)
        assert initializers.get(legacy) == initializer


def test_every_name_of_keras_is_known():
    keras = peers.keras()
    from keras.src.initializers import ALL_OBJECTS_DICT

    # The base class, and the initializer of square matrices.
    left_out = {"Initializer", "Identity"}
    for name, cls in ALL_OBJECTS_DICT.items():
        if cls.__name__ in left_out:
            continue
        if cls.__name__ == "Constant":  # which Keras 3.15 cannot look up by its name
            assert initializers.get(name) == Constant(0.0)
            continue
        ours = initializers.serialize(initializers.get(name))
        assert ours["class_name"] == cls.__name__
        theirs = keras.initializers.serialize(keras.initializers.get(name))
        shown = {k: v for k, v in theirs["config"].items() if not k.endswith("_axes")}
        assert ours["config"] == shown


def test_every_name_of_keras_2_is_known():
    module = peers.tf_keras().initializers
    for name in ["zeros", "zero", "one", "normal", "uniform", "glorot_uniform", "he_normal"]:
        ours = initializers.serialize(initializers.get(name))
        assert ours["class_name"] == type(module.get(name)).__name__
        assert ours["config"] == module.get(name).get_config()


def test_get_passes_callables_and_makes_instances_of_classes():
    mine = jax.nn.initializers.normal(0.1)
    assert initializers.get(mine) is mine
    assert initializers.get(None) is None
    assert initializers.serialize(None) is None
    assert initializers.get(Zeros) == Zeros()
    assert VarianceScaling(distribution="Normal") == VarianceScaling()
    with pytest.raises(TypeError, match=r"init.*cannot be serialized: only Constant, Glorot"):
        initializers.serialize(mine)


def scaling(**arguments):
    return functools.partial(VarianceScaling, **arguments)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Constant(True), TypeError, r"value must be a finite number, got True"),
        (lambda: Constant(["a"]), TypeError, r"value must be a finite number or an array of them"),
        (lambda: Constant(float("nan")), ValueError, r"value must be a finite number, got nan"),
        (lambda: RandomNormal(stddev=-1), ValueError, r"stddev must be .*>= 0, got -1"),
        (lambda: RandomNormal(mean="0"), TypeError, r"mean must be a finite number, got '0'"),
        (lambda: TruncatedNormal(stddev=-1), ValueError, r"stddev must be .*>= 0, got -1"),
        (lambda: RandomUniform(1, 0), ValueError, r"minval must be <= maxval, got 1 and 0"),
        (lambda: GlorotUniform(seed=1.5), TypeError, r"seed must be None or an int .*got 1\.5"),
        (lambda: GlorotUniform(seed=True), TypeError, r"seed must be None or an int .*got True"),
        (lambda: GlorotUniform(seed=-1), ValueError, r"seed must be .*\[0, 2\*\*32\), got -1"),
        (lambda: Orthogonal(seed=2**32), ValueError, r"seed must be .*got 4294967296"),
        (lambda: HeNormal(input_axes=[0]), ValueError, r"must be given together, got"),
        (lambda: HeNormal(None, [0], [1.0]), TypeError, r"output_axes must be an int or"),
        (lambda: HeNormal(None, [3], [0])(None, (1, 2, 3)), ValueError, r"axes of shape \(1, 2, 3"),
        (scaling(scale=0), ValueError, r"scale must be > 0, got 0"),
        (scaling(scale=-1), ValueError, r"scale must be a finite number >= 0, got -1"),
        (scaling(mode="fan"), ValueError, r"mode must be 'fan_in', .*got 'fan'"),
        (scaling(distribution="cauchy"), ValueError, r"distribution must be .*got 'cauchy'"),
        (scaling(distribution=None), ValueError, r"distribution must be .*got None"),
        (lambda: STFT(side="left"), ValueError, r"side must be 'real' or 'imag', got 'left'"),
        (lambda: STFT(scaling="power"), ValueError, r"scaling must be .*got 'power'"),
        (lambda: STFT(window="nosuch"), ValueError, r"window must be a name .*got 'nosuch'"),
        (lambda: STFT()(None, (7, 3, 2)), ValueError, r"needs a shape \(K, 1, M\).*\(7, 3, 2\)"),
        (lambda: STFT(window=(1.0,))(None, (7, 1, 2)), ValueError, r"must have K = 7 numbers, g"),
        (lambda: LecunUniform()(None, (3, 2)), TypeError, r"key must be .* no seed, got None"),
        (lambda: HeNormal(seed=1)(None, (3,), int), TypeError, r"dtype must be .*floating"),
        (lambda: Orthogonal(seed=1)(None, (3,)), ValueError, r"rank 2 or more, got \(3,\)"),
        (lambda: initializers.get("glorot"), ValueError, r"unknown initializer 'glorot'"),
        (lambda: initializers.get("glorot_unifrm"), ValueError, r"did you mean 'glorot_uniform'\?"),
        (lambda: initializers.get("identity"), ValueError, r"unknown initializer 'identity'"),
        (lambda: initializers.get([1.0]), TypeError, r"initializer must be None, a name"),
        (
            lambda: initializers.get({"class_name": "Ones", "config": {"value": 2}}),
            ValueError,
            r"initializer Ones has no argument 'value'; its arguments are: none",
        ),
    ],
)
def test_wrong_calls(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_ones_and_zeros_ignore_the_key():
    assert Ones()(None, (2, 3), jnp.bfloat16).dtype == jnp.bfloat16
    assert float(Zeros()(jax.random.key(0), (2, 3)).sum()) == 0
