"""The depthwise stage as a sum of K shifted inputs, each times its tap.

Only slices, multiplications and additions, which XLA fuses into one pass (on TPU even into the
operand of the pointwise contraction). A form for small K: the work is done on the vector units. In
packed rows each tap has a mask of its own, so that what another segment holds, NaN included, is not
read. Products and sums of the accumulator's dtype are exact enough for any precision.
"""

import functools
import operator

import jax.numpy as jnp
from jax import Array, lax

from flax_sepconv.ops.contraction import Contraction
from flax_sepconv.ops.geometry import Geometry
from flax_sepconv.ops.limits import Limit, pad_steps, segment_ends
from flax_sepconv.ops.lowerings.lowering import Lowering

# On CPU one XLA reduction sums the products of so many taps in a single pass over x and y. Fewer
# passes save memory traffic; past 16 the accumulators spill (K = 87: 12 ms at 16, 78 at 128).
# For TPU and GPU each tap has a reduction of its own: XLA fuses those with each other, with their
# products, and with the input gradient, but writes the products of a joint one to memory.
TERMS_PER_CPU_REDUCTION = 16


class ShiftedSum(Lowering):
    """K shifted inputs, each times its tap."""

    limits: frozenset[Limit] = frozenset({"whole", "segments"})
    is_portable = True

    def output(self, task: Contraction, x: Array, kernel: Array, *limits: Array) -> Array:
        """Filter every channel: (B, L, C), (K, C, M) -> (B, output_length, C*M)."""
        K, C, M = kernel.shape
        taps = kernel.astype(task.accumulator)
        windows = _windows(x, task, limits)
        y = functools.reduce(operator.add, (windows[i][..., None] * taps[i] for i in range(K)))
        return y.reshape(*y.shape[:2], C * M).astype(task.dtype)

    def input_gradient(self, task: Contraction, y: Array, kernel: Array, *limits: Array) -> Array:
        """Carry a cotangent back: (B, output_length, C*M), (K, C, M) -> (B, L, C).

        Input step p receives tap i only where p + pad_low - i * D is a multiple of S: the steps
        of a residue of p are a sum of stride one, and the residues are interleaved at the end.
        """
        (K, _, M), geometry = kernel.shape, task.geometry
        S, D = geometry.stride, geometry.dilation
        phases = -(-geometry.length // S)
        # Tap i meets step p of residue r at output step (p - r) / S + start.
        residues = [(i * D - geometry.pad_low) % S for i in range(K)]
        met = [(r, i, (r + geometry.pad_low - i * D) // S) for i, r in enumerate(residues)]
        first = min(start for _, _, start in met)
        last = max(start for _, _, start in met) + phases
        taps = kernel.astype(task.accumulator)
        ends = segment_ends(*limits) if limits else None
        sums: dict[int, Array] = {}
        for m, plane in enumerate(_planes(pad_steps(y, -first, last - y.shape[1]), M)):
            for r, i, start in met:
                window = lax.slice_in_dim(plane, start - first, start - first + phases, axis=1)
                own = _within(window, start, ends).astype(task.accumulator)
                term = own * taps[i, :, m]
                sums[r] = sums[r] + term if r in sums else term
        interleaved = _interleave(sums, S)
        return lax.slice_in_dim(interleaved, 0, geometry.length, axis=1).astype(task.dtype)

    def kernel_gradient(self, task: Contraction, x: Array, y: Array, *limits: Array) -> Array:
        """Correlate inputs and cotangents: (B, L, C), (B, output_length, C*M) -> (K, C, M)."""
        K, C, M = task.geometry.kernel_size, x.shape[-1], task.multiplier
        windows = _windows(x, task, limits)
        planes = [plane.astype(task.accumulator) for plane in _planes(y, M)]
        terms = [window * plane for window in windows for plane in planes]
        count = TERMS_PER_CPU_REDUCTION if task.context.platform == "cpu" else 1
        sums: list[Array] = []
        for i in range(0, len(terms), count):
            sums += _sum_together(terms[i : i + count])
        # The batch is summed by an operation of its own: one all-reduce where it is sharded.
        summed = jnp.stack(sums).sum(1).reshape(K, M, C)
        return summed.swapaxes(1, 2).astype(task.dtype)


def _windows(x: Array, task: Contraction, limits: tuple[Array, ...]) -> list[Array]:
    """Return the input step that each output step reads through each tap, in the accumulator."""
    geometry = task.geometry
    padded = pad_steps(x, geometry.pad_low, geometry.pad_high)
    ends = segment_ends(*limits) if limits else None
    windows = []
    for i in range(geometry.kernel_size):
        offset = i * geometry.dilation
        window = _within(_shift(padded, offset, geometry), offset - geometry.pad_low, ends)
        windows.append(window.astype(task.accumulator))
    return windows


def _within(window: Array, offset: int, ends: tuple[Array, Array] | None) -> Array:
    """Let zeros stand for what a step meets, so many steps on, in another segment than its own."""
    if ends is None:
        return window
    first, last = ends
    met = jnp.arange(window.shape[1], dtype=jnp.int32) + offset
    inside = (met >= first) & (met <= last)
    return jnp.where(inside[..., None], window, jnp.zeros((), window.dtype))


def _planes(y: Array, M: int) -> list[Array]:
    """Divide (B, L, C*M) into M arrays of (B, L, C): XLA is slow with so short a last axis."""
    if M == 1:
        return [y]
    split = y.reshape(*y.shape[:2], y.shape[-1] // M, M)
    return [lax.index_in_dim(split, m, axis=3, keepdims=False) for m in range(M)]


def _interleave(planes: dict[int, Array], S: int) -> Array:
    """Put (B, L, C) where every S-th step from its residue on is, and zeros where there is none."""
    residues = sorted(planes)
    edges = [0, *residues[1:], S]  # The first one brings the zeros in front of it.
    parts = [
        lax.pad(
            planes[residue][:, :, None],
            jnp.zeros((), planes[residue].dtype),
            ((0, 0, 0), (0, 0, 0), (residue - begin, end - residue - 1, 0), (0, 0, 0)),
        )
        for residue, begin, end in zip(residues, edges, edges[1:], strict=False)
    ]
    B, steps, C = planes[residues[0]].shape
    return lax.concatenate(parts, 2).reshape(B, steps * S, C)


def _sum_together(terms: list[Array]) -> tuple[Array, ...]:
    """Sum each of (B, L, C) over L, all in one pass over the operands they share."""
    zeros = tuple(jnp.zeros((), term.dtype) for term in terms)
    sums: tuple[Array, ...] = lax.reduce(
        tuple(terms), zeros, lambda a, b: tuple(map(operator.add, a, b)), (1,)
    )
    return sums


def _shift(padded: Array, first: int, geometry: Geometry) -> Array:
    """Return every S-th step from the first one on, one for each output step."""
    last = first + (geometry.output_length - 1) * geometry.stride
    return lax.slice_in_dim(padded, first, last + 1, geometry.stride, axis=1)
