"""The command `export`: a run's network as one file, and what runs it."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flax_sepconv.training import saving
from flax_sepconv.training.config import UserError
from flax_sepconv.training.trained import known
from flax_sepconv.training.workdir import Record

ENDINGS = {"jax": ".jax", "onnx": ".onnx", "litert": ".tflite"}
_CONVERTERS = {
    "jax": ("jax.export", "pip install flatbuffers"),
    "onnx": ("jax2onnx", "pip install 'flax-sepconv[tools]' and pip install --no-deps jax2onnx"),
    "litert": ("TensorFlow", "pip install tensorflow"),
}
# Largest difference of an answer, for a network that computes in that type.
TOLERANCES = {"float32": 1e-4, "bfloat16": 3e-2}
_PACKAGE = Path(__file__).parents[2]


def _converted(workdir: Path, checkpoint: str, form: str) -> tuple[bytes, dict[str, Any]]:
    """Return a file's contents and what is known of it, by a process that has one CPU device.

    Raises:
      UserError: the run will not do, or there is no converter, or it fails.
    """
    paths = [str(_PACKAGE), os.environ.get("PYTHONPATH", "")]
    ours = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    name, how = _CONVERTERS[form]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model")
        words = [str(workdir.absolute()), checkpoint, form, str(file)]
        ran = subprocess.run(
            [sys.executable, "-m", "flax_sepconv.training.converting", *words],
            env=os.environ | ours,
            capture_output=True,
            text=True,
        )
        try:
            told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
        except (ValueError, IndexError):
            last = (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[-1]
            told = {"failed": last[:300]}
        if "error" in told:
            raise UserError(told["error"])
        if "missing" in told:
            raise UserError(f"--format {form} needs {name}: {how} ({told['missing']})")
        if "failed" in told:
            raise UserError(f"{name} cannot convert this network: {told['failed']}")
        return file.read_bytes(), told


def _runner(model: Path, record: Record, channels: int) -> str:
    """Return the program that runs an artifact beside it."""
    spec = importlib.util.find_spec("flax_sepconv.training.exported_runner")
    assert spec is not None
    assert spec.origin is not None
    text = Path(spec.origin).read_text(encoding="utf-8")
    written = {
        "MODEL": model.name,
        "TASK": record.config.data.task,
        "CLASSES": record.classes,
        "CHANNELS": channels,
    }
    for name, value in written.items():
        line = re.search(rf"^{name}(: .*)? = .*$", text, re.MULTILINE)
        assert line is not None
        text = text.replace(line[0], f"{name}{line[1] or ''} = {value!r}")
    return text.replace("RUNNER", f"run_{model.stem}.py")


def run(
    *,
    workdir: Path,
    format: str,
    checkpoint: str | None,
    output: Path | None,
    write: Callable[[str], None],
) -> int:
    """Write a run's network as one file; with "jax" also the program that runs it.

    Args:
      workdir: of the run.
      format: "jax", "onnx" or "litert".
      checkpoint: which weights, "last" or "best"; None: those that the run was scored with.
      output: the file; None: ``model`` in the folder of the run.
      write: prints.

    Returns:
      The exit status, 0.

    Raises:
      UserError: the run will not do; there is no such converter here, or it fails, or what it made
        is not the network; or a file cannot be written.
    """
    record = known(workdir)
    kind = checkpoint or record.config.train.evaluate
    output = output or workdir / f"model{ENDINGS[format]}"
    contents, told = _converted(workdir, kind, format)
    difference, tolerance = told["difference"], TOLERANCES[record.config.model.dtype]
    if difference is not None and not difference <= tolerance:
        raise UserError(
            f"{_CONVERTERS[format][0]} made another network: an answer differs by "
            f"{difference:.1e}; nothing is written"
        )
    saving.save(output, contents)
    lines = [f"{output}: {kind} weights, {len(contents):,} bytes, any batch, {told['lengths']}"]
    if difference is None:
        lines.append("not tried: onnxruntime is not installed")
    else:
        lines.append(f"tried on CPU: answers differ by at most {difference:.1e}")
    if format == "jax":
        runner = output.with_name(f"run_{output.stem}.py")
        saving.save(runner, _runner(output, record, record.contents["TRAIN"].channels))
        lines.append(f"{runner}: runs it, where jax is installed")
    write("\n".join(lines))
    return 0
