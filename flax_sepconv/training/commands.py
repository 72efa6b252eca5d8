"""The commands of the trainer, as a table: what each is called, takes, tells and does.

Only a command that runs imports what the extra `train` brings.
"""

import difflib
import importlib
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flax_sepconv.training.settings import UserError

Write = Callable[[str], None]
Given = Mapping[str, Any]


class Option(NamedTuple):
    """One ``--name VALUE`` of a command; ``--name`` alone where its default is False.

    Attributes:
      name: without dashes.
      value: what the help calls its value.
      meaning: for the help.
      default: where it is not given; None: nothing.
      kind: str, int, bool, or what makes of a word what is meant.
      choices: those there are; none: any.
      required: whether it must be given.
      repeated: whether it may be given several times; `kind` makes something of the list then.
    """

    name: str
    value: str
    meaning: str
    default: Any = None
    kind: Any = str
    choices: tuple[str, ...] = ()
    required: bool = False
    repeated: bool = False


class Command(NamedTuple):
    """One command.

    Attributes:
      name: its word.
      about: one line for the help.
      options: those it takes.
      run: from what `arguments.parse` returns, and what prints, to the exit status.
      notes: what else its help says.
      settings: whether it takes ``--config`` and its settings: "no"; "defaults", where no file
        need be given; "file", where one or ``--config.data.path`` must; or "file or run", where
        ``--workdir`` of a run does too.
    """

    name: str
    about: str
    options: tuple[Option, ...]
    run: Callable[[Given, Write], int]
    notes: str = ""
    settings: str = "no"


def _module(name: str) -> Any:
    return importlib.import_module(f"flax_sepconv.training.{name}")


def _seeds(text: str) -> tuple[int, ...]:
    seeds: tuple[int, ...] = _module("seeds").parse(text)
    return seeds


def _axes(words: list[str]) -> dict[str, list[Any]]:
    axes: dict[str, list[Any]] = _module("sweep").parse(words)
    return axes


def _by(module: str) -> Callable[[Given, Write], int]:
    """Return the function `run` of a module, which takes each option by its name."""

    def run(given: Given, write: Write) -> int:
        status: int = _module(module).run(**given, write=write)
        return status

    return run


def _stream(given: Given, write: Write) -> int:
    if sys.stdin is None:
        raise UserError("cannot read stdin: it is closed")
    run = _module("stream").run
    run(given["workdir"], given["checkpoint"], given["every"], sys.stdin.buffer, write)
    return 0


_RUN = Option("workdir", "DIR", "the run, wherever it was moved", kind=Path, required=True)
_WEIGHTS = Option(
    "checkpoint",
    "KIND",
    "the weights, best or last; default those that the run was scored with",
    choices=("best", "last"),
)
_NEW = Option(
    "workdir", "DIR", "where everything goes; default runs/DATASET-YYYYMMDD-HHMMSS", kind=Path
)
_GROUP = (
    Option(
        "coordinator",
        "HOST:PORT",
        "where the processes of a run on several machines meet: a free port of the first one's; "
        "or JAX_COORDINATOR_ADDRESS",
    ),
    Option(
        "processes",
        "N",
        "how many they are; or JAX_NUM_PROCESSES; 1 alone: no others, whatever started this one",
        kind=int,
    ),
    Option(
        "process",
        "I",
        "which of them this one is, from 0; or JAX_PROCESS_ID",
        kind=int,
    ),
)

_TRAIN_NOTES = """\
A run of which DIR is given alone is continued: train --workdir DIR. It knows its settings; any that
are given must be the same. Several runs, by --seeds or --sweep, have a folder each in DIR, and are
continued in the same way.

A run takes all devices of this machine, or those that config.mesh names. The processes of one on
several machines are all given the same command but for --process. Where Slurm, Open MPI, Kubernetes
or a TPU pod starts several, nothing need be given. The first one alone reads and writes the
checkpoints and all else in DIR; to continue, the others must see its config.json or be given
--config. A run is continued on any number of devices and processes.

A training that is interrupted, in any of its processes, or that nobody reads, writes a checkpoint
first."""

_STREAM_NOTES = """\
It reads series from stdin, as the data set has them: a line a step, a number a channel, separated
by spaces or commas; a blank line begins a new series. It prints the probabilities of the classes or
labels for the series so far, or the value, separated by tabs, as soon as a step has come."""

_PREDICT_NOTES = """\
The table has a row for each series, in the order of the file: its id, the class that is most
probable, and the probability of each class; or the labels whose probability is above a half, and
that of each label; or the value. Labels in the file are not looked at."""

_EVALUATE_NOTES = """\
FOLDER gets metrics.json and confusion_matrix.png (of values scatter.png, of sets of labels
labels.png). Classes are matched by their names."""

_EXPORT_NOTES = """\
jax: one artifact for cpu, cuda and tpu, for any batch and length; run_NAME.py beside it runs it
where jax is installed, without Flax and this package. onnx, litert: for other runtimes, by
jax2onnx and TensorFlow, where these are installed. All take series in the unit of the data, inputs
(b, l, C) float32 padded to one length, and lengths (b,) int32, and return the probabilities of the
classes or labels (b, classes), or values (b,). What was made is run and compared with the network
before it is written."""

_RATES_NOTES = """\
A search takes all devices and processes, as a run of train does that is given the same."""

_TABLE = (
    Command(
        "train",
        "train and score a network; or continue a run",
        (
            _NEW,
            Option("resume", "", "continue the run in DIR", default=False, kind=bool),
            Option("seeds", "A..B", "train once for each of these seeds; or A,B,C", kind=_seeds),
            Option(
                "sweep",
                "GROUP.FIELD=X,Y",
                "train once for each of these values of a setting, and choose by the validation "
                "loss; given several times, for each combination",
                kind=_axes,
                repeated=True,
            ),
            *_GROUP,
        ),
        _by("train"),
        _TRAIN_NOTES,
        settings="file or run",
    ),
    Command(
        "evaluate",
        "score a run on its test series, or on others",
        (
            _RUN,
            Option(
                "data",
                "PATH",
                "labelled series, in any format of a data set; default the run's test series",
                kind=Path,
            ),
            _WEIGHTS,
            Option("output", "FOLDER", "where the results go; default DIR/evaluation", kind=Path),
        ),
        _by("evaluating"),
        _EVALUATE_NOTES,
    ),
    Command(
        "predict",
        "say what a run makes of the series of a file",
        (
            _RUN,
            Option("data", "PATH", "series, in any format of a data set", kind=Path, required=True),
            _WEIGHTS,
            Option("output", "FILE", "a CSV file; default stdout", kind=Path),
        ),
        _by("predicting"),
        _PREDICT_NOTES,
    ),
    Command(
        "export",
        "make of a run one file that needs neither Flax nor this package",
        (
            _RUN,
            Option(
                "format",
                "FORMAT",
                "jax, onnx or litert; default jax",
                default="jax",
                choices=("jax", "onnx", "litert"),
            ),
            _WEIGHTS,
            Option("output", "FILE", "default DIR/model.jax, .onnx or .tflite", kind=Path),
        ),
        _by("exporting"),
        _EXPORT_NOTES,
    ),
    Command(
        "stream",
        "answer series step by step, as they come",
        (
            _RUN,
            _WEIGHTS,
            Option(
                "every",
                "N",
                "answer every N steps and at the end of a series; default 1",
                default=1,
                kind=int,
            ),
        ),
        _stream,
        _STREAM_NOTES,
    ),
    Command(
        "validate-data",
        "look for what is wrong in a data set",
        (),
        _by("validate"),
        settings="defaults",
    ),
    Command(
        "find-learning-rate",
        "try learning rates, and propose one",
        (_NEW, *_GROUP),
        _by("learning_rate"),
        _RATES_NOTES,
        settings="file",
    ),
)
COMMANDS = {command.name: command for command in _TABLE}


def unknown(name: str, known: Collection[str]) -> str:
    """Say that there is no such command, which was meant, and which there are.

    >>> unknown("trian", ["train", "tune"])
    "there is no command 'trian'; did you mean train? there are: train, tune"
    """
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"there is no command {name!r}; {hint}there are: {', '.join(known)}"
