"""What a run leaves behind while it runs: metrics.jsonl, TensorBoard events, a progress bar."""

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import tqdm

from flax_sepconv.training.config import UserError
from flax_sepconv.training.console import is_terminal, say
from flax_sepconv.training.events import EventFile, event_files
from flax_sepconv.training.rows import Row, read_rows, score_of
from flax_sepconv.training.workdir import damaged_folder, write_atomically


class Recorder:
    """Write each row to metrics.jsonl and to TensorBoard, and show it.

    A resumed run does again what came after its checkpoint. So both records are cut back to the
    checkpoint's step first (the event files are written anew), and no step is in them twice. If
    rows are damaged or missing, what there was is kept in a folder beside.
    """

    def __init__(
        self, workdir: Path, start: int, total: int, every: int = 1, lines: int = 20
    ) -> None:
        """Open the records of a run that stands at step `start` of `total`.

        Args:
          workdir: where the records are.
          start: steps done so far; 0 for a new run.
          total: steps of the whole run.
          every: steps between two rows.
          lines: about how many lines to print when stderr is no terminal.

        Raises:
          UserError: something else is in their place.
          OSError: they cannot be read or written.
        """
        file, folder = workdir / "metrics.jsonl", workdir / "tensorboard"
        if file.exists() and not file.is_file():
            raise UserError(f"{file} is not a regular file: move it away")
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is not a folder: move it away")
        wanted = [step for step in range(1, start + 1) if step % every == 0 or step == total]
        found = read_rows(file, wanted, start)
        self.rows = found.good
        folder.mkdir(exist_ok=True)
        before = event_files(folder)
        with contextlib.ExitStack() as stack:
            self._events = stack.enter_context(contextlib.closing(EventFile(folder)))
            for row in self.rows:
                self._add_events(row)
            # Events of rows that are lost are worth keeping, if they are not lost as well.
            lost = len(self.rows) < len(wanted)
            size = sum(events.stat().st_size for events in before)
            old = before if lost and size > self._events.size() else []
            kept = damaged_folder(workdir) if found.bad or old else None
            if kept and found.bad:
                shutil.copy2(file, kept)
            write_atomically(file, "".join(json.dumps(row) + "\n" for row in self.rows))
            for events in before:
                if kept and events in old:
                    shutil.move(events, kept)
                else:
                    events.unlink()
            self._file = stack.enter_context(file.open("ab", buffering=0))
            self._stack = stack.pop_all()
        if trouble := found.trouble():
            where = f"; what was recorded is kept in {kept}" if kept else ""
            say(f"{file}: {trouble}{where}")
        self._silent = not is_terminal()
        self._every = max(1, total // lines)
        self._next_line = start
        self._total = total
        self._bar = tqdm.tqdm(
            total=total, initial=start, unit="step", disable=self._silent, dynamic_ncols=True
        )

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        self._stack.close()

    def _add_events(self, row: Mapping[str, Any]) -> None:
        values = {n: v for n, v in row.items() if n not in ("step", "epoch", "time")}
        self._events.add(row["step"], row["time"], values)

    def advance(self) -> None:
        """Move the bar by one step."""
        self._bar.update()

    def add(self, row: Row) -> None:
        """Record one row: a flat dict of numbers with ``step``, ``epoch`` and ``time``.

        Raises:
          OSError: it cannot be written.
        """
        self.rows.append(row)
        line = memoryview(json.dumps(row).encode() + b"\n")
        while line:  # a disk that is full may take a part of it first
            line = line[self._file.write(line) :]
        self._add_events(row)
        shown = {"loss": f"{row['loss']:.4f}", score_of(row): f"{row[score_of(row)]:.3f}"}
        if (validation := f"validation_{score_of(row)}") in row:
            shown["validation"] = f"{row[validation]:.3f}"
        shown["steps/s"] = f"{row['steps_per_second']:.0f}"
        self._bar.set_postfix(shown, refresh=False)
        if self._silent and (row["step"] >= self._next_line or row["step"] == self._total):
            self._next_line = row["step"] + self._every
            words = "  ".join(f"{name} {value}" for name, value in shown.items())
            say(f"epoch {row['epoch']:g}  step {row['step']}/{self._total}  {words}")
