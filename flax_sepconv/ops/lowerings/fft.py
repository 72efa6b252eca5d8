"""The depthwise stage as products of spectra: XLA's fast Fourier transforms, for very long kernels.

The work grows with the logarithm of K and not with K. Strides are paid in full: every step is
computed and most of them are dropped, or, in a cotangent, put in as zeros.

What differs from sums of products is what an error goes by: the largest values of the channel in
its whole sequence, and not those that a tap meets. In float32 it was measured up to 3e-7 of the
largest result, for K from 129 to 8193 and every contraction, where the native kernels' error grows
from 4e-7 to 6e-6. And what is not finite (infinity, NaN) spoils all steps of its channel.

16-bit operands are computed in float32. `precision` is for matrix units and means nothing here.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array, lax

from flax_sepconv.ops.contraction import OPERANDS, Contraction
from flax_sepconv.ops.lowerings.lowering import Lowering
from flax_sepconv.ops.sharding import vary_alike

# Up to so many values are transformed at once: on CPU (B1 L300000 C8 K1025) 42 ms of processor time
# went to one transform, and 18 ms to frames of 16 times the taps' reach.
LONGEST_TRANSFORM = 2**17
FRAME_REACHES = 16
SHORTEST_FRAME = 1024
# On CPU so many channels are computed at once as have about so many values: their spectra, which
# take as much memory again, stay in caches and make room for those of the next ones. But not fewer
# channels than fill a cache line, which is read for each step.
VALUES_AT_ONCE = 2**19
FEWEST_CHANNELS = 16


class Fft(Lowering):
    """Transforms of rows and kernels, their products, and the transforms back."""

    is_portable = True

    def contract(self, task: Contraction, a: Array, b: Array, *limits: Array) -> Array:
        """Compute a contraction; in a program of one CPU, some channels at a time."""
        contract, result, M = super().contract, task.result, task.multiplier
        operands = dict(zip(OPERANDS[result], (a, b), strict=True))
        channels = operands["k"].shape[1] if "k" in operands else operands["x"].shape[2]
        at_once = _channels_at_once(task, a.shape[0])
        if at_once is None or at_once >= channels:
            return contract(task, a, b)
        axes = {"x": 2, "k": 1, "y": 2}
        widths = {"x": at_once, "k": at_once, "y": at_once * M}

        def step(i: Array, out: Array) -> Array:
            # Where the last slice would end behind the last channel, it begins earlier.
            parts = [
                lax.dynamic_slice_in_dim(operand, i * widths[name], widths[name], axes[name])
                for name, operand in operands.items()
            ]
            first = i * widths[result]
            return lax.dynamic_update_slice_in_dim(out, contract(task, *parts), first, axes[result])

        shape = {
            "y": (a.shape[0], task.geometry.output_length, channels * M),
            "x": (a.shape[0], task.geometry.length, channels),
            "k": (task.geometry.kernel_size, channels, M),
        }[result]
        out, *_ = vary_alike(jnp.zeros(shape, task.dtype), a, b)
        filled: Array = lax.fori_loop(0, -(-channels // at_once), step, out)
        return filled

    def output(self, task: Contraction, x: Array, kernel: Array, *limits: Array) -> Array:
        """Filter every channel: (B, L, C), (K, C, M) -> (B, output_length, C*M)."""
        geometry, (_, C, M) = task.geometry, kernel.shape
        frames = frames_of_rows(task)
        rows = frames.read(_channels_first(x, task))
        taps = frames.taps(kernel.astype(task.accumulator), geometry.dilation)
        products = rows[:, :, None] * jnp.conj(taps)[:, :, None]  # (B, C, M, frames, frequencies)
        y = frames.steps_of(products).reshape(x.shape[0], C * M, frames.steps)
        kept = lax.slice_in_dim(y, 0, None, geometry.stride, axis=2)
        return kept.swapaxes(1, 2).astype(task.dtype)

    def input_gradient(self, task: Contraction, y: Array, kernel: Array, *limits: Array) -> Array:
        """Carry a cotangent back: (B, output_length, C*M), (K, C, M) -> (B, L, C).

        Taps in reverse order read the cotangent, with zeros between its steps, as taps read x.
        """
        geometry, (_, C, M) = task.geometry, kernel.shape
        low, high = geometry.input_gradient_padding
        frames = Frames.of(geometry.length, geometry.reach, low, high)
        rows = frames.read(_with_zeros_between(_channels_first(y, task), geometry.stride))
        flipped = jnp.flip(kernel, 0).astype(task.accumulator)
        taps = frames.taps(flipped, geometry.dilation)
        products = rows.reshape(-1, C, M, *rows.shape[2:]) * jnp.conj(taps)[:, :, None]
        x = frames.steps_of(products.sum(2))
        return x.swapaxes(1, 2).astype(task.dtype)

    def kernel_gradient(self, task: Contraction, x: Array, y: Array, *limits: Array) -> Array:
        """Correlate inputs and cotangents: (B, L, C), (B, output_length, C*M) -> (K, C, M).

        The batch is summed between the transforms: few are needed back.
        """
        geometry, C = task.geometry, x.shape[2]
        frames = frames_of_rows(task)
        rows = frames.read(_channels_first(x, task))
        met = frames.own(_with_zeros_between(_channels_first(y, task), geometry.stride))
        met = met.reshape(-1, C, task.multiplier, *met.shape[2:])
        summed = (rows[:, :, None] * jnp.conj(met)).sum((0, 3))
        gradient = lax.slice_in_dim(
            frames.back(summed), 0, geometry.reach + 1, geometry.dilation, axis=2
        )
        return gradient.transpose(2, 0, 1).astype(task.dtype)


@dataclass(frozen=True)
class Frames:
    """How rows are cut for transforms of one length (overlap-save).

    Each frame holds what `hop` steps of the result read. A single frame may be shorter than all
    that is read: the zeros in front and behind are the same ones, for a transform goes round.

    Attributes:
        steps: of the result, each of which reads `reach + 1` steps of padded rows from its own on.
        reach: between the first and the last tap.
        low: zeros in front of the rows.
        size: of a transform.
        hop: steps of the result in a frame.
        count: of frames.
    """

    steps: int
    reach: int
    low: int
    size: int
    hop: int
    count: int

    @classmethod
    def of(cls, steps: int, reach: int, low: int, high: int) -> "Frames":
        """Decide how rows are cut that need so many zeros in front and behind."""
        frame = fast_size(max(FRAME_REACHES * reach, SHORTEST_FRAME))
        if all(isinstance(size, int) for size in (steps, low, high)):
            rounded = steps + reach - max(0, min(low, high))
            whole = fast_size(max(rounded, steps, reach + 1))
            if whole <= max(LONGEST_TRANSFORM, 2 * frame):
                return cls(steps, reach, low, whole, steps, 1)
        hop = frame - reach
        return cls(steps, reach, low, frame, hop, -(-steps // hop))

    def read(self, rows: Array) -> Array:
        """Transform what each frame reads: (B, C, rows) -> (B, C, frames, frequencies)."""
        if self.count == 1:
            return self._spectra(_padded(rows, self.low, self.size)[:, :, None])
        padded = _padded(rows, self.low, (self.count + 1) * self.hop)
        blocks = padded.reshape(*rows.shape[:2], self.count + 1, self.hop)
        own = lax.slice_in_dim(blocks, 0, self.count, axis=2)
        next_ones = lax.slice_in_dim(blocks, 1, self.count + 1, axis=2)
        return self._spectra(lax.concatenate([own, next_ones[..., : self.reach]], 3))

    def own(self, steps: Array) -> Array:
        """Transform the steps of the result that each frame is for: as `read` does."""
        padded = _padded(steps, 0, self.count * self.hop)
        blocks = padded.reshape(*steps.shape[:2], self.count, self.hop)
        return self._spectra(_padded(blocks, 0, self.size))

    def taps(self, kernel: Array, dilation: int) -> Array:
        """Transform a kernel: (K, C, M) -> (C, M, frequencies)."""
        return self._spectra(
            _padded(_with_zeros_between(kernel.transpose(1, 2, 0), dilation), 0, self.size)
        )

    def steps_of(self, spectra: Array) -> Array:
        """Transform back to the steps of the result: (..., frames, frequencies) -> (..., steps)."""
        own = self.back(spectra)[..., : self.hop]
        joined = own.reshape(*own.shape[:-2], self.count * self.hop)
        return lax.slice_in_dim(joined, 0, self.steps, axis=joined.ndim - 1)

    def back(self, spectra: Array) -> Array:
        """Transform back: (..., frequencies) -> (..., size)."""
        values: Array = lax.fft(spectra, lax.FftType.IRFFT, (self.size,))
        return values

    def _spectra(self, values: Array) -> Array:
        spectra: Array = lax.fft(values, lax.FftType.RFFT, (self.size,))
        return spectra


def fast_size(least: int) -> int:
    """Return the smallest size from `least` on that has no prime factors but 2, 3 and 5.

    Example:
        >>> fast_size(8192), fast_size(8193), fast_size(8704)
        (8192, 8640, 8748)
    """
    powers = [(3**a, 5**b) for a in range(least.bit_length()) for b in range(least.bit_length())]
    odd: set[int] = {threes * fives for threes, fives in powers if threes * fives < 2 * least}
    return min(factor << (-(-least // factor) - 1).bit_length() for factor in odd)


def _channels_at_once(task: Contraction, batch: int) -> int | None:
    """Return how many channels are computed together; None: all."""
    geometry, context = task.geometry, task.context
    is_known = all(isinstance(size, int) for size in (batch, geometry.length))
    if not (context.platform == "cpu" and context.is_one_device and is_known):
        return None
    steps = (geometry.output_length - 1) * geometry.stride + 1 + geometry.reach
    return max(FEWEST_CHANNELS, VALUES_AT_ONCE // max(1, batch * steps * task.multiplier))


def frames_of_rows(task: Contraction) -> Frames:
    """Return the frames of x, for the output at each input step and not at each S-th alone."""
    geometry = task.geometry
    steps = (geometry.output_length - 1) * geometry.stride + 1
    return Frames.of(steps, geometry.reach, geometry.pad_low, geometry.pad_high)


def _channels_first(rows: Array, task: Contraction) -> Array:
    """Put steps last, where transforms want them, in the accumulator."""
    return rows.swapaxes(1, 2).astype(task.accumulator)


def _padded(values: Array, low: int, size: int) -> Array:
    """Pad the last axis in front, and behind, or cut it, for it to have so many values."""
    return _pad(values, low, size - values.shape[-1] - low, 0)


def _with_zeros_between(values: Array, step: int) -> Array:
    """Put zeros between values on the last axis for them to be so many steps apart."""
    return values if step == 1 else _pad(values, 0, 0, step - 1)


def _pad(values: Array, low: int, high: int, between: int) -> Array:
    edges = [(0, 0, 0)] * (values.ndim - 1) + [(low, high, between)]
    return lax.pad(values, jnp.zeros((), values.dtype), edges)
