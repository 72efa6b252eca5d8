"""How a layer computes in 8-bit integers: the value of the layers' argument `quantization`."""

import dataclasses
import numbers
from typing import Any, Literal, TypeVar, get_args

Weights = Literal["per_channel", "per_tensor"]
Activations = Literal["static", "dynamic", "dynamic_per_example"]
Observer = Literal["moving_average", "min_max"]
Name = TypeVar("Name", bound=str)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Int8:
    """8-bit integers for the weights and the activations of a layer.

    While it trains, a layer with such a `quantization` computes with the rounded numbers that its
    integers stand for, and takes the derivative of rounding for 1 (and of what is cut off for 0).
    What it needs to know of its activations, their ranges, it observes in calls that make the
    collection "quantization" mutable (nnx: in `train()` mode); other calls use the ranges that
    there are. Where there are none, that is a ValueError, or, inside of `jit`, NaN. `convert` makes
    integers of its weights.

    A transformation that lifts a layer must be told of its collection: stacked layers have
    `nn.scan(..., variable_axes={"params": 0, "quantization": 0})`, and a range for each. (Weights
    that the steps of a scan share can be trained so, and not converted.) Inside of `jax.shard_map`
    a device observes its own examples, and with `axis_name` the steps of all devices.

    Everything is computed in float32, also of other types. The sums are exact as long as 255 * 127
    * K and 255 * 127 * C*M are less than 2^24, up to 518 taps or channels; beyond, they may differ
    in the last bit from those of integers.

    Attributes:
        weights: one scale for each output channel of a kernel, "per_channel", or one for all of it,
            "per_tensor". Weights have no zero point.
        activations: "static": input and depthwise output have scales of observed ranges; "dynamic":
            scales are found in each call, so that 127 steps reach the greatest magnitude of all, or
            "dynamic_per_example", of each example; None: the weights alone are rounded.
        symmetric: whether observed ranges are made symmetric. If not, activations have a zero
            point, and all 256 integers serve what is not symmetric, as behind a ReLU.
        learned: whether step sizes of weights and static activations are parameters, which are
            trained (LSQ). Zero points stay those of the observed ranges. `calibrate` sets the step
            sizes from data; until then those of activations are 1/32.
        observer: "moving_average" of the least and the greatest values of the calls (the plain mean
            of the first 1 / (1 - momentum)), or "min_max" of all calls.
        momentum: of the moving average, from 0 up to, and without, 1.
        warmup: so many calls observe and round nothing: they compute what the layer computes
            without quantization.
        output: whether what comes behind the activation is observed and rounded, too. It keeps a
            static scale with dynamic activations.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import flax_sepconv as fsc
        >>> layer = fsc.SeparableConv1D(5, 4, quantization=Int8(warmup=100))
        >>> x = jnp.ones((2, 10, 3))
        >>> variables = layer.init(jax.random.key(0), x)
        >>> y, updates = layer.apply(variables, x, mutable=["quantization"])
        >>> ranges = updates["quantization"]
        >>> [float(ranges[name]) for name in ("calls", "x_low", "x_high")]
        [1.0, 0.0, 1.0]

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877; LSQ: Esser et al. 2020,
    https://arxiv.org/abs/1902.08153
    """

    weights: Weights = "per_channel"
    activations: Activations | None = "static"
    symmetric: bool = False
    learned: bool = False
    observer: Observer = "moving_average"
    momentum: float = 0.99
    warmup: int = 0
    output: bool = False

    def __post_init__(self) -> None:
        _choice("weights", self.weights, get_args(Weights))
        if self.activations is not None:
            _choice("activations", self.activations, get_args(Activations), "None or ")
        _choice("observer", self.observer, get_args(Observer))
        for name in ("symmetric", "learned", "output"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        momentum: Any = self.momentum
        is_number = isinstance(momentum, numbers.Real) and not isinstance(momentum, bool)
        if not is_number or not 0 <= momentum < 1:
            raise ValueError(f"momentum must be a number from 0 up to 1, got {momentum!r}")
        warmup: Any = self.warmup
        is_count = isinstance(warmup, numbers.Integral) and not isinstance(warmup, bool)
        if not is_count or not 0 <= warmup < 2**31:
            raise ValueError(
                f"warmup must be an int, 0 or more (and less than 2^31), got {warmup!r}"
            )
        if self.learned and self.is_dynamic:
            raise ValueError(
                "learned=True needs activations='static' or None: dynamic scales are found in each "
                f"call, got {self.activations!r}"
            )

    @property
    def is_dynamic(self) -> bool:
        """Whether scales of activations are found in each call."""
        return self.activations not in ("static", None)


def check_config(config: Any) -> None:
    """Raise unless it says how models are quantized."""
    if not isinstance(config, Int8):
        raise TypeError(f"config must be a flax_sepconv.quantization.Int8, got {config!r}")


def check(quantization: Any, implementation: Any) -> None:
    """Raise unless a layer's quantization is None, or says how and fits its implementation."""
    if quantization is None:
        return
    if not isinstance(quantization, Int8):
        raise TypeError(
            f"quantization must be None or a flax_sepconv.quantization.Int8, got {quantization!r}"
        )
    if implementation == "fft":
        raise ValueError(
            "quantization needs sums that are exact, and those of implementation='fft' are not"
        )


def _choice(name: str, value: Any, choices: tuple[Any, ...], before: str = "") -> None:
    if not isinstance(value, str) or value not in choices:
        expected = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be {before}one of {expected}, got {value!r}")


DEFAULT = Int8()
