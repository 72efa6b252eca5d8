"""The operation on integers, by NumPy: one loop over output steps, exact integers of 64 bits."""

import numpy as np

F32 = np.float32


def steps(x, scale, zero):
    """Return real numbers as int8."""
    whole = np.rint(F32(x) * (F32(1) / F32(scale)))
    whole = np.where(np.isnan(whole), 0, whole)
    return np.clip(whole + zero, -128, 127).astype(np.int8)


def sums(x, zero, kernel, strides, dilation, low, count):
    """Filter every channel: (B, L, C), (K, C, M) -> (B, count, C, M)."""
    (B, L, C), (K, _, M) = x.shape, kernel.shape
    total = np.zeros((B, count, C, M), np.int64)
    for step in range(count):
        for tap in range(K):
            p = step * strides + tap * dilation - low
            if 0 <= p < L:
                centred = x[:, p].astype(np.int64) - zero
                total[:, step] += centred[:, :, None] * kernel[tap].astype(np.int64)
    assert abs(total).max(initial=0) < 2**31
    return total.reshape(B, count, C * M)


def ended(total, multiplier, scale, zero, activation):
    """Return real numbers (no scale), or int8."""
    real = total.astype(F32) * multiplier
    if scale is None:
        low = -np.inf if activation is None else 0
        return np.clip(real, low, 6 if activation == "relu6" else np.inf)
    whole = np.rint(real).astype(np.float64) + zero
    least = -128 if activation is None else max(-128, zero)
    most = 127
    if activation == "relu6":
        most = min(127, zero + np.rint(F32(6) * (F32(1) / F32(scale))))
    return np.clip(whole, least, most).astype(np.int8)


def multiplier(first, second, over):
    """Return first * (second * (1 / over)) in float32."""
    second = F32(second) if over is None else F32(second) * (F32(1) / F32(over))
    return (F32(first) * second).astype(F32)


def depthwise(x, kernel, bias, low, count, *, x_scale, x_zero, k_scale, y_scale, y_zero, **more):
    """Compute the first stage alone; `more`: strides, dilation, activation."""
    total = sums(x, x_zero, kernel, more["strides"], more["dilation"], low, count)
    by = multiplier(x_scale, np.reshape(k_scale, -1), y_scale)
    return ended(total + bias, by, y_scale, y_zero, more["activation"])


def separable(
    x, kernel, weights, bias, low, count, *, x_scale, x_zero, k_scale, h_scale, h_zero, w_scale,
    y_scale, y_zero, **more,
):  # fmt: skip
    """Compute both stages; `more`: strides, dilation, activation."""
    total = sums(x, x_zero, kernel, more["strides"], more["dilation"], low, count)
    by = multiplier(x_scale, np.reshape(k_scale, -1), h_scale)
    h = ended(total, by, h_scale, h_zero, None).astype(np.int64) - h_zero
    mixed = h @ weights[0].astype(np.int64) + bias
    return ended(mixed, multiplier(h_scale, w_scale, y_scale), y_scale, y_zero, more["activation"])
