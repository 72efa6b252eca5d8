"""A whole measurement: problem after problem, and the table of it."""

import dataclasses
import os
import pathlib
import platform
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from flax_sepconv.ops.choices.classes import LAYER_PROGRAMS, Program
from flax_sepconv.ops.choices.devices import kind_of
from flax_sepconv.ops.choices.reading import VARIABLE, user_folder
from flax_sepconv.ops.choices.table import Row, Table, TableError, file_of, merge, read
from flax_sepconv.ops.lowerings import LOWERINGS
from flax_sepconv.ops.tuning import ceilings, report
from flax_sepconv.ops.tuning.lost import Lost
from flax_sepconv.ops.tuning.measuring import measure
from flax_sepconv.ops.tuning.models import problems_of
from flax_sepconv.ops.tuning.problems import Problem

Case = tuple[Problem, Program, str]


class DeviceLostError(RuntimeError):
    """The device, or this process on it, computes no more."""


def run(
    cases: Sequence[Case],
    device: jax.Device,
    folder: pathlib.Path | None = None,
    *,
    seconds: float = 0.25,
    names: Sequence[str] = tuple(LOWERINGS),
    say: Callable[[str], Any] = print,
) -> Table:
    """Measure cases on a device, and merge each row into the table in a folder as it comes.

    Args:
        cases: problems, programs and dtypes.
        device: to compute on.
        folder: of tables; None: the user's.
        seconds: to time each candidate for.
        names: of the lowerings to try.
        say: is told each line.

    Returns:
        What the table holds now.

    Raises:
        ValueError: there is nothing to measure, or no folder.
        DeviceLostError: a candidate left the device in a state in which it computes no more.
        OSError, TimeoutError: the table cannot be written.
    """
    if not cases:
        raise ValueError("there is nothing to measure")
    folder = folder or user_folder(os.environ.get(VARIABLE))
    if folder is None:
        raise ValueError(f"{VARIABLE} is empty, so there is no folder to write to: name one")
    kind = kind_of(device.platform, device.device_kind)
    assert kind is not None
    rates = {
        dtype: ceilings.measure(device, dtype, seconds)
        for dtype in dict.fromkeys(dtype for *_, dtype in cases)
    }
    about = {**machine(device), "ceilings": report.facts_of(rates)}
    path = file_of(folder, kind)
    folder.mkdir(parents=True, exist_ok=True)
    lost = Lost(path.with_name(path.name + ".trying"), _rows(path))
    if busy := report.busy():
        say(busy)
    say(report.HEAD)
    rows: list[Row] = []
    for problem, program, dtype in cases:
        row = measure(problem, program, dtype, device, rates[dtype], seconds, names, lost)
        is_lost = bool(report.troubles(row)) and not computes(device)
        if is_lost:
            row = _first_failure_alone(row)
        rows.append(row)
        say(report.line(row))
        table = merge(path, Table((kind,), "measured", (row,), about))
        if is_lost:
            raise DeviceLostError(
                f"{kind} computes no more in this process; what was measured is in {path}: run "
                "it again, and it goes on without what ended it"
            )
    for told in (*report.declined(rows), report.summary(table, rows)):
        say(told)
    return table


def _rows(path: pathlib.Path) -> tuple[Row, ...]:
    try:
        return read(path).rows if path.exists() else ()
    except TableError:  # It is kept beside when the first row is written.
        return ()


def _first_failure_alone(row: Row) -> Row:
    """Blame what failed first for the device; what came behind it says nothing of itself."""
    facts = dict(row.candidates)
    failed = [name for name, each in facts.items() if "failed" in each and "lost" not in each]
    for name in failed[:1]:
        facts[name] = {**facts[name], "lost": True}
    for name in failed[1:]:
        del facts[name]
    return dataclasses.replace(row, candidates=facts)


def machine(device: jax.Device) -> dict[str, Any]:
    """Tell what a table is measured on."""
    return {
        "platform": device.platform,
        "device_kind": device.device_kind,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def computes(device: jax.Device) -> bool:
    """Tell whether a device still computes, as after some errors a GPU's process does not."""
    try:
        ones = jax.device_put(np.ones((8, 8), np.float32), device)
        return float((ones @ ones).sum()) == 8**3
    except Exception:
        return False


def cases_of(
    problems: Iterable[tuple[Problem, str]], programs: Sequence[Program] = ()
) -> list[Case]:
    """Return the cases of problems with their dtypes.

    Args:
        problems: layers and dtypes.
        programs: those asked for; of layers the three of the depthwise stage too. None: all that
            there are of a layer, or of a depthwise stage alone.
    """
    cases: dict[Case, None] = {}
    for problem, dtype in problems:
        for program in programs or problem.programs:
            of_layer = program in LAYER_PROGRAMS
            if of_layer and not problem.filters:
                continue
            stage = problem if of_layer else problem._replace(filters=0, limits="whole")
            cases[stage, program, dtype] = None
    return list(cases)


def tune(
    function: Callable[..., Any],
    *inputs: Any,
    folder: str | os.PathLike[str] | None = None,
    seconds: float = 0.25,
    device: jax.Device | None = None,
    **named: Any,
) -> Table:
    """Measure the layers of a model on the device that is there, and choose their lowerings.

    The model is traced, not run. Each of its layers is computed by every lowering that does not
    decline: the output and all gradients are judged by the definition in NumPy float64, then the
    output alone, and with all gradients, is timed. From the next process on programs that are
    lowered for such a device take what was fastest, and nothing that was wrong.

    Args:
        function: a model that can be called (an `nnx.Module`), `model.apply` of a linen module, or
            any other function.
        *inputs: its arguments: arrays, trees of them, or `jax.ShapeDtypeStruct`.
        folder: to write the table to; None: the user's, which programs go by.
        seconds: to time each candidate for.
        device: to measure on; None: JAX's first.
        **named: arguments of the function by name, as they are.

    Returns:
        The table as it is now, with earlier rows.

    Raises:
        ValueError: the model calls no such layer that can be measured.
        DeviceLostError: a lowering left the device in a state in which it computes no more.

    Example:
        >>> import contextlib, io, tempfile
        >>> from flax_sepconv.ops import separable_conv1d
        >>> def model(x, k, w):
        ...     return separable_conv1d(x, k, w, padding="same")
        >>> shapes = (2, 32, 8), (3, 8, 1), (1, 8, 4)
        >>> operands = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
        >>> with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        ...     table = tune(model, *operands, folder=folder, seconds=0.01)
        >>> [row.of.program for row in table.rows]
        ['forward', 'forward_backward']
    """
    problems, left_out = problems_of(function, *inputs, **named)
    for reason in left_out:
        print(f"left out: {reason}")
    if not problems:
        raise ValueError("the function calls no separable or depthwise convolution to be measured")
    folder = pathlib.Path(folder) if folder is not None else None
    device = device or jax.devices()[0]
    return run(cases_of(problems), device, folder, seconds=seconds)
