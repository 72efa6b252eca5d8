"""Draw weights: Keras' initializers as hashable values.

An initializer is called the JAX way, (key, shape, dtype) -> array. With a `seed` (an int in
[0, 2**32)) it ignores the key, and what it draws depends on the seed and the shape alone: the
numbers that Keras draws on its JAX backend. Random numbers for bfloat16 and float16 are drawn in
float32 and rounded. A fan is the number of inputs (outputs) that meet in one output (input): for a
depthwise kernel (K, C, M) they are K*C and K*M, for a pointwise kernel (1, C*M, F) C*M and F.

Source: https://keras.io/api/layers/initializers/
"""

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flax_sepconv.keras import registry
from flax_sepconv.keras.constant import Constant
from flax_sepconv.keras.stft import STFT

Initializer = Callable[..., jax.Array]
Key = jax.Array | None
Shape = Sequence[int]
Axes = tuple[int, ...] | None

# The standard deviation of a unit normal cut at +-2, to the digits that Keras has.
_CUT_STDDEV = 0.87962566103423978


def _check(instance: Any, **lows: float) -> None:
    """Normalize the numbers, which must be at least `lows`, the seed and the axes of an object."""
    for name, low in lows.items():
        value = registry.real(name, getattr(instance, name), low=low)
        object.__setattr__(instance, name, value)
    seed = getattr(instance, "seed", None)
    if seed is not None:
        if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
            raise TypeError(f"seed must be None or an int in [0, 2**32), got {seed!r}")
        if not 0 <= int(seed) < 2**32:
            raise ValueError(f"seed must be None or an int in [0, 2**32), got {seed}")
        object.__setattr__(instance, "seed", int(seed))
    pair = [getattr(instance, name, None) for name in ("input_axes", "output_axes")]
    if (pair[0] is None) != (pair[1] is None):
        raise ValueError(f"input_axes and output_axes must be given together, got {pair}")
    if pair[0] is not None:
        for name, given in zip(("input_axes", "output_axes"), pair, strict=True):
            axes = registry.axes(name, given)
            object.__setattr__(instance, name, (axes,) if isinstance(axes, int) else axes)


@dataclasses.dataclass(frozen=True)
class Zeros:
    """Fill with zeros.

    >>> Zeros()(None, (2,)).tolist()
    [0.0, 0.0]
    """

    def __call__(self, key: Key, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Return an array of this shape and dtype."""
        return jnp.zeros(shape, dtype)


@dataclasses.dataclass(frozen=True)
class Ones:
    """Fill with ones.

    >>> Ones()(None, (2,)).tolist()
    [1.0, 1.0]
    """

    def __call__(self, key: Key, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Return an array of this shape and dtype."""
        return jnp.ones(shape, dtype)


@dataclasses.dataclass(frozen=True)
class RandomNormal:
    """Draw from the normal distribution of `mean` and `stddev` >= 0.

    >>> RandomNormal(seed=1)(None, (3, 2)).shape
    (3, 2)
    """

    mean: float = 0.0
    stddev: float = 0.05
    seed: int | None = None

    def __post_init__(self) -> None:
        _check(self, mean=-math.inf, stddev=0)

    def __call__(self, key: Key, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Return an array of this shape and dtype."""
        return _draw("untruncated_normal", self.seed, key, shape, dtype, self.mean, self.stddev)


@dataclasses.dataclass(frozen=True)
class TruncatedNormal:
    """Draw from the normal distribution of `mean` and `stddev` >= 0, cut at mean +- 2 stddev.

    >>> bool(abs(TruncatedNormal(stddev=1.0)(jax.random.key(0), (99,))).max() <= 2)
    True
    """

    mean: float = 0.0
    stddev: float = 0.05
    seed: int | None = None

    def __post_init__(self) -> None:
        _check(self, mean=-math.inf, stddev=0)

    def __call__(self, key: Key, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Return an array of this shape and dtype."""
        return _draw("truncated_normal", self.seed, key, shape, dtype, self.mean, self.stddev)


@dataclasses.dataclass(frozen=True)
class RandomUniform:
    """Draw uniformly from [minval, maxval).

    >>> bool(RandomUniform(0.0, 1.0)(jax.random.key(0), (99,)).min() >= 0)
    True
    """

    minval: float = -0.05
    maxval: float = 0.05
    seed: int | None = None

    def __post_init__(self) -> None:
        _check(self, minval=-math.inf, maxval=-math.inf)
        if self.minval > self.maxval:
            raise ValueError(f"minval must be <= maxval, got {self.minval} and {self.maxval}")

    def __call__(self, key: Key, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Return an array of this shape and dtype."""
        return _draw("uniform", self.seed, key, shape, dtype, self.minval, self.maxval)


@dataclasses.dataclass(frozen=True)
class VarianceScaling:
    """Draw with mean 0 and variance scale / n, where n is what `mode` says.

    Args:
        scale: a number > 0.
        mode: "fan_in", "fan_out" or "fan_avg" (their mean).
        distribution: "truncated_normal" (also called "normal"), "untruncated_normal" or "uniform".
        seed: None, or an int in [0, 2**32).
        input_axes: the axes whose sizes multiply to fan_in; with output_axes, or None.
        output_axes: the axes whose sizes multiply to fan_out; with input_axes, or None.

    Raises:
        ValueError, TypeError: an argument breaks its rule; on the call, the shape lacks an axis.

    >>> w = VarianceScaling(3.0, distribution="uniform")(jax.random.key(0), (3, 4, 5))
    >>> bool(abs(w).max() <= (3 * 3.0 / 12) ** 0.5)
    True
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"
    seed: int | None = None
    input_axes: Axes = None
    output_axes: Axes = None

    def __post_init__(self) -> None:
        _check(self, scale=0)
        if self.scale == 0:
            raise ValueError("scale must be > 0, got 0")
        if self.mode not in ("fan_in", "fan_out", "fan_avg"):
            raise ValueError(f"mode must be 'fan_in', 'fan_out' or 'fan_avg', got {self.mode!r}")
        known = ("truncated_normal", "untruncated_normal", "uniform", "normal")
        lowered = self.distribution.lower() if isinstance(self.distribution, str) else None
        if lowered not in known:
            raise ValueError(
                f"distribution must be one of {', '.join(known)}, got {self.distribution!r}"
            )
        object.__setattr__(self, "distribution", known[0] if lowered == "normal" else lowered)

    def __call__(self, key: Key, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Return an array of this shape and dtype."""
        return _scaled(self, self.scale, self.mode, self.distribution, key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class _Preset:
    """A named case of `VarianceScaling`."""

    seed: int | None = None
    input_axes: Axes = None
    output_axes: Axes = None

    _case: ClassVar[tuple[float, str, str]]  # scale, mode, distribution

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, key: Key, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Return an array of this shape and dtype."""
        return _scaled(self, *self._case, key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class GlorotUniform(_Preset):
    """Draw uniformly from [-a, a), a = sqrt(6 / (fan_in + fan_out)).

    The default of both kernels. Fields as of `VarianceScaling`.

    >>> bool(abs(GlorotUniform()(jax.random.key(0), (3, 4, 5))).max() <= (6 / 27) ** 0.5)
    True
    """

    _case = (1.0, "fan_avg", "uniform")


@dataclasses.dataclass(frozen=True)
class GlorotNormal(_Preset):
    """Draw from a truncated normal of variance 2 / (fan_in + fan_out)."""

    _case = (1.0, "fan_avg", "truncated_normal")


@dataclasses.dataclass(frozen=True)
class HeUniform(_Preset):
    """Draw uniformly from [-a, a), a = sqrt(6 / fan_in)."""

    _case = (2.0, "fan_in", "uniform")


@dataclasses.dataclass(frozen=True)
class HeNormal(_Preset):
    """Draw from a truncated normal of variance 2 / fan_in."""

    _case = (2.0, "fan_in", "truncated_normal")


@dataclasses.dataclass(frozen=True)
class LecunUniform(_Preset):
    """Draw uniformly from [-a, a), a = sqrt(3 / fan_in)."""

    _case = (1.0, "fan_in", "uniform")


@dataclasses.dataclass(frozen=True)
class LecunNormal(_Preset):
    """Draw from a truncated normal of variance 1 / fan_in."""

    _case = (1.0, "fan_in", "truncated_normal")


@dataclasses.dataclass(frozen=True)
class Orthogonal:
    """Draw a matrix with orthonormal columns (rows, if it is wide), times `gain`.

    The matrix has all axes but the last as rows: (K*C, M) for a depthwise kernel, (C*M, F) for a
    pointwise one. A bias, of rank 1, is a ValueError.

    >>> w = Orthogonal()(jax.random.key(0), (3, 2, 4)).reshape(6, 4)
    >>> bool(jnp.allclose(w.T @ w, jnp.eye(4), atol=1e-5))
    True
    """

    gain: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _check(self, gain=-math.inf)

    def __call__(self, key: Key, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Return an array of this shape and dtype."""
        if len(shape) < 2:
            raise ValueError(f"Orthogonal needs a shape of rank 2 or more, got {tuple(shape)}")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        tall = (max(rows, columns), min(rows, columns))
        wide = jnp.promote_types(dtype, jnp.float32)
        q, r = jnp.linalg.qr(_draw("untruncated_normal", self.seed, key, tall, wide, 0.0, 1.0))
        q = q * jnp.sign(jnp.diag(r))  # makes the draw uniform over all such matrices
        return (self.gain * (q.T if rows < columns else q).reshape(shape)).astype(dtype)


@dataclasses.dataclass(frozen=True)
class UniformUnitScaling:
    """Draw uniformly from [-a, a), a = factor * sqrt(3 / n): TF1's initializer of that name.

    n is the number of elements without the last axis: a kernel's fan_in, and 1 for a bias. Keras
    has no such initializer.

    >>> bool(abs(UniformUnitScaling()(jax.random.key(0), (3, 4, 5))).max() <= 0.5)
    True
    """

    factor: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _check(self, factor=0)

    def __call__(self, key: Key, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Return an array of this shape and dtype."""
        limit = self.factor * math.sqrt(3.0 / max(1, math.prod(shape[:-1])))
        return _draw("uniform", self.seed, key, shape, dtype, -limit, limit)


_KNOWN = registry.named(
    *(Zeros, Ones, Constant, RandomNormal, TruncatedNormal, RandomUniform, VarianceScaling),
    *(GlorotUniform, GlorotNormal, HeUniform, HeNormal, LecunUniform, LecunNormal),
    *(Orthogonal, STFT, UniformUnitScaling),
    normal=RandomNormal,
    uniform=RandomUniform,
    one=Ones,
    zero=Zeros,
    OrthogonalInitializer=Orthogonal,
    STFTInitializer=STFT,
)


def get(identifier: Any) -> Initializer | None:
    """Return the initializer that None, a Keras name, a Keras dict or a callable stands for.

    A callable of your own is called (key, shape, dtype). An array is a `Constant`. The "dtype" that
    TensorFlow 1 wrote into the dicts is that of the weight, and passed over. A seed that is the
    dict of Keras 3's SeedGenerator stands for what a new one draws first.

    Raises:
        ValueError: the name or an argument in the dict is unknown.
        TypeError: the identifier is none of these.

    >>> get("he_normal"), get({"class_name": "Constant", "config": {"value": 0.5}})
    (HeNormal(seed=None, input_axes=None, output_axes=None), Constant(value=0.5))
    """
    if isinstance(identifier, np.ndarray | np.generic | jax.Array):
        return Constant(identifier)
    if isinstance(identifier, Mapping):
        if identifier.get("class_name") == "function":
            raise ValueError(
                "initializer is a function or an array, of which Keras writes neither code nor "
                f"numbers, only a name: {identifier.get('config')!r}"
            )
        if isinstance(identifier.get("config"), Mapping):
            identifier = {**identifier, "config": _plain(identifier)}
    return registry.get("initializer", _KNOWN, identifier)


def _plain(identifier: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a Keras dict, with numbers in the place of what holds them."""
    config = {key: value for key, value in identifier["config"].items() if key != "dtype"}
    value, seed = config.get("value"), config.get("seed")
    if isinstance(value, Mapping) and value.get("class_name") in ("__numpy__", "__tensor__"):
        held = value.get("config")
        value = config["value"] = held.get("value") if isinstance(held, Mapping) else held
    if isinstance(value, list | tuple) and "dtype" in identifier["config"]:
        raise ValueError(
            "Constant of TensorFlow 1 repeats the last of several values until the weight is full, "
            f"which none of ours does: give the whole array instead, got value={value!r}"
        )
    if isinstance(seed, Mapping):
        name, given = registry.parse("seed", seed)
        if name == "SeedGenerator" and isinstance(given, Mapping):
            config["seed"] = given.get("seed")
    return config


def serialize(initializer: Initializer | None) -> dict[str, Any] | None:
    """Return the Keras dict of an initializer, None for None.

    `input_axes` and `output_axes` appear only where they are set: Keras before 3.15 has none.

    Raises:
        TypeError: the initializer is not one of this module.

    >>> serialize(GlorotUniform(seed=3))
    {'class_name': 'GlorotUniform', 'config': {'seed': 3}}
    """
    described = registry.serialize("initializer", _KNOWN, initializer)
    for name in ("input_axes", "output_axes"):
        if described and described["config"].get(name, ()) is None:
            del described["config"][name]
    return described


def fans(shape: Shape, input_axes: Axes = None, output_axes: Axes = None) -> tuple[int, int]:
    """Return (fan_in, fan_out) of a weight's shape, as Keras counts them.

    >>> fans((31, 12, 2)), fans((7,))
    ((372, 62), (7, 7))
    """
    if input_axes is not None and output_axes is not None:
        if not all(-len(shape) <= axis < len(shape) for axis in input_axes + output_axes):
            raise ValueError(
                f"input_axes and output_axes must be axes of shape {tuple(shape)}, "
                f"got {input_axes} and {output_axes}"
            )
        return math.prod(shape[a] for a in input_axes), math.prod(shape[a] for a in output_axes)
    if len(shape) < 2:
        return math.prod(shape), math.prod(shape)
    receptive_field = math.prod(shape[:-2])
    return shape[-2] * receptive_field, shape[-1] * receptive_field


def _scaled(
    fields: Any, scale: float, mode: str, distribution: str, key: Key, shape: Shape, dtype: Any
) -> jax.Array:
    fan_in, fan_out = fans(shape, fields.input_axes, fields.output_axes)
    count = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
    variance = scale / max(1.0, count)
    if distribution == "uniform":
        limit = math.sqrt(3.0 * variance)
        return _draw(distribution, fields.seed, key, shape, dtype, -limit, limit)
    cut = _CUT_STDDEV if distribution == "truncated_normal" else 1.0
    return _draw(distribution, fields.seed, key, shape, dtype, 0.0, math.sqrt(variance) / cut)


def _draw(
    distribution: str, seed: int | None, key: Key, shape: Shape, dtype: Any, a: float, b: float
) -> jax.Array:
    """Draw from uniform [a, b), or from a normal of mean a and standard deviation b."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype must be a real floating-point type, got {dtype}")
    if seed is not None:
        # Keras' key for an int seed on the JAX backend.
        key = jax.random.wrap_key_data(jnp.array([seed, 0], jnp.uint32), impl="threefry2x32")
    if key is None:
        raise TypeError("key must be a jax.random key where the initializer has no seed, got None")
    shape, wide = tuple(shape), jnp.promote_types(dtype, jnp.float32)
    if distribution == "uniform":
        return jax.random.uniform(key, shape, wide, a, b).astype(dtype)
    if distribution == "truncated_normal":
        sample = jax.random.truncated_normal(key, -2.0, 2.0, shape, wide)
    else:
        sample = jax.random.normal(key, shape, wide)
    return (sample * b + a).astype(dtype)
