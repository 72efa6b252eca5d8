"""A trained layer outside of any framework: where it stood, its weights, and its arguments."""

import contextlib
import contextvars
import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from flax_sepconv.interop import scales as scales_lib
from flax_sepconv.keras import config as keras_config
from flax_sepconv.ops.paddings import padding_rule
from flax_sepconv.spec import (
    BIAS,
    DEPTHWISE_KERNEL,
    POINTWISE_KERNEL,
    Arguments,
    DepthwiseArguments,
    SeparableArguments,
)

DTYPES = ("float16", "bfloat16", "float32", "float64")
# What each weight's axes are, in the letters of the whole project; F is C*M where there is no
# pointwise kernel.
AXES = {DEPTHWISE_KERNEL: ("K", "C", "M"), POINTWISE_KERNEL: ("1", "C*M", "F"), BIAS: ("F",)}


_configs = contextvars.ContextVar("configs", default=True)


@contextlib.contextmanager
def without_configs() -> Iterator[None]:
    """Make layers of weights alone, whatever their sources say of arguments."""
    token = _configs.set(False)
    try:
        yield
    finally:
        _configs.reset(token)


class InteropError(ValueError):
    """A file that cannot be read or written, or what is in it is no layer of ours; says which."""


class InteropWarning(UserWarning):
    """What a file has, or may have, and `load` did not give; says which, and why."""


def warn(message: str) -> None:
    """Say what is left out, at the place of the caller's caller."""
    warnings.warn(message, InteropWarning, stacklevel=3)


def warn_of_untold(path: Any, layers: Sequence[str]) -> None:
    """Say of which layers a model's file has the weights and not the arguments, if of any."""
    if layers:
        warn(
            f"{path}: its config does not tell the arguments (strides, padding, activation) of "
            f"{', '.join(layers)}: these come without them"
        )


# In a config, beside what Keras knows: a pair of numbers of zeros, "circular" or "reflect".
PADDING = "flax_sepconv_padding"


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer: a `SeparableConv1D`, or, without a pointwise kernel, a `DepthwiseConv1D`.

    Attributes:
        path: the names on the way to it, joined by "/": "encoder/conv".
        weights: `depthwise_kernel` (K, C, M) and, where there are these, `pointwise_kernel`
            (1, C*M, F) and `bias` (F,), which is (C*M,) without a pointwise kernel: NumPy arrays of
            one dtype.
        config: Keras' dict of it (with a padding that Keras does not have beside it, as
            "flax_sepconv_padding"), or None where the source says nothing beyond the weights
            (strides, padding and activation are unknown then).
        scales: None; or of integers, kernels of int8 and a bias of int32 or float32, what the
            collection "quantization" has: `depthwise_scale` (C, M) or (), `pointwise_scale` (F,)
            or (), and, of static activations, `x_scale`, `x_zero_point`, ... ().

    Raises:
        InteropError: names the layer, the weight and the axis that does not fit.

    Example:
        >>> depthwise, pointwise = np.ones((3, 4, 2), "f"), np.ones((1, 8, 5), "f")
        >>> weights = {"depthwise_kernel": depthwise, "pointwise_kernel": pointwise}
        >>> Layer("block/conv", weights).sizes
        {'K': 3, 'C': 4, 'M': 2, 'F': 5}
    """

    path: str
    weights: Mapping[str, np.ndarray]
    config: Mapping[str, Any] | None = None
    scales: Mapping[str, np.ndarray] | None = None

    def __post_init__(self) -> None:
        if not _configs.get():
            object.__setattr__(self, "config", None)
        try:
            self.path.encode()
            _check_names(self.weights, self.config)
            _check_shapes(self.weights)
            if self.scales is None:
                _check_dtypes(self.weights)
            else:
                scales_lib.check(self.weights, self.scales)
            if self.config is not None:
                self._check_config()
        except (TypeError, ValueError) as error:
            raise InteropError(f"layer {self.path!r}: {error}") from error

    @property
    def title(self) -> str:
        """The path as people may see it, on one line."""
        return (self.path if self.path.isprintable() else ascii(self.path)) or "(root)"

    @property
    def spec(self) -> type[Arguments]:
        """Whose arguments it has: our layer's that has these weights."""
        return SeparableArguments if POINTWISE_KERNEL in self.weights else DepthwiseArguments

    @property
    def class_name(self) -> str:
        """The name of our layer, which is Keras' too."""
        return self.spec.keras_names[0]

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes K, C, M and F."""
        K, C, M = self.weights[DEPTHWISE_KERNEL].shape
        has_pointwise = POINTWISE_KERNEL in self.weights
        F = self.weights[POINTWISE_KERNEL].shape[2] if has_pointwise else C * M
        return {"K": K, "C": C, "M": M, "F": F}

    @property
    def dtype(self) -> np.dtype:
        """The dtype of all weights; of integers, of the kernels."""
        return self.weights[DEPTHWISE_KERNEL].dtype

    def dequantized(self) -> "Layer":
        """Return the layer with the float32 weights that its integers stand for, if it has these.

        Raises:
            InteropError: the bias is in steps that no scale tells.
        """
        if self.scales is None:
            return self
        try:
            real = scales_lib.real_weights(self.weights, self.scales)
        except ValueError as error:
            raise InteropError(f"layer {self.path!r}: {error}") from error
        return dataclasses.replace(self, weights=real, scales=None)

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of our layer, as far as they are known."""
        if self.config is not None:
            own = self.config.get(PADDING) if isinstance(self.config, Mapping) else None
            if own is None:
                return keras_config.arguments_of(self.config, layer=self.spec)
            of_keras = {name: value for name, value in self.config.items() if name != PADDING}
            known = keras_config.arguments_of(of_keras, layer=self.spec)
            return known | {"padding": padding_rule(own)}
        filters = {"filters": self.sizes["F"]} if POINTWISE_KERNEL in self.weights else {}
        return {
            **filters,
            "kernel_size": self.sizes["K"],
            "depth_multiplier": self.sizes["M"],
            "use_bias": BIAS in self.weights,
        }

    def resolved(self) -> Arguments:
        """Return the arguments, checked."""
        given = self.arguments()
        return self.spec(**{k: v for k, v in given.items() if k not in _NO_ARGUMENTS})

    def _check_config(self) -> None:
        try:
            own = self.resolved()
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"its config is of no layer of ours: {error} (load(..., configs=False), "
                "--weights-only, takes its weights alone)"
            ) from error
        sizes = self.sizes
        for name, letter in (("kernel_size", "K"), ("depth_multiplier", "M"), ("filters", "F")):
            said = getattr(own, name, sizes[letter])
            if said != sizes[letter]:
                raise ValueError(
                    f"its config says {name}={said}, its weights have {letter}={sizes[letter]}"
                )
        if own.use_bias != (BIAS in self.weights):
            raise ValueError(f"its config says use_bias={own.use_bias}, its weights say otherwise")


_NO_ARGUMENTS = ("name", "dtype", "param_dtype")


def refuse_integers(layer: Layer, format: str) -> None:
    """Raise InteropError where a layer has weights of 8 bits and the format has no scales."""
    if layer.scales is not None:
        raise InteropError(
            f"layer {layer.path!r} has weights of 8 bits, for whose scales {format} has no place: "
            "take Layer.dequantized() (--dequantize)"
        )


def unique(layers: Iterable[Layer], source: Any) -> list[Layer]:
    """Return the layers as a list; raise if there is none, or if two share a path."""
    found: dict[str, Layer] = {}
    for layer in layers:
        if layer.path in found:
            raise InteropError(f"{source} has two layers of the name {layer.path!r}")
        found[layer.path] = layer
    if not found:
        raise InteropError(f"{source} has no SeparableConv1D and no DepthwiseConv1D in it")
    return list(found.values())


def _check_names(weights: Mapping[str, np.ndarray], config: Mapping[str, Any] | None) -> None:
    needed = [DEPTHWISE_KERNEL]
    if isinstance(config, Mapping) and "filters" in config:
        needed.append(POINTWISE_KERNEL)
    missing = [name for name in needed if name not in weights]
    if missing:
        raise ValueError(f"{missing[0]} is missing; there is {', '.join(weights) or 'nothing'}")
    unknown = sorted(set(weights) - set(AXES))
    if unknown:
        raise ValueError(f"{unknown[0]} is no weight of it; they are {', '.join(AXES)}")


def _check_shapes(weights: Mapping[str, np.ndarray]) -> None:
    for name, weight in weights.items():
        if not isinstance(weight, np.ndarray):
            raise TypeError(f"{name} must be a NumPy array, got {type(weight).__name__}")
        if weight.ndim != len(AXES[name]) or 0 in weight.shape:
            raise ValueError(f"{name} must be ({', '.join(AXES[name])}), got shape {weight.shape}")
    shape = weights[DEPTHWISE_KERNEL].shape
    _, C, M = shape
    F, told = C * M, f"{DEPTHWISE_KERNEL} {shape}"
    if POINTWISE_KERNEL in weights:
        one, joined, F = weights[POINTWISE_KERNEL].shape
        got = f"got shape {weights[POINTWISE_KERNEL].shape}"
        if one != 1:
            raise ValueError(f"axis 0 of {POINTWISE_KERNEL} must be 1, {got}")
        if joined != C * M:
            raise ValueError(
                f"axis 1 (C*M) of {POINTWISE_KERNEL} must be {C}*{M} = {C * M} as {told} has it, "
                f"{got}"
            )
        told = POINTWISE_KERNEL
    if BIAS in weights and weights[BIAS].shape != (F,):
        letters = "F" if POINTWISE_KERNEL in weights else "C*M"
        raise ValueError(
            f"axis 0 ({letters}) of {BIAS} must be {F} as {told} has it, got shape "
            f"{weights[BIAS].shape}"
        )


def _check_dtypes(weights: Mapping[str, np.ndarray]) -> None:
    if weights[DEPTHWISE_KERNEL].dtype == np.int8:
        raise TypeError("its weights are of int8, and their scales are missing")
    for name, weight in weights.items():
        if weight.dtype not in _NUMPY_DTYPES:
            raise TypeError(
                f"dtype of {name} must be one of {', '.join(DTYPES)}, got {weight.dtype}"
            )
    dtypes = {name: weight.dtype for name, weight in weights.items()}
    if len(set(dtypes.values())) > 1:
        told = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise TypeError(f"its weights must have one dtype, got {told}")


_NUMPY_DTYPES = [np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name) for name in DTYPES]
