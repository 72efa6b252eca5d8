"""Taps that lie outside of the sequence at every output step: nobody computes with them.

Padding lets taps reach beyond a sequence, as far as they like: with a dilation of ten million, of
three taps "same" puts one on ten steps and two on zeros. What is in front of and behind the taps
that meet a step costs as much memory and time as if it were there; so it is cut, before anything
else is decided. The gradients of what is cut are zeros, by the rules of a slice.
"""

from dataclasses import replace
from typing import Any

import jax
from jax import lax

from flax_sepconv.ops.contraction import Stages
from flax_sepconv.ops.geometry import Geometry


def reaches_too_far(geometry: Geometry) -> bool:
    """Tell whether at least half of what the taps reach is outside of rows at every output step.

    Else nothing is gained by a cut: rows and padding have about the size of the rows.
    """
    sizes = geometry.length, geometry.output_length, geometry.pad_low
    if any(map(jax.export.is_symbolic_dim, sizes)):
        return False
    taps = geometry.taps_met
    return geometry.reach > 0 and 2 * geometry.dilation * (len(taps) - 1) <= geometry.reach


def trimmed(kernel: Any, stages: Stages) -> tuple[Any, Stages]:
    """Cut the taps that meet nothing from a kernel (K, C, M), where that saves something.

    Args:
        kernel: it may be what a tool put in its place, which is left as it is.
        stages: of whole rows, or of segments.
    """
    geometry = stages.geometry
    taps = range(geometry.kernel_size)
    if reaches_too_far(geometry) and isinstance(kernel, jax.Array):
        taps = geometry.taps_met
        first = min(taps.start, geometry.kernel_size - 1)
        kernel = lax.slice_in_dim(kernel, first, first + max(1, len(taps)), axis=0)
    elif not _has_one_step(geometry):
        return kernel, stages
    return kernel, replace(stages, geometry=geometry.of_taps(taps))


def _has_one_step(geometry: Geometry) -> bool:
    """Tell whether there are strides that nobody takes."""
    steps = geometry.output_length
    return not jax.export.is_symbolic_dim(steps) and steps == 1 < geometry.stride
