"""Which lowering computes what: the one that is named, or, by static facts, the best one known."""

import contextlib
import contextvars
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax

from flax_sepconv.ops import native
from flax_sepconv.ops.choices.deciding import chosen, wrong_ones
from flax_sepconv.ops.choices.reading import tried
from flax_sepconv.ops.context import Context
from flax_sepconv.ops.contraction import Contraction, Stages
from flax_sepconv.ops.exporting import Replaced, is_unwanted, resolve_name
from flax_sepconv.ops.interception import is_intercepted
from flax_sepconv.ops.limits import has_known_padding
from flax_sepconv.ops.lowerings import LOWERINGS, Lowering
from flax_sepconv.ops.lowerings.fft import frames_of_rows
from flax_sepconv.ops.sharding import may_be_divided

CPU_REASON = (
    "on CPU the native kernels were measured fastest, for every contraction and kernel size tried"
)
CPU_FFT_REASON = (
    "on CPU transforms were measured faster than the native kernels' products, from about 850 taps "
    "up that each step meets"
)
CPU_WITHOUT_NATIVE_REASON = (
    "the fastest of XLA's own forms on CPU, for every contraction and kernel size tried; the "
    "native kernels, faster still, are left out: "
)
GPU_REASON = (
    "compiled for H100 (not run), shifted sums are one launch and move no more bytes than the "
    "convolution and the copies around it"
)
GPU_DILATED_REASON = (
    "compiled for H100 (not run), beside a dilated convolution for the kernel gradient another one "
    "moves fewer bytes"
)
GPU_KERNEL_REASON = (
    "compiled for H100 (not run), from 5 taps up (9 in 16 bits) the convolution moves fewer bytes "
    "here"
)
TPU_SMALL_REASON = (
    "compiled for TPU (not run), up to 5 taps shifted sums fuse with their neighbours (the forward "
    "one into the pointwise contraction) and take the least time and bytes"
)
TPU_REASON = (
    "compiled for TPU (not run), the convolution uses the matrix unit, which wins from 6 taps up"
)
TPU_SHAPE_REASON = (
    "compiled for TPU (not run), the convolution takes less time where strides are larger than 1 "
    "or lengths are no whole tiles (multiples of 8)"
)
TPU_MULTIPLIER_REASON = (
    "compiled for TPU (not run), the convolution writes the channels of several multipliers side "
    "by side, which shifted sums of them do with copies"
)
WRONG_REASON = "the best known of XLA's own forms, because {name} was wrong: {where}"
SEGMENTS_REASON = "of XLA's own forms the one that knows segments"
OTHER_REASON = "not measured on this platform: the definition"

# By the bytes of an element: 16-bit convolutions convert their operands first.
GPU_SHIFTED_SUM_TAPS = {2: 8, 4: 4, 8: 4}
TPU_SHIFTED_SUM_TAPS = 5
TPU_SUBLANES = 8
# Products in the native kernels that take as long as one value of what is transformed: 500 to 750
# were measured, for every contraction and both stages (docs/design.md).
FFT_PRODUCTS = 750


class Selection(NamedTuple):
    """A lowering's name and the reason it was taken."""

    name: str
    reason: str


def select(contraction: Contraction) -> Selection:
    """Select a lowering for one contraction, of which none is named; L may be a symbol."""
    geometry, context = contraction.geometry, contraction.context
    platform = context.platform
    if platform == "cpu":
        if _fft_wins(contraction):
            return Selection("fft", CPU_FFT_REASON)
        if missing := native.reason_to_avoid(context):
            return Selection("shifted_sum", CPU_WITHOUT_NATIVE_REASON + missing)
        return Selection("native", CPU_REASON)
    if contraction.limits == "segments":
        return Selection("shifted_sum", SEGMENTS_REASON)
    if platform in ("cuda", "rocm", "gpu"):
        if geometry.kernel_size > GPU_SHIFTED_SUM_TAPS[contraction.operand_dtype.itemsize]:
            if contraction.name == "kernel_gradient":
                return Selection("grouped_conv", GPU_KERNEL_REASON)
            if contraction.name == "input_gradient" and geometry.dilation > 1:
                return Selection("grouped_conv", GPU_DILATED_REASON)
        return Selection("shifted_sum", GPU_REASON)
    if platform == "tpu":
        if geometry.kernel_size > TPU_SHIFTED_SUM_TAPS:
            return Selection("grouped_conv", TPU_REASON)
        if geometry.stride > 1 or geometry.length % TPU_SUBLANES != 0:
            return Selection("grouped_conv", TPU_SHAPE_REASON)
        if contraction.multiplier > 1 and contraction.name == "output":
            return Selection("grouped_conv", TPU_MULTIPLIER_REASON)
        return Selection("shifted_sum", TPU_SMALL_REASON)
    return Selection("grouped_conv", OTHER_REASON)


def _fft_wins(contraction: Contraction) -> bool:
    """Tell whether transforms take less time than the native kernels, on one CPU, in float32.

    Of whole rows: where sequences end earlier the native kernels do less.
    """
    geometry = contraction.geometry
    is_measured = contraction.limits == "whole" and contraction.operand_dtype == "float32"
    is_known = isinstance(geometry.length, int) and has_known_padding(geometry)
    if not (is_measured and is_known and contraction.context.is_one_device):
        return False
    if geometry.kernel_size < FFT_PRODUCTS * geometry.stride:
        return False
    frames = frames_of_rows(contraction)
    return geometry.meetings > FFT_PRODUCTS * frames.count * frames.size


def select_on_device(contraction: Contraction, types: Sequence[Any]) -> Selection:
    """Select by what was measured on the device, else by `select`; never what was wrong there.

    Args:
        contraction: of which no lowering is named.
        types: of its operands.
    """
    return _select_by_tables(contraction, contraction, types)


def select_for_both(stages: Stages, first: Contraction, types: Sequence[Any]) -> Selection:
    """Select for both stages by what was measured of them, else by their first one.

    Args:
        stages: of which no lowering is named.
        first: the output of the depthwise stage, in its context.
        types: of the operands, without what limits them, and of the results.
    """
    return _select_by_tables(stages, first, types)


def _select_by_tables(
    task: Stages | Contraction, first: Contraction, types: Sequence[Any]
) -> Selection:
    name, found = chosen(task, types, first.context)
    if name is not None:
        return Selection(name, str(found))
    selected = _trusted(select(first), first)
    return selected._replace(reason=f"{selected.reason}; {found}") if found else selected


def name_by_table(stages: Stages, types: Sequence[Any], context: Context) -> Stages:
    """Name the lowering that was measured best for both stages, where none is named.

    Args:
        stages: what is to be computed.
        types: of the operands, without what limits them, and of the results.
        context: of the program.
    """
    if stages.implementation is not None or stages.result not in ("y", "xkw"):
        return stages
    return replace(stages, implementation=chosen(stages, types, context)[0])


_is_lowering: contextvars.ContextVar[bool] = contextvars.ContextVar("is_lowering", default=False)


@contextlib.contextmanager
def lowering() -> Iterator[None]:
    """Bind primitives, whatever is named: no tool looks into what is traced to be lowered."""
    token = _is_lowering.set(True)
    try:
        yield
    finally:
        _is_lowering.reset(token)


def _trusted(selected: Selection, contraction: Contraction) -> Selection:
    """Take one of XLA's own forms in place of what was wrong on the device."""
    wrong = wrong_ones(contraction.context)
    if selected.name not in wrong or contraction.limits == "segments":
        return selected
    others = (name for name in ("shifted_sum", "grouped_conv") if name not in wrong)
    reason = WRONG_REASON.format(name=selected.name, where=wrong[selected.name])
    return Selection(next(others, selected.name), reason)


def choose(contraction: Contraction, types: Sequence[Any]) -> Lowering:
    """Return the lowering that is named, if it runs here, or the selected one.

    Args:
        contraction: what is to be computed.
        types: of its operands.

    Raises:
        NotImplementedError: the named one cannot run here.
    """
    context = contraction.context
    named, replaced = resolve_name(contraction.implementation, context)
    name = named or select_on_device(contraction, types).name
    if named or tried():
        _check_named(name, context)
    if contraction.implementation is not None and replaced is not None:
        replaced.add(Replaced(contraction.implementation, context.platform, name))
    return LOWERINGS[name]


def traced(implementation: str | None, *operands: Any) -> Lowering | None:
    """Return the named lowering if it is to be traced as it is, or None: the primitive is.

    On a mesh the primitive is, because XLA sums the kernel gradient of a convolution too often
    there (`Summation`), and what JAX derives cannot know. A mesh that `jit` alone is given is not
    seen here, so the primitive is bound wherever there are several devices, but for a tool that
    looks for operations of XLA's (`is_intercepted`). Where that misses the primitive, a warning
    says so.
    """
    if _is_lowering.get():
        return None
    named = LOWERINGS[implementation] if implementation is not None else None
    intercepted = is_intercepted()
    if named is not None and named.is_traced and not may_be_divided(*operands):
        assert implementation is not None
        sees_all = intercepted or jax.device_count() == 1
        return named if sees_all and not is_unwanted(implementation) else None
    if intercepted:
        hidden = "it can where there is no mesh of several devices"
        if named is None or not named.is_traced:
            names = " or ".join(repr(name) for name, known in LOWERINGS.items() if known.is_traced)
            hidden = f"implementation must be {names} for that, got {implementation!r}"
        warnings.warn(
            "a tool has replaced functions of jax.lax (to quantize, it may be), and cannot look "
            f"into this separable convolution: {hidden}",
            stacklevel=4,
        )
    return None


def choose_for_both(stages: Stages, first: Contraction, types: Sequence[Any]) -> Lowering | None:
    """Return the lowering that computes both stages together, or None: they are composed.

    Args:
        stages: what is to be computed.
        first: the output of the depthwise stage, in its context.
        types: of the operands, without what limits them, and of the results.

    Raises:
        NotImplementedError: the named one cannot run here.
    """
    context = first.context
    name, _ = resolve_name(stages.implementation, context)
    if name is not None:
        _check_named(name, context)
    lowering = LOWERINGS[name or _trusted(select(first), first).name]
    is_here = (
        stages.result in lowering.stages
        and stages.limits in lowering.limits
        and has_known_padding(stages.geometry)
        and context.is_one_device
    )
    stages = replace(stages, context=context)
    return lowering if is_here and lowering.supports(stages, types) else None


def _check_named(name: str, context: Context) -> None:
    """Raise NotImplementedError where a lowering that was asked for by name does not run."""
    if reason := LOWERINGS[name].declines(context):
        raise NotImplementedError(f"implementation={name!r} cannot run here: {reason}")
