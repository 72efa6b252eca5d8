"""The text of ``--help``; settings and configs are listed as they are declared."""

import dataclasses
import textwrap
from typing import Any

from flax_sepconv.training import configs
from flax_sepconv.training.config import Config

_USAGE = """Train: python -m flax_sepconv.training --config japanese_vowels

  --config FILE           experiment to run: a file, or the name of one listed below; required
  --config.GROUP.FIELD=X  change one of its settings, e.g. --config.train.epochs=3
  --workdir DIR           where everything goes; default runs/DATASET-YYYYMMDD-HHMMSS

Continue a run: python -m flax_sepconv.training --workdir DIR --resume

  --workdir DIR           the run; required. It knows its settings; any given must be the same
  --resume                continue the run instead of beginning one

Divide a run: it takes all devices of this machine, or those that config.mesh names

  --coordinator HOST:PORT  where the processes of a run on several machines meet: a free port of
                           the first one's; or JAX_COORDINATOR_ADDRESS
  --processes N            how many they are; or JAX_NUM_PROCESSES; 1 alone: no others, whatever
                           started this one
  --process I              which of them this one is, from 0; or JAX_PROCESS_ID

All processes are given the same command but for --process. Where Slurm, Open MPI, Kubernetes or a
TPU pod starts several, nothing need be given. The first one alone reads and writes the checkpoints
and all else in DIR; to --resume, the others must see its config.json or be given --config. A run
is resumed on any number of devices and processes.

Use a causal run: python -m flax_sepconv.training stream --workdir DIR

  --workdir DIR           the run; required
  --checkpoint KIND       the weights, best or last; default those that the run was scored with
  --every N               answer every N steps and at the end of a series; default 1

It reads series from stdin, as the data set has them: a line a step, a number a channel, separated
by spaces or commas; a blank line begins a new series. It prints the probabilities of the classes
for the series so far, separated by tabs, as soon as a step has come.

Exit status: 0 done; 1 diverged; 2 bad arguments or input, or the folder cannot be written; 129,
130 and 143 interrupted by SIGHUP, SIGINT and SIGTERM; 141 nobody reads the output; 75 another
process of the run was lost; 70 a fault of this program. A training that is interrupted, in any of
its processes, or that nobody reads, writes a checkpoint first.
"""


def _entry(name: str, text: str, indent: int) -> str:
    """Return a name and, in a column beside it, what it means."""
    return textwrap.fill(
        text,
        100,
        initial_indent=f"  {name:<{indent - 4}}  ",
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
    )


def _setting(group: str, field: "dataclasses.Field[Any]") -> str:
    kind, default, rule = type(field.default), field.default, field.metadata["rule"]
    shown = default if default != "" else "empty"
    text = f"{field.metadata['meaning']}; {f'{rule.text}; ' if rule else ''}default {shown}"
    return _entry(f"--config.{group}.{field.name} {kind.__name__.upper()}", text, 43)


def text() -> str:
    """Return what ``--help`` prints."""
    parts = [_USAGE, "Configs:\n"]
    parts += [_entry(name, configs.title(file), 26) for name, file in configs.shipped().items()]
    parts.append("\nSettings, each with the default that a config file may change:")
    for group in dataclasses.fields(Config):
        kind: Any = type(group.default)
        parts.append(f"\n{group.name}: {kind.__doc__}\n")
        parts += [_setting(group.name, field) for field in dataclasses.fields(kind)]
    return "\n".join(parts)
