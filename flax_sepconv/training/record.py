"""What a run leaves behind while it runs: metrics.jsonl, TensorBoard events, a progress bar."""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import tensorboardX
import tqdm

from flax_sepconv.training.workdir import write_atomically

Row = dict[str, Any]


def read_rows(workdir: Path, until_step: int) -> list[Row]:
    """Return the recorded rows up to a step; a last line cut short by a crash is dropped."""
    file = workdir / "metrics.jsonl"
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            break
        if row["step"] > until_step:
            break
        rows.append(row)
    return rows


class Recorder:
    """Write each row to metrics.jsonl and to TensorBoard, and show it.

    A resumed run does again what came after its checkpoint. So both records are cut back to the
    checkpoint's step first (the event files are written anew), and no step is in them twice.
    """

    def __init__(self, workdir: Path, start: int, total: int, lines: int = 20) -> None:
        """Open the records of a run that stands at step `start` of `total`.

        Args:
          workdir: where the records are.
          start: steps done so far; 0 for a new run.
          total: steps of the whole run.
          lines: about how many lines to print when stderr is no terminal.
        """
        self.rows = read_rows(workdir, start)
        file = workdir / "metrics.jsonl"
        write_atomically(file, "".join(json.dumps(row) + "\n" for row in self.rows))
        shutil.rmtree(workdir / "tensorboard", ignore_errors=True)
        self._events = tensorboardX.SummaryWriter(str(workdir / "tensorboard"))
        for row in self.rows:
            self._add_events(row)
        self._file = file.open("a", encoding="utf-8")
        self._silent = not sys.stderr.isatty()
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
        self._file.close()
        self._events.close()

    def _add_events(self, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if name not in ("step", "epoch", "time"):
                self._events.add_scalar(name, value, row["step"], walltime=row["time"])

    def advance(self) -> None:
        """Move the bar by one step."""
        self._bar.update()

    def add(self, row: Row) -> None:
        """Record one row: a flat dict of numbers with ``step``, ``epoch`` and ``time``."""
        self.rows.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self._add_events(row)
        shown = {"loss": f"{row['loss']:.4f}", "accuracy": f"{row['accuracy']:.3f}"}
        if "validation_accuracy" in row:
            shown["validation"] = f"{row['validation_accuracy']:.3f}"
        shown["steps/s"] = f"{row['steps_per_second']:.0f}"
        self._bar.set_postfix(shown, refresh=False)
        if self._silent and (row["step"] >= self._next_line or row["step"] == self._total):
            self._next_line = row["step"] + self._every
            words = "  ".join(f"{name} {value}" for name, value in shown.items())
            place = f"epoch {row['epoch']:g}  step {row['step']}/{self._total}"
            print(f"{place}  {words}", file=sys.stderr)
