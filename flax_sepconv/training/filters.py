"""Filters that are not trained: steps and peaks of many lengths.

Few series are enough to learn what these tell, not to learn the filters themselves. They follow the
idea of LITE (Ismail-Fawaz et al., 2023).
"""

from typing import Literal

import numpy as np


def steps_and_peaks(lengths: int, padding: Literal["same", "causal"] = "same") -> np.ndarray:
    """Return the kernels (K, 1, 2 * lengths) of a depthwise convolution of one channel.

    For each of 2, 4, 8, ... taps n there are a step, n / 2 taps up and n / 2 down, which answers
    where a series rises or falls, and a peak of 2 n taps, whose inner half is up. The sum of each
    is 0 and its norm 1.

    Args:
        lengths: how many of them, 1 or more; K is 2 ** (lengths + 1).
        padding: short filters are in the middle of the K taps, or for "causal" at their end.

    Example:
        >>> steps_and_peaks(1)[:, 0].round(1)
        array([[ 0. , -0.5],
               [ 0.7,  0.5],
               [-0.7,  0.5],
               [ 0. , -0.5]], dtype=float32)
    """
    K = 2 ** (lengths + 1)
    kernels = np.zeros((K, 1, 2 * lengths), np.float32)
    for i in range(lengths):
        half = np.ones(2**i, np.float32)
        step = np.concatenate([half, -half])
        peak = np.concatenate([-half, half, half, -half])
        for column, taps in enumerate((step, peak), start=2 * i):
            start = (K - len(taps)) // (2 if padding == "same" else 1)
            kernels[start : start + len(taps), 0, column] = taps / np.linalg.norm(taps)
    return kernels
