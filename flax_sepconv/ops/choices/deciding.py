"""Whether a row of a table decides about a call: where what it chose runs, and was never wrong."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flax_sepconv.ops.choices.classes import class_of_contraction, class_of_stages
from flax_sepconv.ops.choices.devices import kind_of
from flax_sepconv.ops.choices.reading import Found, refused, row_for, tried
from flax_sepconv.ops.choices.table import DEFAULT
from flax_sepconv.ops.context import Context
from flax_sepconv.ops.contraction import Contraction, Stages
from flax_sepconv.ops.limits import has_known_padding, rows_geometry
from flax_sepconv.ops.lowerings import LOWERINGS


def decide(task: Stages | Contraction, types: Sequence[Any], context: Context) -> Found | None:
    """Return the row that decides about what is to be computed on one device, or None.

    Args:
        task: both stages ("y" or "xkw"), or a contraction of the depthwise stage.
        types: of the operands, without what limits them, and of both stages' results too.
        context: of the program.
    """
    if not context.is_one_device or not has_known_padding(task.geometry):
        return None
    if isinstance(task, Stages):
        of = class_of_stages(task, types)
    else:
        of = class_of_contraction(task, types)
    found = row_for(kind_of(context.platform, context.device_kind), of)
    if found is None or found.row.choice == DEFAULT:
        return found
    return found if _runs(found.row.choice, task, types, context) else None


def chosen(
    task: Stages | Contraction, types: Sequence[Any], context: Context
) -> tuple[str | None, Found | None]:
    """Return the lowering that a row chooses, or None: rules select; and the row, if there is one.

    Args:
        task, types, context: as for `decide`.
    """
    if name := tried():
        return (None if name == DEFAULT else name), None
    found = decide(task, types, context)
    return (found.row.choice if found and found.row.choice != DEFAULT else None), found


def _runs(name: str, task: Stages | Contraction, types: Sequence[Any], context: Context) -> bool:
    """Tell whether a lowering computes a task, itself or by parts."""
    lowering = LOWERINGS[name]
    if name in wrong_ones(context) or lowering.declines(context):
        return False
    if task.limits == "segments" and task.limits not in lowering.limits:
        return False
    if isinstance(task, Stages) and task.result in lowering.stages:
        try:
            lowering.supports(replace(whole(task), context=context), types)
        except NotImplementedError:
            return False
    return True


def whole(stages: Stages) -> Stages:
    """Return what is computed of whole rows, where lengths are masked around it."""
    if stages.limits != "lengths":
        return stages
    return replace(stages, geometry=rows_geometry(stages.geometry), limits="whole")


def wrong_ones(context: Context) -> dict[str, Found]:
    """Return the lowerings that were wrong on the devices of a program, and where."""
    return refused(kind_of(context.platform, context.device_kind))
