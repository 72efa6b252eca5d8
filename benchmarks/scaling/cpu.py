"""The divided layer on CPU devices: what is sent, what is held, and the time."""

import contextlib
import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import reference, summary, timing
from benchmarks.case import Case
from benchmarks.scaling.divisions import DIVISIONS, EXPLICIT, WHOLE, fewest
from benchmarks.scaling.teams import Setting, Team, cores
from benchmarks.workloads import Workload

LAYERS = (
    Workload("many", 16, 512, 128, 256, 15, 1, 1, 1, "same", 0, ""),
    Workload("long", 1, 131072, 64, 64, 31, 1, 1, 1, "causal", 0, ""),
)
# A long sequence is divided by its length; the rest would take minutes and say little.
ONLY = {"long": ("sequence",)}
CANDIDATES = (EXPLICIT, "selected", "shifted_sum", "grouped_conv", "stock")
COUNTED = (4, 8)
# More devices would take minutes to compute what these do.
JUDGED = 4
TIMED = (1, 2)
ITEMSIZE = 4

Row = dict[str, Any]
Numbers = Mapping[str, np.ndarray]


def ways(workload: Workload, count: int) -> list[str]:
    """Name the divisions of a layer over so many devices."""
    if count == 1:
        return [WHOLE]
    names = ONLY.get(workload.name, DIVISIONS)
    return [name for name in names if DIVISIONS[name].fits(workload, count)]


def settings() -> list[Setting]:
    """List those that are timed; processes that share a core would wait for each other."""
    found = [Setting("devices", count) for count in TIMED]
    return found + [Setting("processes", count) for count in TIMED if count <= cores()]


def count_rows(layers: Sequence[Workload]) -> int:
    """Return how many rows `measure` adds."""
    all_of_them = [*(Setting("devices", count) for count in COUNTED), *settings()]
    per_program = sum(len(ways(w, setting.number)) for w in layers for setting in all_of_them)
    return per_program * len(summary.PROGRAMS)


def measure(layers: Sequence[Workload], seconds: float, rows: list[Row]) -> None:
    """Count and time all layers; a row for each layer, setting, division and program is added.

    Args:
        layers: the layers.
        seconds: for each program that is timed.
        rows: the rows of the record.
    """
    right = {w.name: reference.layer(w, Case(w).operands()) for w in layers}
    for count in COUNTED:
        setting = Setting("devices", count)
        with Team(setting) as team:
            for workload in layers:
                rows += build(team, setting, workload, right[workload.name])
                team.drop()
    with contextlib.ExitStack() as stack:
        teams = {setting: stack.enter_context(Team(setting)) for setting in settings()}
        for workload in layers:
            built = {
                setting: build(team, setting, workload, right[workload.name])
                for setting, team in teams.items()
            }
            time_all(teams, built, seconds)
            for setting, team in teams.items():
                rows += built[setting]
                team.drop()


def build(team: Team, setting: Setting, workload: Workload, right: Numbers) -> list[Row]:
    """Compile a layer in all its divisions; on few devices judge the numbers too."""
    rows = []
    bar = tqdm(ways(workload, setting.number), f"{setting}, {workload.name}", disable=quiet())
    for division in bar:
        facts = team.add(workload, division, CANDIDATES)
        for name in facts if setting.number <= JUDGED else ():
            program = name.rpartition("/")[2]
            results = team.numbers(name)
            wanted = right if program == "forward_backward" else {"y": right["y"]}
            if found := reference.mistakes(workload, results, wanted):
                raise SystemExit(f"{setting}: {workload.name} {name}: {'; '.join(found)}")
        rows += [
            {
                "workload": workload.name,
                "shape": str(workload),
                **setting._asdict(),
                "division": division,
                "program": program,
                "fewest_bytes": fewest(workload, division, setting.number, program, ITEMSIZE),
                "candidates": {name: facts[f"{division}/{name}/{program}"] for name in CANDIDATES},
            }
            for program in summary.PROGRAMS
        ]
    return rows


def time_all(
    teams: Mapping[Setting, Team], built: Mapping[Setting, Sequence[Row]], seconds: float
) -> None:
    """Time what teams have built, all in turn, and write the times into the rows."""
    places = {
        (setting, f"{row['division']}/{name}/{row['program']}"): facts
        for setting, rows in built.items()
        for row in rows
        for name, facts in row["candidates"].items()
    }
    clocks = {
        (setting, program): functools.partial(teams[setting].times, program)
        for setting, program in places
    }
    for key, values in timing.interleaved(clocks, seconds).items():
        places[key] |= timing.statistics_of(values)
    for (setting, program), facts in places.items():
        alone = Setting(setting.kind, 1)
        _, name, kind = program.split("/")
        one = places[alone, f"{WHOLE}/{name}/{kind}"]["milliseconds"]
        facts["times_faster_than_one"] = one / facts["milliseconds"]


def quiet() -> bool:
    """Tell whether nobody watches the progress."""
    return not sys.stderr.isatty()


def over_fewest(row: Mapping[str, Any], name: str) -> float | None:
    """Return the bytes of a candidate over the fewest; None where none are needed."""
    fewest_bytes = row["fewest_bytes"]
    return row["candidates"][name]["bytes"] / fewest_bytes if fewest_bytes else None
