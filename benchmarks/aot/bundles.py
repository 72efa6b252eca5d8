"""How many instruction bundles a TPU issues for each operation, from what its compiler writes down.

The compiler's listing of an operation has a line for each bundle (one clock cycle of all units)
with its address; a loop ends in a branch back to the region that its body starts. Bundles are
counted as often as their loops turn. Not seen: stalls (for memory, for the matrix unit's results),
what forward branches skip (it counts as run), and the turns of loops over a partial block, whose
number is computed as they run (they count once).
"""

import pathlib
import re
from typing import NamedTuple

LISTING = re.compile(r"\d+-(?P<operation>.+)-\d+-final_bundles\.txt")

BUNDLE = re.compile(r"^ *(?:0x(?P<address>[0-9a-f]+)|0) +(?:[A-Z]{2})?: [> ]*\{")
STARTED = re.compile(r"Start(?:/End empty)? region (\d+)")
BRANCH = re.compile(r"sbr\.rel \((?P<negated>!?)%(?P<predicate>\w+)\) target = \$region(\d+)")
COMPARED = re.compile(r"%(\w+) = scmp\.(\w+)\.s32\.totalorder %(\w+), (\d+)")
ADDED = re.compile(r"%(\w+) = sadd\.s32 (\d+), ")


class Loop(NamedTuple):
    """The bundles from `first` to `last` are issued `trips` times."""

    first: int
    last: int
    trips: int


def dumped(folder: pathlib.Path) -> dict[str, int]:
    """Count the bundles of every operation whose listing lies in a folder."""
    counts = {}
    for path in sorted(folder.iterdir()):
        if found := LISTING.fullmatch(path.name):
            operation = found["operation"]
            if "schedule-analysis" not in operation:
                counts[operation] = count(path.read_text())
    return counts


def count(listing: str) -> int:
    """Count the bundles that one listing issues."""
    lines = [line for line in listing.splitlines() if BUNDLE.match(line)]
    loops = _loops(lines)
    issued = 0
    for position in range(len(lines)):
        turns = 1
        for loop in loops:
            if loop.first <= position <= loop.last:
                turns *= loop.trips
        issued += turns
    return issued


def _loops(lines: list[str]) -> list[Loop]:
    """Find the branches back to the start of a region, and how often they are taken."""
    starts: dict[str, int] = {}
    loops = []
    for position, line in enumerate(lines):
        for branch in BRANCH.finditer(line):
            first = starts.get(branch[3])
            if first is not None:
                loops.append(Loop(first, position, _trips(lines[first : position + 1], branch)))
        for region in STARTED.findall(line):
            starts.setdefault(region, position)
    return loops


def _trips(body: list[str], branch: re.Match[str]) -> int:
    """Tell how often a loop turns whose counter, from 0, is compared after its step was added."""
    compared = {name: rest for line in body for name, *rest in COMPARED.findall(line)}
    added = {name: int(step) for line in body for name, step in ADDED.findall(line)}
    how, counter, bound = compared.get(branch["predicate"], (None, None, 0))
    if branch["negated"] != "!" or how not in ("ge", "gt") or counter not in added:
        return 1
    end = int(bound) + (how == "gt")
    return max(-(-end // added[counter]), 1)
