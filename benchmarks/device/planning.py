"""Which rows a run has, in the order of how telling they are."""

import itertools
from collections.abc import Iterable, Sequence

from benchmarks.candidates import FUSED, TELLING_CANDIDATES, TELLING_LAYERS
from benchmarks.device.measuring import Case
from benchmarks.workloads import Workload


def cases(
    chosen: Iterable[Workload],
    dtypes: Sequence[str],
    programs: Sequence[str],
    names: Sequence[str],
    platform: str,
    is_bounded: bool,
) -> list[Case]:
    """Return the rows: the telling layers, then the others.

    In a bounded run the telling layers have the telling candidates first, and the others, beside
    what is selected, in rows of their own at the end.

    Args:
        chosen: the workloads.
        dtypes: of the rows.
        programs: of the rows.
        names: of all candidates.
        platform: of the device.
        is_bounded: whether the time may end before the rows do.
    """
    by_name = {workload.name: workload for workload in chosen}
    first = [by_name.pop(name) for name in TELLING_LAYERS if name in by_name]
    telling = [name for name in names if name in (*TELLING_CANDIDATES, FUSED.get(platform))]
    others = [name for name in names if name not in telling]
    layers = [(each, dtype, p) for dtype, each, p in itertools.product(dtypes, first, programs)]
    rest = [
        Case(*each, tuple(names)) for each in itertools.product(by_name.values(), dtypes, programs)
    ]
    if not is_bounded or not others:
        return [*(Case(*each, tuple(names)) for each in layers), *rest]
    return [
        *(Case(*each, tuple(telling)) for each in layers),
        *rest,
        *(Case(*each, ("selected", *others)) for each in layers),
    ]
