"""A causal run that is quickly made, the command that streams it, and what is refused."""

import contextlib
import gc
import io
import resource
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from flax_sepconv.training import data
from flax_sepconv.training import step as steps
from flax_sepconv.training.__main__ import main
from flax_sepconv.training.checkpoint import Checkpoints
from flax_sepconv.training.config import from_config_dict
from flax_sepconv.training.model import SeparableResNet
from flax_sepconv.training.workdir import open_workdir

CONFIG = {
    "data": {"name": "BasicMotions"},
    "model": {
        "padding": "causal",
        "width": 8,
        "blocks": 2,
        "kernel_size": 3,
        "pool": 3,
        "differences": True,
        "fixed_filters": 2,
        "detail_gain": 4.0,
    },
}


def random_like(shapes, seed):
    """Return a tree of such shapes; what must be positive, variances, is."""
    rng = np.random.default_rng(seed)

    def some(path, leaf):
        low, high = (0.5, 1.5) if path[-1].key == "var" else (-0.7, 0.7)
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(some, shapes)


def make_run(workdir):
    """Leave in a folder what a causal run leaves; its weights are random ones."""
    config = from_config_dict(CONFIG)
    split, test = data.load(config.data)
    model = SeparableResNet(len(split.classes), config.model)
    state = steps.create_state(config, model, next(data.eval_batches(split, 1)), 1)
    state = state.replace(
        step=jnp.int32(7),
        averaged=random_like(state.averaged, 4),
        best=random_like(state.best, 3),
        best_step=jnp.int32(5),
    )
    with (
        open_workdir(workdir, config, split, test, resume=False),
        Checkpoints(workdir) as checkpoints,
    ):
        checkpoints.save(state)


@contextlib.contextmanager
def no_file_beyond(size):
    """Have the system refuse to make files longer, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        with warnings.catch_warnings(action="ignore"):
            gc.collect()  # writes that were begun: they complain when they are collected


def stream(monkeypatch, capsys, workdir, lines, *flags):
    """Run the command in this process; return its status, its output and its errors."""
    stdin = io.TextIOWrapper(io.BytesIO(lines.encode() if isinstance(lines, str) else lines))
    monkeypatch.setattr(sys, "stdin", stdin)
    capsys.readouterr()
    status = main(["stream", f"--workdir={workdir}", *flags])
    return status, *capsys.readouterr()


def refused(arguments, words, capsys):
    """Check that the command ends with status 2 and one line; return the line."""
    sys.modules.pop("config_config", None)  # where config_flags loads a file; one per process
    assert main(["train", *arguments]) == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    return lines[0]
