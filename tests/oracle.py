"""The operation in NumPy float64, written from its definition; shares no code with the package."""

import math

import numpy as np

Padding = str | tuple[int, int]


def window(L: int, K: int, S: int, D: int, padding: Padding) -> tuple[int, int]:
    """Return (steps of padding in front, output steps)."""
    span = (K - 1) * D + 1
    if padding in ("circular", "reflect"):
        padding = (span - 1) // 2, span - 1 - (span - 1) // 2
    if isinstance(padding, tuple):
        steps = math.floor((L + sum(padding) - span) / S) + 1 if L else 0
        return padding[0], steps
    if padding == "valid":
        return 0, math.floor((L - span) / S) + 1
    steps = math.ceil(L / S)
    if padding == "causal":
        return span - 1, steps
    total = max(span + S * (steps - 1) - L, 0)
    return math.floor(total / 2), steps


def _meetings(L: int, K: int, S: int, D: int, padding: Padding):
    """Yield every (output step, tap, input step) that meet."""
    low, steps = window(L, K, S, D, padding)
    for step in range(steps):
        for tap in range(K):
            position = step * S + tap * D - low
            if padding == "circular":
                position %= L
            while padding == "reflect" and not 0 <= position < L:
                position = -position if position < 0 else 2 * (L - 1) - position
                position = position if L > 1 else 0
            if 0 <= position < L:
                yield step, tap, position


def depthwise(x, k, S=1, D=1, padding="valid"):
    """(B, L, C), (K, C, M) -> (B, steps, C*M)."""
    x, k = np.asarray(x, np.float64), np.asarray(k, np.float64)
    (B, L, C), (K, _, M) = x.shape, k.shape
    h = np.zeros((B, window(L, K, S, D, padding)[1], C, M))
    for step, tap, position in _meetings(L, K, S, D, padding):
        h[:, step] += x[:, position, :, None] * k[tap]
    return h.reshape(*h.shape[:2], C * M)


def depthwise_vjp(x, k, y, S=1, D=1, padding="valid"):
    """Return the gradients of sum(y * depthwise(x, k)) with respect to x and k."""
    x, k, y = (np.asarray(a, np.float64) for a in (x, k, y))
    (_, L, C), (K, _, M) = x.shape, k.shape
    y = y.reshape(*y.shape[:2], C, M)
    dx, dk = np.zeros_like(x), np.zeros_like(k)
    for step, tap, position in _meetings(L, K, S, D, padding):
        dx[:, position] += (y[:, step] * k[tap]).sum(-1)
        dk[tap] += (x[:, position, :, None] * y[:, step]).sum(0)
    return dx, dk


def separable(x, k, p, bias=None, S=1, D=1, padding="valid"):
    """(B, L, C), (K, C, M), (1, C*M, F), (F,) -> (B, steps, F)."""
    y = depthwise(x, k, S, D, padding) @ np.asarray(p, np.float64)[0]
    return y if bias is None else y + np.asarray(bias, np.float64)


def separable_vjp(x, k, p, y, S=1, D=1, padding="valid"):
    """Return the gradients of sum(y * separable(x, k, p, bias)) for x, k, p and bias."""
    p, y = np.asarray(p, np.float64), np.asarray(y, np.float64)
    h = depthwise(x, k, S, D, padding)
    dx, dk = depthwise_vjp(x, k, y @ p[0].T, S, D, padding)
    return dx, dk, np.einsum("blj,blf->jf", h, y)[None], y.sum((0, 1))
