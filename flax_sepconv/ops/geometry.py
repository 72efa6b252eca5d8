"""Integer geometry of a strided, dilated 1-D convolution.

Everything that paddings, strides and dilation mean is decided here, once, in Python integers.
Array code only ever sees the resulting `Geometry`.
"""

import dataclasses
from typing import Any, Literal, get_args

ZeroPadding = Literal["valid", "same", "causal"]
EdgePadding = Literal["circular", "reflect"]  # What is beyond the ends comes from the sequence.
# A name, or the zeros in front of a sequence and behind it.
PaddingRule = ZeroPadding | EdgePadding | tuple[int, int]
PADDINGS: tuple[ZeroPadding, ...] = get_args(ZeroPadding)
EDGES: tuple[EdgePadding, ...] = get_args(EdgePadding)


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Which input step meets which output step: `p = l * stride + i * dilation - pad_low`.

    Output step l reads input step p through tap i; steps outside `[0, length)` read zero.

    Attributes:
        length: L, the number of input steps.
        kernel_size: K, the number of taps.
        stride: S, input steps between neighbouring output steps.
        dilation: D, input steps between neighbouring taps.
        pad_low: zeros in front of the first input step.
        output_length: the number of output steps.
        same: whether `pad_low` goes by the length ("same"), so that a shorter sequence has another.
        behind: else the zeros that every sequence has behind its last step, however long it is;
            where all rows are whole, `pad_high` tells what is read of them.
    """

    length: int
    kernel_size: int
    stride: int
    dilation: int
    pad_low: int
    output_length: int
    same: bool = False
    behind: int = 0

    @property
    def reach(self) -> int:
        """Steps between the first and the last tap: D * (K - 1)."""
        return self.dilation * (self.kernel_size - 1)

    @property
    def pad_high(self) -> int:
        """Zeros behind the last input step; negative where trailing steps are never read."""
        last_read = (self.output_length - 1) * self.stride + self.reach - self.pad_low
        return last_read + 1 - self.length

    @property
    def input_gradient_padding(self) -> tuple[int, int]:
        """Padding of the stride-dilated cotangent that yields exactly `length` steps."""
        low = self.reach - self.pad_low
        dilated = (self.output_length - 1) * self.stride + 1
        return low, self.length + self.reach - dilated - low

    def padded(self) -> "Geometry":
        """Return the geometry of the input once `pad_low` and `pad_high` zeros are part of it."""
        read = (self.output_length - 1) * self.stride + self.reach + 1
        return dataclasses.replace(self, length=read, pad_low=0, same=False, behind=0)

    def without_far_strides(self) -> "Geometry":
        """Return the same geometry with a stride that sequences have room for, where L is known.

        Sequences of up to L steps, each with one output step or none, have the same ones with any
        stride from L up. Kernels take memory for a stride, and 32 bits do not hold every one.
        """
        most = self.length + max(0, self.pad_low + self.behind - self.reach)
        is_known = isinstance(most, int) and self.output_length == 1
        return dataclasses.replace(self, stride=most) if is_known and self.stride > most else self

    @property
    def taps_met(self) -> range:
        """The taps from the first to the last that meet an input step at any output step."""
        span = (self.output_length - 1) * self.stride
        first = max(0, -((span - self.pad_low) // self.dilation))
        last = min(self.kernel_size - 1, (self.pad_low + self.length - 1) // self.dilation)
        return range(first, last + 1)

    @property
    def meetings(self) -> int:
        """How many pairs there are of an output step and an input step that a tap joins."""
        count = 0
        for tap in range(self.kernel_size):
            first = self.pad_low - tap * self.dilation  # Output steps meet steps from here on.
            begin = max(0, -(-first // self.stride))
            end = min(self.output_length, -(-(first + self.length) // self.stride))
            count += max(0, end - begin)
        return count

    def of_taps(self, taps: range) -> "Geometry":
        """Return the geometry of neighbouring taps alone, for sequences as long as the rows.

        Where no tap is among them it is that of a tap that lies in front of the rows. Strides that
        are never taken, and the dilation of a single tap, are 1.
        """
        low = self.pad_low - taps.start * self.dilation
        return dataclasses.replace(
            self,
            kernel_size=max(1, len(taps)),
            stride=self.stride if self.output_length > 1 else 1,
            dilation=self.dilation if len(taps) > 1 else 1,
            pad_low=low if taps else (self.output_length - 1) * self.stride + 1,
            same=False,
            behind=0,
        )


def output_length(
    length: int, kernel_size: int, stride: int, dilation: int, padding: PaddingRule
) -> int:
    """Count the output steps; may be zero or negative where the padding is short.

    Example:
        >>> output_length(28, 3, 1, 1, "valid"), output_length(28, 3, 2, 1, "same")
        (26, 14)
        >>> output_length(28, 3, 2, 1, (1, 1)), output_length(28, 3, 1, 1, (4, 4))
        (14, 34)
    """
    if padding == "same":
        return -(-length // stride)
    spare = sum(zeros_around(kernel_size, dilation, padding)) - dilation * (kernel_size - 1)
    steps = (length + spare - 1) // stride + 1
    return steps * (length > 0) if spare > 0 else steps  # No steps in, none out.


def least_length(kernel_size: int, dilation: int, padding: PaddingRule) -> int:
    """Return the length of the shortest input that has an output step."""
    if padding == "same":
        return 1
    zeros = sum(zeros_around(kernel_size, dilation, padding))
    return max(1, dilation * (kernel_size - 1) + 1 - zeros)


def zeros_around(
    kernel_size: int, dilation: int, padding: EdgePadding | ZeroPadding | tuple[int, int]
) -> tuple[int, int]:
    """Return the zeros in front of and behind a sequence of any length: all paddings but "same".

    "circular" and "reflect" put as many other values there, the odd one behind.

    Example:
        >>> zeros_around(4, 3, "causal"), zeros_around(4, 3, "circular")
        ((9, 0), (4, 5))
    """
    reach = dilation * (kernel_size - 1)
    if isinstance(padding, tuple):
        return padding
    if padding in EDGES:
        return reach // 2, reach - reach // 2
    return (reach, 0) if padding == "causal" else (0, 0)


def same_pad_low(length: Any, kernel_size: int, stride: int, dilation: int) -> Any:
    """Return the zeros in front by TensorFlow's rule, for one length or an array of them."""
    reach = dilation * (kernel_size - 1)
    zeros = (-(-length // stride) - 1) * stride + reach + 1 - length
    if reach + 1 < stride:  # Some steps are not read. Symbols have no maximum: |zeros| < S.
        zeros *= (zeros + stride) // stride
    return zeros // 2


def resolve(
    length: int, kernel_size: int, stride: int, dilation: int, padding: PaddingRule
) -> Geometry:
    """Resolve a padding rule to integers.

    "same" is TensorFlow's rule: ceil(L / S) output steps, the zeros shared between both ends, the
    odd one at the right; it depends on L. "causal" puts D * (K - 1) zeros in front, and a pair of
    numbers so many in front and behind; "circular" and "reflect" are zeros here, as many as they
    put other values there. L may be a symbol of `jax.export` that is known not to be too short.

    Raises:
        ValueError: if no output step remains.

    Example:
        >>> geometry = resolve(length=10, kernel_size=4, stride=3, dilation=1, padding="same")
        >>> geometry.pad_low, geometry.pad_high, geometry.output_length
        (1, 2, 4)
    """
    steps = output_length(length, kernel_size, stride, dilation, padding)
    if length < least_length(kernel_size, dilation, padding):
        raise ValueError(
            f"the output would have no steps: padding={padding!r} with input length L={length}, "
            f"kernel_size K={kernel_size}, strides S={stride}, dilation_rate D={dilation} gives "
            f"output length {steps}"
        )
    behind = 0
    if padding == "same":
        pad_low = same_pad_low(length, kernel_size, stride, dilation)
    else:
        pad_low, behind = zeros_around(kernel_size, dilation, padding)
    dilation = dilation if kernel_size > 1 else 1
    is_same = padding == "same"
    return Geometry(length, kernel_size, stride, dilation, pad_low, steps, is_same, behind)
