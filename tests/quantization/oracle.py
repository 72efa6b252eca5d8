"""A quantized layer in NumPy, from the definition: sums are exact, the rest is float32 by float32.

Sums are those of `tests.oracle`, in float64, in which these integers are exact.
"""

import dataclasses

import numpy as np

from tests import oracle

F = np.float32


def steps_of_range(low, high, symmetric):
    """Return the scale and the zero point of a range that has zero in it."""
    if symmetric:
        scale = F(max(-low, high)) * F(1 / 127)
        return (scale if scale > 0 else F(1)), F(0)
    scale = F(F(high) - F(low)) * F(1 / 255)
    scale = scale if scale > 0 else F(1)
    zero = F(np.rint(-(F(low) * (F(1) / scale)))) - F(128)
    return scale, np.clip(zero, F(-128), F(127))


def whole(x, scale, zero=None, reach=(-128, 127)):
    """Return whole steps, counted from the zero point."""
    steps = np.rint(np.asarray(x, F) * (F(1) / np.asarray(scale, F)))
    return steps if zero is None else np.clip(steps, F(reach[0]) - zero, F(reach[1]) - zero)


def weight_scale(kernel, axes):
    greatest = np.abs(kernel).max(axes).astype(F)
    return np.where(greatest > 0, greatest * F(1 / 127), F(1)).astype(F)


def dynamic_scale(x, axes):
    greatest = np.abs(x).max(axes, keepdims=True).astype(F)
    return np.where(greatest > 0, greatest * F(1 / 127), F(1)).astype(F)


@dataclasses.dataclass
class Layer:
    """What `numbers` found on its way.

    Attributes:
        y: before the activation.
        x, h: whole numbers.
        k, w: whole weights.
        scales: of x, k, h and w.
    """

    y: np.ndarray
    x: np.ndarray
    k: np.ndarray
    h: np.ndarray | None
    w: np.ndarray | None
    scales: dict


def numbers(x, weights, *, config, ranges=None, steps=None, **settings):
    """Compute a layer.

    Args:
        x: (B, L, C).
        weights: "depthwise_kernel", "pointwise_kernel" (or not) and "bias" (or not).
        config: the Int8.
        ranges: of static activations, (low, high) by name; None: those of this very call.
        steps: learned step sizes by name, or None.
        settings: S, D and padding.
    """
    k, w, b = (weights.get(n) for n in ("depthwise_kernel", "pointwise_kernel", "bias"))
    kind = config.activations
    each = config.weights == "per_channel"
    steps = {n: F(s) for n, s in (steps or {}).items()}

    def activation(name, real):
        if kind.startswith("dynamic"):
            axes = (1, 2) if kind.endswith("example") else (0, 1, 2)
            return dynamic_scale(real, axes), None
        low, high = (ranges or {}).get(name, (min(real.min(), 0), max(real.max(), 0)))
        scale, zero = steps_of_range(F(low), F(high), config.symmetric)
        return steps.get(f"{name}_scale", scale), zero

    scales = {}
    scales["x"], zero = activation("x", x)
    x_int = whole(x, scales["x"], zero)
    reach = (F(0), (-127, 127)) if config.learned else ()
    scales["k"] = steps.get("depthwise_scale", weight_scale(k, 0 if each else None))
    k_int = whole(k, scales["k"], *reach)
    sums = oracle.depthwise(x_int, k_int, **settings).astype(F)
    per_lane = np.broadcast_to(scales["k"], k.shape[1:]).reshape(-1)
    before, after, h_int, w_int = scales["x"], per_lane, None, None
    if w is not None:
        scales["h"], zero = activation("hidden", sums * (scales["x"] * per_lane))
        h_int = whole(sums * (scales["x"] * (per_lane * (F(1) / scales["h"]))), F(1), zero)
        scales["w"] = steps.get("pointwise_scale", weight_scale(w, (0, 1) if each else None))
        w_int = whole(w, scales["w"], *reach)
        sums = (h_int.astype(np.float64) @ w_int[0].astype(np.float64)).astype(F)
        before, after = scales["h"], np.broadcast_to(scales["w"], w.shape[2:])
    real_bias = F(0)
    if b is not None and kind == "static":
        sums = (sums.astype(np.float64) + whole(b, before * after)).astype(F)
    elif b is not None:
        real_bias = b
    return Layer(sums * (before * after) + real_bias, x_int, k_int, h_int, w_int, scales)
