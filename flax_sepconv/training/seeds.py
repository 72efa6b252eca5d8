"""A run with several seeds: how much of a score is chance, and what all of them say together."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from flax_sepconv.training import distributed, series
from flax_sepconv.training.complaints import writing
from flax_sepconv.training.config import Config, UserError
from flax_sepconv.training.datasets import formats
from flax_sepconv.training.search_plots import of_seeds
from flax_sepconv.training.settings import SEED
from flax_sepconv.training.workdir import write_atomically


def parse(text: str) -> tuple[int, ...]:
    """Return the seeds that ``--seeds`` names: numbers and ranges, with commas between them.

    Raises:
      UserError: it names none, one twice, or what is no seed.

    >>> parse("0..4"), parse("0,2,5"), parse("7,0..2")
    ((0, 1, 2, 3, 4), (0, 2, 5), (7, 0, 1, 2))
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,10})\s*(?:\.\.\s*(\d{1,10})\s*)?", part)
        if not match:
            raise UserError(f"--seeds must be like 0..4 or 0,2,5, got {text!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"--seeds: a range must rise, got {part.strip()!r}")
        for seed in (first, last):
            if not SEED.holds(seed):
                raise UserError(f"--seeds: each {SEED.text}, got {seed}")
        if last - first >= 1000:
            raise UserError(f"--seeds: a range must have at most 1000 seeds, got {part.strip()!r}")
        found += range(first, last + 1)
    if twice := sorted({seed for seed in found if found.count(seed) > 1}):
        raise UserError(f"--seeds must name each seed once, got {twice[0]} twice")
    return tuple(found)


def run(
    config: Config,
    workdir: Path,
    seeds: Sequence[int],
    resume: bool,
    write: Callable[[str], None],
) -> int:
    """Train with each seed in workdir/seed-N; leave summary.json and summary.png in `workdir`.

    The ensemble is the mean of the probabilities of all seeds: its accuracy is that of a network
    so many times as large, and says nothing of a single one.

    All processes call this; the first one writes.

    Args:
      config: of each run; its own seed is not looked at.
      workdir: of the series.
      seeds: of the runs, at least one.
      resume: continue the series in `workdir`: runs that are finished are not trained again, one
        that was stopped goes on from its checkpoint, and seeds may be added.
      write: prints lines.

    Returns:
      The exit status: 0, or 1 where the training diverged with some seed.

    Raises:
      UserError: as `loop.run`, and as `series.begin`.
      InterruptedRunError: as `loop.run`.
    """
    series.begin(workdir, series.Series(config, tuple(seeds), {}), resume)
    with series.compiled_once():
        outcomes = series.train(config, workdir, seeds)
    found = series.gather(outcomes)
    record = {
        "data_set": formats.title(config.data),
        "seeds": list(seeds),
        **found,
        "ensemble": series.ensemble(outcomes),
    }
    with distributed.agreement(), writing(workdir):
        if distributed.is_first():
            write_atomically(workdir / "summary.json", json.dumps(record, indent=2) + "\n")
            if found["runs"]:
                of_seeds(record, workdir / "summary.png")
    if distributed.is_first():
        write(series.report(outcomes))
    return 1 if found["diverged"] else 0
