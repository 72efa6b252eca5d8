"""Keras' STFT initializer: the one that computes instead of draws.

Source: https://keras.io/api/layers/initializers/
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flax_sepconv.keras import registry


@dataclasses.dataclass(frozen=True)
class STFT:
    """Fill a depthwise kernel (K, 1, M) of one channel with a short-time Fourier transform.

    w[i, 0, m] = window[i] / norm * cos(2 pi i m / (2 (M - 1))), or -sin for the imaginary side.

    Args:
        side: "real" or "imag".
        window: a name that `scipy.signal.get_window` knows, K numbers, or None for none.
        scaling: the window's norm, "density" (2-norm) or "spectrum" (1-norm), or None for 1.
        periodic: whether a named window is periodic instead of symmetric.

    Raises:
        ValueError: an argument breaks its rule; on the call, the shape is not (K, 1, M) with
            M >= 2, or the window does not have K numbers.

    >>> STFT(window=None)(None, (2, 1, 3)).squeeze(1).round(3).tolist()
    [[1.0, 1.0, 1.0], [1.0, 0.0, -1.0]]
    """

    side: str = "real"
    window: str | tuple[float, ...] | None = "hann"
    scaling: str | None = "density"
    periodic: bool = False

    def __post_init__(self) -> None:
        if self.side not in ("real", "imag"):
            raise ValueError(f"side must be 'real' or 'imag', got {self.side!r}")
        if self.scaling not in ("density", "spectrum", None):
            raise ValueError(f"scaling must be 'density', 'spectrum' or None, got {self.scaling!r}")
        if isinstance(self.window, str):
            self._window(1)
        elif self.window is not None:
            window = tuple(registry.real("window", value) for value in self.window)
            object.__setattr__(self, "window", window)

    def __call__(
        self, key: jax.Array | None, shape: Sequence[int], dtype: DTypeLike = jnp.float32
    ) -> jax.Array:
        """Return an array of this shape and dtype."""
        if len(shape) != 3 or shape[1] != 1 or shape[2] < 2:
            raise ValueError(f"STFT needs a shape (K, 1, M) with M >= 2, got {tuple(shape)}")
        length, _, bins = shape
        angles = np.pi / (bins - 1) * np.outer(np.arange(length), np.arange(bins))
        waves = np.cos(angles) if self.side == "real" else -np.sin(angles)
        return jnp.asarray((self._window(length)[:, None] * waves)[:, None, :], dtype)

    def _window(self, length: int) -> np.ndarray:
        if self.window is None:
            return np.ones(length)
        if isinstance(self.window, str):
            import scipy.signal  # type: ignore[import-untyped]  # slow, and needed here alone

            try:
                window = scipy.signal.get_window(self.window, length, self.periodic)
            except ValueError as error:
                raise ValueError(
                    f"window must be a name that scipy.signal.get_window knows, got {self.window!r}"
                ) from error
        else:
            window = np.asarray(self.window, np.float64)
        if window.shape != (length,):
            raise ValueError(f"window must have K = {length} numbers, got {window.size}")
        order = {"density": 2, "spectrum": 1}
        return window / np.linalg.norm(window, order[self.scaling]) if self.scaling else window
