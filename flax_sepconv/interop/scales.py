"""What belongs to weights of 8 bits: the scales of kernels, and those of activations."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flax_sepconv.quantization.observing import HIDDEN, OUTPUT, X
from flax_sepconv.quantization.weights import SCALES
from flax_sepconv.spec import BIAS, DEPTHWISE_KERNEL, POINTWISE_KERNEL

# Of each kernel, what axes its scale has, if it is no single number.
AXES = {DEPTHWISE_KERNEL: ("C", "M"), POINTWISE_KERNEL: ("F",)}
ACTIVATIONS = (X, HIDDEN, OUTPUT)
NAMES = (
    *SCALES.values(),
    *(f"{of}_{what}" for of in ACTIVATIONS for what in ("scale", "zero_point")),
)


def check(weights: Mapping[str, np.ndarray], scales: Mapping[str, np.ndarray]) -> None:
    """Check integers and their scales.

    Raises:
        ValueError, TypeError: names what does not belong together.
    """
    for name, scale in SCALES.items():
        if (name in weights) != (scale in scales):
            raise ValueError(f"{scale} and {name} of int8 must come together, one is missing")
        if name not in weights:
            continue
        if weights[name].dtype != np.int8:
            raise TypeError(f"{name} must be of int8 where scales are given: {weights[name].dtype}")
        letters = AXES[name]
        shape = weights[name].shape[3 - len(letters) :]
        _check_array(scale, scales[scale], "float32", ((), shape), letters)
    if BIAS in weights and weights[BIAS].dtype not in (np.int32, np.float32):
        raise TypeError(f"bias must be of int32 or float32, got {weights[BIAS].dtype}")
    for name, array in scales.items():
        if name not in NAMES:
            raise ValueError(f"{name} is no scale; they are {', '.join(NAMES)}")
        if name.endswith("_zero_point"):
            _check_array(name, array, "int32", ((),), ())
            if not -128 <= int(array.item()) <= 127:
                raise ValueError(f"{name} must be from -128 to 127, got {array.item()}")
            if name.replace("zero_point", "scale") not in scales:
                raise ValueError(f"{name} needs a scale, and has none")
        elif name.removesuffix("_scale") in ACTIVATIONS:
            _check_array(name, array, "float32", ((),), ())


def _check_array(
    name: str, array: Any, dtype: str, shapes: tuple[tuple[int, ...], ...], letters: tuple[str, ...]
) -> None:
    if not isinstance(array, np.ndarray | np.generic) or array.dtype != dtype:
        got = getattr(array, "dtype", type(array).__name__)
        raise TypeError(f"{name} must be a NumPy array of {dtype}, got {got}")
    if array.shape not in shapes:
        ways = "a single number" + (f", or ({', '.join(letters)})" if letters else "")
        raise ValueError(f"{name} must be {ways}, {shapes[-1]}, got shape {array.shape}")
    if dtype == "float32" and not (np.isfinite(array) & np.greater(array, 0)).all():
        raise ValueError(f"{name} must be positive and finite")


def real_weights(
    weights: Mapping[str, np.ndarray], scales: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the float32 weights that integers stand for."""
    real = {}
    for name, weight in weights.items():
        if name in SCALES:
            real[name] = weight.astype(np.float32) * scales[SCALES[name]]
        elif weight.dtype == np.int32:  # A bias in steps of the sums that it is added to.
            last = "pointwise_scale" if POINTWISE_KERNEL in weights else "depthwise_scale"
            before = "hidden_scale" if POINTWISE_KERNEL in weights else "x_scale"
            if before not in scales:
                raise ValueError(f"bias of int32 needs {before}: what its steps are")
            steps = scales[before] * scales[last].reshape(-1)
            real[name] = weight.astype(np.float32) * steps
        else:
            real[name] = weight
    return real


def described(scales: Mapping[str, np.ndarray]) -> str:
    """Say in one line what scales there are.

    Example:
        >>> described({"depthwise_scale": np.ones((3, 1), "f"), "x_scale": np.float32(0.5),
        ...            "x_zero_point": np.int32(-3)})
        'depthwise_scale (3, 1), x_scale 0.5 from -3'
    """
    told = []
    for name in NAMES:
        if name not in scales or name.endswith("_zero_point"):
            continue
        array = scales[name]
        text = f"{name} {array.shape}" if array.shape else f"{name} {float(array):.4g}"
        zero = int(scales.get(name.replace("scale", "zero_point"), 0))
        told.append(f"{text} from {zero}" if zero else text)
    return ", ".join(told)
