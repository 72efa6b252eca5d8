"""Apply Keras' activation functions, by name, by dict or as functions.

Every function is called x -> y, with y of the dtype of x; those that are not exact in bfloat16 and
float16 are computed in float32 and rounded once.

Source: https://keras.io/api/layers/activations/
"""

import dataclasses
import functools
import inspect
import numbers
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec

import jax
import jax.numpy as jnp

from flax_sepconv.keras import registry

Activation = Callable[[jax.Array], jax.Array]

_SELU_ALPHA = 1.6732632423543772
_SELU_SCALE = 1.0507009873554805

# Names of those that mix the elements along an axis, the last if none is given.
ALONG_AN_AXIS = ("glu", "log_softmax", "softmax", "sparsemax")

P = ParamSpec("P")
_Function = Callable[Concatenate[jax.Array, P], jax.Array]


def _in_float32(function: _Function[P]) -> _Function[P]:
    """Compute a function of a bfloat16 or float16 array in float32, and round the result."""

    @functools.wraps(function)
    def wrapped(x: jax.Array, /, *args: P.args, **kwargs: P.kwargs) -> jax.Array:
        x = jnp.asarray(x)
        if x.dtype not in (jnp.bfloat16, jnp.float16):
            return function(x, *args, **kwargs)
        return function(x.astype(jnp.float32), *args, **kwargs).astype(x.dtype)

    return wrapped


def linear(x: jax.Array) -> jax.Array:
    """Return x."""
    return x


def relu(
    x: jax.Array,
    negative_slope: float = 0.0,
    max_value: float | None = None,
    threshold: float = 0.0,
) -> jax.Array:
    """Return x above the threshold, else negative_slope * (x - threshold); at most max_value.

    >>> relu(jnp.array([-2.0, 0.5, 9.0]), negative_slope=0.5, max_value=6.0).tolist()
    [-1.0, 0.5, 6.0]
    """
    above = jnp.where(x > threshold, x, 0) if threshold else jax.nn.relu(x)
    if max_value is not None:
        above = jnp.clip(above, 0, max_value)
    return above - negative_slope * jax.nn.relu(threshold - x) if negative_slope else above


def relu6(x: jax.Array) -> jax.Array:
    """Return min(max(x, 0), 6)."""
    return jax.nn.relu6(x)


def leaky_relu(x: jax.Array, negative_slope: float = 0.2) -> jax.Array:
    """Return x where x > 0, else negative_slope * x, whose slope is also TensorFlow's at 0."""
    return jnp.where(x > 0, x, negative_slope * x)


@_in_float32
def elu(x: jax.Array, alpha: float = 1.0) -> jax.Array:
    """Return x where x > 0, else alpha * (exp(x) - 1)."""
    return jax.nn.elu(x, alpha)


@_in_float32
def selu(x: jax.Array) -> jax.Array:
    """Return 1.0507 * elu(x, 1.6733), the constants to all digits; slope 1.0507 at 0."""
    negative = jnp.minimum(x, 0)
    return jnp.where(x < 0, _SELU_SCALE * _SELU_ALPHA * jnp.expm1(negative), _SELU_SCALE * x)


@_in_float32
def celu(x: jax.Array, alpha: float = 1.0) -> jax.Array:
    """Return x where x > 0, else alpha * (exp(x / alpha) - 1)."""
    return jax.nn.celu(x, alpha)


@_in_float32
def gelu(x: jax.Array, approximate: bool = False) -> jax.Array:
    """Return x * Phi(x), Phi the normal distribution function; by its tanh form if approximate."""
    return jax.nn.gelu(x, approximate=approximate)


@_in_float32
def silu(x: jax.Array) -> jax.Array:
    """Return x * sigmoid(x); also called swish."""
    return jax.nn.silu(x)


@_in_float32
def hard_silu(x: jax.Array) -> jax.Array:
    """Return x * relu6(x + 3) / 6; also called hard_swish."""
    return jax.nn.hard_silu(x)


@_in_float32
def mish(x: jax.Array) -> jax.Array:
    """Return x * tanh(softplus(x))."""
    return jax.nn.mish(x)


@_in_float32
def glu(x: jax.Array, axis: int = -1) -> jax.Array:
    """Return a * sigmoid(b), a and b the halves of x along an axis of even size.

    Raises:
        ValueError: the size is odd.
    """
    if x.shape[axis] % 2:
        raise ValueError(f"glu needs an even size along axis {axis}, got shape {x.shape}")
    return jax.nn.glu(x, axis)


@_in_float32
def sigmoid(x: jax.Array) -> jax.Array:
    """Return 1 / (1 + exp(-x))."""
    return jax.nn.sigmoid(x)


@_in_float32
def hard_sigmoid(x: jax.Array) -> jax.Array:
    """Return relu6(x + 3) / 6, as in Keras 3; that of Keras 2 is `hard_sigmoid_keras2`."""
    return jax.nn.hard_sigmoid(x)


@_in_float32
def hard_sigmoid_keras2(x: jax.Array) -> jax.Array:
    """Return clip(0.2 * x + 0.5, 0, 1), which Keras 2 and TF1 call hard_sigmoid.

    >>> hard_sigmoid_keras2(jnp.array([-3.0, 0.5, 3.0])).round(3).tolist()
    [0.0, 0.6000000238418579, 1.0]
    """
    y = 0.2 * x + 0.5
    return jnp.where(y < 0, 0, jnp.where(y > 1, 1, y))  # at the corners TensorFlow's slope is 0.2


@_in_float32
def log_sigmoid(x: jax.Array) -> jax.Array:
    """Return log(sigmoid(x))."""
    return jax.nn.log_sigmoid(x)


@_in_float32
def sparse_sigmoid(x: jax.Array) -> jax.Array:
    """Return clip((x + 1) / 2, 0, 1)."""
    return jax.nn.sparse_sigmoid(x)


@_in_float32
def tanh(x: jax.Array) -> jax.Array:
    """Return the hyperbolic tangent of x."""
    return jnp.tanh(x)


@_in_float32
def tanh_shrink(x: jax.Array) -> jax.Array:
    """Return x - tanh(x)."""
    return x - jnp.tanh(x)


def hard_tanh(x: jax.Array) -> jax.Array:
    """Return clip(x, -1, 1)."""
    return jax.nn.hard_tanh(x)


def soft_shrink(x: jax.Array, threshold: float = 0.5) -> jax.Array:
    """Return x moved toward zero by the threshold, and zero within it."""
    return jnp.where(
        x > threshold, x - threshold, jnp.where(x < -threshold, x + threshold, jnp.zeros_like(x))
    )


def hard_shrink(x: jax.Array, threshold: float = 0.5) -> jax.Array:
    """Return x where abs(x) > threshold, else 0."""
    return jnp.where(jnp.abs(x) > threshold, x, jnp.zeros_like(x))


def threshold(x: jax.Array, threshold: float, default_value: float) -> jax.Array:
    """Return x where x > threshold, else default_value."""
    return jnp.where(x > threshold, x, jnp.full_like(x, default_value))


@_in_float32
def softplus(x: jax.Array) -> jax.Array:
    """Return log(1 + exp(x))."""
    return jax.nn.softplus(x)


@_in_float32
def softsign(x: jax.Array) -> jax.Array:
    """Return x / (1 + abs(x))."""
    return jax.nn.soft_sign(x)


@_in_float32
def sparse_plus(x: jax.Array) -> jax.Array:
    """Return 0 where x <= -1, x where x >= 1, else (x + 1)**2 / 4."""
    return jax.nn.sparse_plus(x)


@_in_float32
def squareplus(x: jax.Array, b: float = 4) -> jax.Array:
    """Return (x + sqrt(x**2 + b)) / 2."""
    return jax.nn.squareplus(x, b)


@_in_float32
def exponential(x: jax.Array) -> jax.Array:
    """Return exp(x)."""
    return jnp.exp(x)


@_in_float32
def softmax(x: jax.Array, axis: int | tuple[int, ...] = -1) -> jax.Array:
    """Return exp(x) / sum(exp(x)), the sum over an axis."""
    return jax.nn.softmax(x, axis)


@_in_float32
def log_softmax(x: jax.Array, axis: int | tuple[int, ...] = -1) -> jax.Array:
    """Return x - log(sum(exp(x))), the sum over an axis."""
    return jax.nn.log_softmax(x, axis)


@_in_float32
def sparsemax(x: jax.Array, axis: int = -1) -> jax.Array:
    """Return the point of the probability simplex nearest to x along an axis.

    max(x - t, 0), t such that the sum is 1 (https://arxiv.org/abs/1602.02068). Keras up to 3.15
    takes a wrong t, and sums below 1, where more than one value stays above zero
    (https://github.com/keras-team/keras/pull/23469).

    >>> sparsemax(jnp.array([0.5, 0.0, -2.0])).tolist()
    [0.75, 0.25, 0.0]
    """
    x = x - jax.lax.stop_gradient(jnp.max(x, axis, keepdims=True))  # changes nothing but rounding
    ordered = jnp.sort(x, axis, descending=True)
    shape = [1] * x.ndim
    shape[axis] = -1
    ranks = jnp.arange(1, x.shape[axis] + 1, dtype=x.dtype).reshape(shape)
    above = 1 + ranks * ordered > jnp.cumsum(ordered, axis=axis)
    total = jnp.sum(jnp.where(above, ordered, 0), axis, keepdims=True)
    return jax.nn.relu(x - (total - 1) / jnp.sum(above, axis, keepdims=True, dtype=x.dtype))


_FUNCTIONS: tuple[Callable[..., jax.Array], ...] = (
    *(linear, relu, relu6, leaky_relu, elu, selu, celu, gelu, silu, hard_silu, mish, glu),
    *(sigmoid, hard_sigmoid, hard_sigmoid_keras2, log_sigmoid, sparse_sigmoid),
    *(tanh, tanh_shrink, hard_tanh),
    *(soft_shrink, hard_shrink, threshold, softplus, softsign, sparse_plus, squareplus),
    *(exponential, softmax, log_softmax, sparsemax),
)
_KNOWN = {function.__name__: function for function in _FUNCTIONS}
_KNOWN |= {"swish": silu, "hard_swish": hard_silu}
# The layers that Keras takes as activations, with what it writes for every layer.
_LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ReLU": ("relu", {}),
    "ThresholdedReLU": ("relu", {"threshold": 1.0}),
    "LeakyReLU": ("leaky_relu", {"negative_slope": 0.3}),  # the function's default is 0.2
    "ELU": ("elu", {}),
    "Softmax": ("softmax", {}),
}
_LAYER_KEYS = {"name", "trainable", "dtype", "robust_masking"}  # no mask reaches an activation
_KERAS_2_WORDS = {
    "LeakyReLU": ("alpha", "negative_slope"),
    "ThresholdedReLU": ("theta", "threshold"),
}


@dataclasses.dataclass(frozen=True)
class Configured:
    """Fix arguments of a named activation function; hashable, unlike `functools.partial`.

    Args:
        name: a name that `get` knows.
        arguments: its keyword arguments, as a dict or as pairs.

    Raises:
        ValueError, TypeError: the name or an argument is unknown, or its value is no number,
            bool, None or tuple of ints.

    >>> Configured("leaky_relu", {"negative_slope": 0.5})(jnp.array([-1.0, 1.0])).tolist()
    [-0.5, 1.0]
    """

    name: str
    arguments: tuple[tuple[str, Any], ...]

    def __post_init__(self) -> None:
        function = registry.lookup("activation", _KNOWN, self.name)
        object.__setattr__(self, "name", function.__name__)
        given = dict(self.arguments)
        parameters = list(inspect.signature(function).parameters.values())[1:]
        known = [parameter.name for parameter in parameters]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ValueError(
                f"activation {self.name} has no argument {', '.join(map(repr, unknown))}; "
                f"its arguments are: {', '.join(known) or 'none'}"
            )
        pairs = [(name, _plain(self.name, name, given[name])) for name in known if name in given]
        missing = [p.name for p in parameters if p.default is p.empty and p.name not in given]
        if missing:
            raise ValueError(f"activation {self.name} needs the argument {', '.join(missing)}")
        object.__setattr__(self, "arguments", tuple(pairs))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the activation of x."""
        return _KNOWN[self.name](x, **dict(self.arguments))


def get(identifier: Any) -> Activation:
    """Return the activation that None, a Keras name, a Keras dict or a callable stands for.

    None is `linear`. A dict names a function ("relu") and its keyword arguments as its config, or
    is what Keras writes for a function or for one of its activation layers (ReLU, LeakyReLU, ELU,
    Softmax, Keras 2's ThresholdedReLU, Activation).

    Raises:
        ValueError: the name or an argument in the dict is unknown.
        TypeError: the identifier is none of these.

    >>> get({"class_name": "leaky_relu", "config": {"negative_slope": 0.1}})
    Configured(name='leaky_relu', arguments=(('negative_slope', 0.1),))
    """
    if identifier is None:
        return linear
    if isinstance(identifier, str):
        return registry.lookup("activation", _KNOWN, identifier)
    if not isinstance(identifier, Mapping):
        if callable(identifier):
            return identifier
        raise TypeError(
            "activation must be None, a name, a dict with 'class_name' and 'config', or a "
            f"callable, got {identifier!r}"
        )
    if set(identifier) == {"value"}:  # all that Keras writes of a lambda
        raise ValueError("activation is the bytecode of a lambda, which is never run")
    name, config = registry.parse("activation", identifier)
    if name == "function" and isinstance(config, str):
        return get(config)
    if not isinstance(config, Mapping):
        raise TypeError(f"config of activation {name} must be a dict, got {config!r}")
    if name == "Activation":
        if "activation" not in config:
            raise ValueError(f"config of activation {name} must have 'activation', got {config!r}")
        return get(config["activation"])
    if name in _LAYERS:
        name, config = _function_of(name, config)
    return Configured(name, tuple(config.items())) if config else get(name)


def serialize(activation: Activation | None) -> str | dict[str, Any]:
    """Return the Keras name of an activation, or a dict if it has arguments.

    Raises:
        TypeError: the activation is not one of this module.

    >>> serialize(get("swish")), serialize(None)
    ('silu', 'linear')
    """
    if activation is None:
        return "linear"
    if isinstance(activation, Configured):
        config = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in activation.arguments
        }
        return {"class_name": activation.name, "config": config}
    name = getattr(activation, "__name__", None)
    if name is None or _KNOWN.get(name) is not activation:
        raise TypeError(
            f"activation {activation!r} cannot be serialized: only {', '.join(sorted(_KNOWN))} can"
        )
    return name


def _function_of(layer: str, config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the function that a layer of Keras calls, and its arguments."""
    # Keras 2 may hold a number as an array of rank 0.
    given = {
        key: value.item() if getattr(value, "shape", None) == () else value
        for key, value in config.items()
        if key not in _LAYER_KEYS
    }
    before, after = _KERAS_2_WORDS.get(layer, ("", ""))
    if before in given:
        given[after] = given.pop(before)
    name, defaults = _LAYERS[layer]
    return name, defaults | given


def _plain(activation: str, name: str, value: Any) -> Any:
    told = f"{name} of {activation}"
    if name == "axis":
        return registry.axes(told, value)
    if name == "approximate":
        if not isinstance(value, bool):
            raise TypeError(f"{told} must be True or False, got {value!r}")
        return value
    if name == "max_value" and value is None:
        return value
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{told} must be a number, got {value!r}")
    return registry.real(told, value)
