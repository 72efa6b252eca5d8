"""Run the exported network beside this file; it needs jax, flatbuffers and numpy.

From a shell: ``python RUNNER FILE``. A .npz file holds ``inputs`` (N, L, C) and, where series are
shorter than L, ``lengths`` (N,); a .npy file holds (N, L, C). Any other file is text: a line a
step, a number a channel, separated by spaces or commas; a blank line begins a new series. From
Python: ``predict(series)``. All numbers are in the unit of the data that the network learned of.
"""

import csv
import pathlib
import re
import sys
from collections.abc import Sequence

import jax
import numpy as np

# Written by the export.
MODEL = "model.jax"
TASK = "classification"
CLASSES: tuple[str, ...] = ()
CHANNELS = 0

_ROWS = 256  # computed at once


def predict(series: Sequence[np.ndarray]) -> np.ndarray:
    """Return what the network says of N series (L, C).

    The probabilities of the classes or of each label (N, classes); or values (N,).
    """
    for number, values in enumerate(series, 1):
        if values.ndim != 2 or not len(values) or values.shape[1] != CHANNELS:
            raise ValueError(
                f"series {number}: the shape must be (L, {CHANNELS}), got {values.shape}"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"series {number}: numbers must be finite")
    model = jax.export.deserialize(bytearray(pathlib.Path(__file__).with_name(MODEL).read_bytes()))
    found = []
    for start in range(0, len(series), _ROWS):
        rows = series[start : start + _ROWS]
        lengths = np.array([len(values) for values in rows], np.int32)
        inputs = np.zeros((len(rows), lengths.max(), CHANNELS), np.float32)
        for row, values in zip(inputs, rows, strict=True):
            row[: len(values)] = values
        found.append(np.asarray(model.call(inputs, lengths)))
    return np.concatenate(found)


def read(path: str) -> list[np.ndarray]:
    """Return the series in a file."""
    if path.endswith(".npy"):
        return list(np.load(path))
    if path.endswith(".npz"):
        with np.load(path) as file:
            inputs = file["inputs"]
            ends = file["lengths"] if "lengths" in file else [inputs.shape[1]] * len(inputs)
        if min(ends) < 1 or max(ends) > inputs.shape[1]:
            raise ValueError(f"lengths must be in 1..{inputs.shape[1]}")
        return [row[:end] for row, end in zip(inputs, ends, strict=True)]
    blocks = re.split(r"\n\s*\n", pathlib.Path(path).read_text(encoding="utf-8-sig").strip())
    lines = [block.replace(",", " ").splitlines() for block in blocks]
    return [np.array([line.split() for line in block], float) for block in lines]


def main() -> None:
    """Print a table of the series in the file that is named."""
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    try:
        answers = predict(read(sys.argv[1]))
    except (OSError, ValueError, KeyError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if TASK == "regression":
        writer.writerow(["id", "predicted"])
        writer.writerows([number, f"{value:.7g}"] for number, value in enumerate(answers, 1))
        return
    writer.writerow(["id", "predicted", *(f"probability_{name}" for name in CLASSES)])
    for number, row in enumerate(answers, 1):
        chosen = np.flatnonzero(row > 0.5) if TASK == "multilabel" else [row.argmax()]
        predicted = "|".join(CLASSES[i] for i in chosen)
        writer.writerow([number, predicted, *(f"{share:.7g}" for share in row)])


if __name__ == "__main__":
    main()
